//! Files that hold secrets.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::KeyFileError;

/// No key is larger: ssh's largest are 16384 bits of RSA.
const LARGEST: u64 = 1 << 20;

/// Reads a file that nobody else may read. Its permissions are judged by the rule libpq applies to
/// private keys (manual, section "Client Certificates"): 0600 or less for one's own file, 0640 or
/// less for one that root owns.
pub(super) fn read(path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
    let io = |source| KeyFileError::Io {
        path: path.to_owned(),
        source,
    };
    let file = fs::File::open(path).map_err(io)?;
    // Of what was opened: a path may be another file a moment later.
    let metadata = file.metadata().map_err(io)?;
    let mode = metadata.mode() & 0o7777;
    let forbidden = if metadata.uid() == 0 { 0o137 } else { 0o177 };
    if mode & forbidden != 0 {
        return Err(KeyFileError::Loose {
            path: path.to_owned(),
            mode,
        });
    }
    if metadata.len() > LARGEST {
        return Err(malformed(path, "is too large to be one"));
    }
    let mut text = Zeroizing::new(String::with_capacity(metadata.len() as usize + 1));
    (&file)
        .take(LARGEST)
        .read_to_string(&mut text)
        .map_err(io)?;
    Ok(text)
}

/// An error about what a file holds.
pub(super) fn malformed(path: &Path, reason: impl Into<String>) -> KeyFileError {
    KeyFileError::Malformed {
        path: path.to_owned(),
        reason: reason.into(),
    }
}

/// Writes a new file that only its owner may read; an existing one is never replaced.
pub(super) fn write_new(path: &Path, text: &str) -> Result<(), KeyFileError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|source| match source.kind() {
        std::io::ErrorKind::AlreadyExists => KeyFileError::Exists {
            path: path.to_owned(),
        },
        _ => KeyFileError::Io {
            path: path.to_owned(),
            source,
        },
    })
}
