//! The admin listener: health, metrics and orders over HTTP.
//!
//! Owns who may ask what. It runs on a thread of its own, so that it answers while the machine is busy, and says so when
//! the main loop does not turn. What it answers is `metrics::Live`'s knowledge; what it is ordered, others do.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use walvault_config::AdminSettings;

pub mod access;
mod backups;
mod page;
pub mod pinned;
pub mod routes;
mod tls;

pub use routes::Routes;

use access::Access;
use tls::Certificate;

/// Connections at once; for one more, the oldest ends: whoever holds them open keeps nobody from asking for health.
const CONNECTIONS: usize = 64;
/// How long a client may take to say what it wants.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// Why there is no admin listener.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address is taken, or not ours.
    #[error(
        "cannot listen on {address}: {source}; if another walvaultd runs here, give one of them another [admin] listen, or \"off\""
    )]
    Listen {
        /// Where it was to listen.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error("{path}: {reason}; check [admin] tls_cert and tls_key")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The token cannot be used.
    #[error("{path}: {reason}; check [admin] token_file")]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system gives no thread.
    #[error("cannot start the admin listener: {0}")]
    Thread(std::io::Error),
}

/// A bound listener. Bound before anything else begins, so that a port that is taken is said at once.
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
    access: Access,
    certificate: Option<Certificate>,
}

impl Admin {
    /// Binds what `settings` say; `None` when they say `off`.
    ///
    /// # Errors
    /// When the port is taken, or the certificate or the token cannot be used.
    pub fn bind(settings: &AdminSettings) -> Result<Option<Admin>, AdminError> {
        let Some(address) = settings.listen else {
            return Ok(None);
        };
        let access = Access::new(settings.token.clone(), !address.ip().is_loopback());
        access.check()?;
        let certificate = settings.tls.clone().map(Certificate::load).transpose()?;
        let failed = |source| AdminError::Listen { address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Some(Admin {
            listener,
            address,
            access,
            certificate,
        }))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers on a thread of its own, as long as the process lives.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn serve(self, routes: Routes) -> Result<(), AdminError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(AdminError::Thread)?;
        tracing::info!(
            address = %self.address,
            tls = self.certificate.is_some(),
            "the admin listener answers"
        );
        std::thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || runtime.block_on(self.accept(routes)))
            .map_err(AdminError::Thread)?;
        Ok(())
    }

    async fn accept(mut self, routes: Routes) {
        let listener = match tokio::net::TcpListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "the admin listener does not answer; restart walvaultd");
                return;
            }
        };
        let (routes, access) = (Arc::new(routes), Arc::new(self.access));
        let mut open: VecDeque<AbortHandle> = VecDeque::new();
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection to the admin listener was not taken");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            let acceptor = self.certificate.as_mut().map(Certificate::acceptor);
            open.retain(|connection| !connection.is_finished());
            if open.len() >= CONNECTIONS
                && let Some(oldest) = open.pop_front()
            {
                oldest.abort();
            }
            let conversation = converse(stream, acceptor, routes.clone(), access.clone());
            open.push_back(tokio::spawn(conversation).abort_handle());
        }
    }
}

/// Serves one connection to its end. What goes wrong on it is the client's concern.
async fn converse(
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    routes: Arc<Routes>,
    access: Arc<Access>,
) {
    let service = service_fn(move |request| {
        let (routes, access) = (routes.clone(), access.clone());
        async move { Ok::<_, std::convert::Infallible>(routes.answer(request, &access).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    let ended = match acceptor {
        None => http.serve_connection(TokioIo::new(stream), service).await,
        Some(acceptor) => match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => http.serve_connection(TokioIo::new(stream), service).await,
            Ok(Err(error)) => {
                tracing::debug!(%error, "no TLS with a client of the admin listener");
                return;
            }
            Err(_) => return,
        },
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the admin listener ended early");
    }
}

#[cfg(test)]
mod tests;
