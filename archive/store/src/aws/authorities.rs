//! Certificates of authorities in a file, read again when the file was rewritten.
//!
//! The SDK reads certificates once. Authorities are exchanged by rewriting their file, before or
//! after the store presents a certificate of the new one.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

/// A client that trusts the certificates in the file `path`, as it is at each request.
///
/// # Errors
/// What is wrong with the file, with its name.
pub(super) fn http_client(path: &Path) -> Result<SharedHttpClient, String> {
    let seen = Seen::of(path).ok();
    let client = super::client_trusting(Some(path))?;
    Ok(SharedHttpClient::new(Rereading {
        path: path.to_owned(),
        current: Mutex::new(Current { seen, client }),
    }))
}

/// The client of the moment, and the file that it was made from.
#[derive(Debug)]
struct Rereading {
    path: PathBuf,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    seen: Option<Seen>,
    client: SharedHttpClient,
}

/// What tells one state of a file from another: its inode, its size, and when it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Seen {
    /// Follows links: a file of a Kubernetes Secret is one, and is exchanged as one.
    fn of(path: &Path) -> io::Result<Seen> {
        let meta = fs::metadata(path)?;
        Ok(Seen {
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        })
    }
}

impl Rereading {
    /// The client for the file as it is now. One that cannot be read, or used, changes nothing.
    fn current(&self) -> SharedHttpClient {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = Seen::of(&self.path).ok();
        if seen.is_some() && seen != current.seen {
            current.seen = seen;
            match super::client_trusting(Some(&self.path)) {
                Ok(client) => {
                    tracing::info!(ca_file = %self.path.display(), "the certificates to trust were read again");
                    current.client = client;
                }
                Err(reason) => tracing::warn!(
                    "the certificates that were trusted before stay: ca_file {reason}; mend the file"
                ),
            }
        }
        current.client.clone()
    }
}

impl HttpClient for Rereading {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        self.current().http_connector(settings, components)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_rewritten_or_exchanged_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("ca.pem"), folder.path().join("new.pem"));
        assert!(Seen::of(&file).is_err());
        fs::write(&file, "one").unwrap();
        let first = Seen::of(&file).unwrap();
        assert_eq!(Seen::of(&file).unwrap(), first);
        fs::write(&file, "another").unwrap();
        let second = Seen::of(&file).unwrap();
        assert_ne!(second, first);
        fs::write(&other, "another").unwrap();
        fs::rename(&other, &file).unwrap();
        assert_ne!(Seen::of(&file).unwrap(), second);
    }
}
