//! The listener's certificate, which may be exchanged while it is in use.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use walvault_config::AdminTls;

use super::AdminError;

/// A certificate as its files last were.
pub struct Certificate {
    files: AdminTls,
    read: Option<(SystemTime, SystemTime)>,
    config: Arc<ServerConfig>,
}

impl Certificate {
    /// Reads it.
    ///
    /// # Errors
    /// When a file cannot be read, or the two do not belong together.
    pub fn load(files: AdminTls) -> Result<Certificate, AdminError> {
        let read = modified(&files);
        let config = Arc::new(read_config(&files)?);
        Ok(Certificate {
            files,
            read,
            config,
        })
    }

    /// What to accept a connection with: the files as they are now, or, should they be of no use, as they were.
    pub fn acceptor(&mut self) -> TlsAcceptor {
        let now = modified(&self.files);
        if now.is_some() && now != self.read {
            self.read = now;
            match read_config(&self.files) {
                Ok(config) => {
                    tracing::info!("the admin listener has a new certificate");
                    self.config = Arc::new(config);
                }
                Err(error) => {
                    tracing::error!(%error, "the admin listener keeps the certificate it had");
                }
            }
        }
        TlsAcceptor::from(self.config.clone())
    }
}

fn modified(files: &AdminTls) -> Option<(SystemTime, SystemTime)> {
    let of = |path: &Path| std::fs::metadata(path).ok()?.modified().ok();
    Some((of(&files.cert)?, of(&files.key)?))
}

fn read_config(files: &AdminTls) -> Result<ServerConfig, AdminError> {
    let failed = |path: &Path, reason: String| AdminError::Certificate {
        path: path.to_owned(),
        reason,
    };
    let chain = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(&files.cert, error.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| failed(&files.key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| failed(&files.cert, error.to_string()))
}
