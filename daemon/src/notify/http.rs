//! A client for a request now and then: HTTP/1.1, a connection each, over TLS unless the URL says otherwise.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

/// How long a request may take in all.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there was no answer, or none that says yes. The URL is not shown: it may hold a secret.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The certificates cannot be read.
    #[error("{path}: {reason}; check [notify] ca_file")]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It is no URL of a server.
    #[error("the URL in [notify] names no server; write https://host/path")]
    Url,
    /// No connection, or it broke.
    #[error("{host}: {reason}")]
    Connection {
        /// The server.
        host: String,
        /// What happened.
        reason: String,
    },
    /// Another answer than a good one.
    #[error("{host} answered {status}")]
    Status {
        /// The server.
        host: String,
        /// What it said.
        status: StatusCode,
    },
}

/// The client, with whom it trusts.
#[derive(Clone)]
pub struct Client {
    tls: TlsConnector,
}

impl Client {
    /// One that trusts the certificates in `ca_file`, or the system's.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn new(ca_file: Option<PathBuf>) -> Result<Client, HttpError> {
        let mut roots = RootCertStore::empty();
        match ca_file {
            Some(path) => {
                let failed = |reason: String| HttpError::Certificates {
                    path: path.clone(),
                    reason,
                };
                let certificates = CertificateDer::pem_file_iter(&path)
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .map_err(|error| failed(error.to_string()))?;
                for certificate in certificates {
                    roots
                        .add(certificate)
                        .map_err(|error| failed(error.to_string()))?;
                }
            }
            None => {
                // Some that are broken do no harm to the rest.
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has the default versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Client {
            tls: TlsConnector::from(Arc::new(config)),
        })
    }

    /// Sends a request; an answer of 2xx is a success.
    ///
    /// # Errors
    /// When there is none.
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<(), HttpError> {
        let url = Url::parse(url).map_err(|_| HttpError::Url)?;
        let host = url.host_str().ok_or(HttpError::Url)?.to_owned();
        let failed = |reason: String| HttpError::Connection {
            host: host.clone(),
            reason,
        };
        let sent = tokio::time::timeout(PATIENCE, self.exchange(method, &url, headers, body));
        let status = match sent.await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed(format!("no answer in {} s", PATIENCE.as_secs()))),
        };
        match status.is_success() {
            true => Ok(()),
            false => Err(HttpError::Status { host, status }),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        url: &Url,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<StatusCode, Box<dyn std::error::Error + Send + Sync>> {
        let host = url.host_str().unwrap_or_default();
        let bare = host.trim_matches(['[', ']']);
        let port = url.port_or_known_default().unwrap_or(443);
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, authority)
            .header(USER_AGENT, concat!("walvaultd/", env!("CARGO_PKG_VERSION")));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body))?;
        let stream = TcpStream::connect((bare, port)).await?;
        if url.scheme() == "http" {
            return ask(stream, request).await;
        }
        let name = ServerName::try_from(bare.to_owned())?;
        ask(self.tls.connect(name, stream).await?, request).await
    }
}

async fn ask<S>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> Result<StatusCode, Box<dyn std::error::Error + Send + Sync>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the sender.
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?.status())
}
