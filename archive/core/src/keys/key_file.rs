//! A key file: 256 random bits as one line of text, for whoever may both seal and open.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::{Secret, SigningKey, private_file};

/// What the line that holds the key begins with.
pub(super) const PREFIX: &str = "walvault-key-1-";

/// What a key file holds.
pub struct KeyFile {
    secret: Secret,
    fingerprint: String,
}

/// Why a key file is not used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read or written.
    #[error("key file {path}: {source}; check [encryption] and the file's owner")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// It exists, and a key is never replaced.
    #[error(
        "key file {path} exists already, and a key is never replaced; choose another name, or keep using it"
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Others than its owner can read it.
    #[error(
        "key file {path} has mode {mode:04o}, so others can read it; run chmod 0600 {path} (a file owned by root may be 0640)"
    )]
    Loose {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is not a key file, or was altered.
    #[error(
        "key file {path} {reason}; make one with 'walvault keys generate --out FILE', or bring back the original"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No random bits.
    #[error("the operating system gave no random bits: {0}; check /dev/urandom")]
    Random(#[from] getrandom::Error),
}

impl KeyFile {
    /// Reads a key file.
    ///
    /// # Errors
    /// When it cannot be read, others can read it too, or it is not what `generate` wrote.
    pub fn read(path: &Path) -> Result<KeyFile, KeyFileError> {
        KeyFile::parse(&private_file::read(path)?)
            .map_err(|reason| private_file::malformed(path, reason))
    }

    /// Reads what a key file holds.
    pub(super) fn parse(text: &str) -> Result<KeyFile, &'static str> {
        parse(text).map(KeyFile::from_secret)
    }

    /// Makes a new key and writes it to `path`, mode 0600; an existing file is never replaced.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub fn generate(path: &Path) -> Result<KeyFile, KeyFileError> {
        let key = KeyFile::from_secret(Secret::generate()?);
        private_file::write_new(path, &key.to_text())?;
        Ok(key)
    }

    /// A key from bits that are secret already.
    #[must_use]
    pub fn from_secret(secret: Secret) -> KeyFile {
        let id = secret.derive(b"", &[b"walvault/v1/key-file-id"]);
        KeyFile {
            fingerprint: hex::encode(&id.expose()[..8]),
            secret,
        }
    }

    /// Sixteen hexadecimal digits that name the key and tell nothing of it.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(crate) fn secret(&self) -> &Secret {
        &self.secret
    }

    /// What its holder signs data keys with.
    #[must_use]
    pub fn writer(&self) -> SigningKey {
        SigningKey::from_seed(&self.secret.derive(b"", &[b"walvault/v1/writer"]))
    }

    fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new([0; 36]);
        bytes[..32].copy_from_slice(self.secret.expose());
        let crc = crc32c::crc32c(&bytes[..32]);
        bytes[32..].copy_from_slice(&crc.to_le_bytes());
        let line = Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes));
        Zeroizing::new(format!(
            "# walvault key {}: whoever has this line can read the archive; keep a copy away from it\n{PREFIX}{}\n",
            self.fingerprint, *line
        ))
    }
}

fn parse(text: &str) -> Result<Secret, &'static str> {
    let mut lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return Err("does not hold exactly one key");
    };
    let encoded = line
        .strip_prefix(PREFIX)
        .ok_or("does not hold a line that begins with walvault-key-1-")?;
    let mut bytes = Zeroizing::new([0u8; 36]);
    let decoded = URL_SAFE_NO_PAD.decode_slice(encoded, &mut *bytes);
    if decoded != Ok(36) {
        return Err("holds a key that is cut or altered");
    }
    let crc = u32::from_le_bytes(bytes[32..].try_into().expect("four bytes"));
    if crc != crc32c::crc32c(&bytes[..32]) {
        return Err("holds a key that was altered: its checksum does not match");
    }
    let mut secret = Zeroizing::new([0; 32]);
    secret.copy_from_slice(&bytes[..32]);
    Ok(Secret::from_bytes(&secret))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn a_generated_key_reads_back_and_is_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("key");
        let made = KeyFile::generate(&path).expect("a key");
        let read = KeyFile::read(&path).expect("the same key");
        assert_eq!(made.fingerprint(), read.fingerprint());
        assert_eq!(made.secret().expose(), read.secret().expose());
        assert_eq!(fs::metadata(&path).expect("the file").mode() & 0o777, 0o600);
        assert!(
            KeyFile::generate(&path).is_err(),
            "an existing key is never replaced"
        );
    }

    #[test]
    fn loose_modes_and_altered_keys_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("key");
        KeyFile::generate(&path).expect("a key");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
        assert!(matches!(
            KeyFile::read(&path),
            Err(KeyFileError::Loose { mode: 0o644, .. })
        ));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        let text = fs::read_to_string(&path).expect("text");
        let at = text.find(PREFIX).expect("the key") + PREFIX.len();
        for (index, _) in text.char_indices().skip(at).take(48) {
            let mut altered = text.clone().into_bytes();
            altered[index] = if altered[index] == b'A' { b'B' } else { b'A' };
            fs::write(&path, &altered).expect("write");
            assert!(
                matches!(KeyFile::read(&path), Err(KeyFileError::Malformed { .. })),
                "{index}"
            );
        }
    }
}
