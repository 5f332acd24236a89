//! `walvaultd health`: asks the walvaultd that runs here whether it is well, for who has no other way to ask.
//!
//! A container's health check, for example, in an image that holds nothing but the two programs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Empty};
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use walvault_config::{AdminSettings, AdminTls};

use crate::admin::AdminError;
use crate::admin::pinned::OnlyThisCertificate;

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Ask whether it does its work (/readyz), not only whether it is alive (/livez)
    #[arg(long)]
    ready: bool,
}

/// Why it is not well, or nobody knows.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// There is nobody to ask.
    #[error("[admin] listen is \"off\"; set an address to ask at")]
    Off,
    /// It listens where nobody knows.
    #[error("[admin] listen has port 0, which means any; set a port to ask at")]
    AnyPort,
    /// Its certificate cannot be read.
    #[error(transparent)]
    Certificate(#[from] AdminError),
    /// It does not answer.
    #[error("{address}: {reason}; is walvaultd running, with this configuration?")]
    NoAnswer {
        /// Where it was asked.
        address: SocketAddr,
        /// What happened.
        reason: String,
    },
    /// It says so itself.
    #[error("{0}")]
    Unwell(String),
}

/// Asks, and returns when all is well.
///
/// # Errors
/// When it is not, or there is no answer.
pub async fn run(settings: &AdminSettings, arguments: Arguments) -> Result<(), HealthError> {
    let address = here(settings.listen.ok_or(HealthError::Off)?);
    if address.port() == 0 {
        return Err(HealthError::AnyPort);
    }
    let path = if arguments.ready { "/readyz" } else { "/livez" };
    let connector = settings.tls.as_ref().map(connector).transpose()?;
    let asked = tokio::time::timeout(PATIENCE, ask(address, connector, path));
    let failed = |reason| HealthError::NoAnswer { address, reason };
    let (status, body) = match asked.await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed(format!("no answer in {} s", PATIENCE.as_secs()))),
    };
    match status {
        StatusCode::OK => Ok(()),
        StatusCode::SERVICE_UNAVAILABLE => Err(HealthError::Unwell(reasons(&body))),
        other => Err(failed(format!("it answered {other}"))),
    }
}

/// Where a listener on every address is asked from its own machine.
fn here(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    address
}

/// The certificate need not be for this address: it must be the one in the file.
fn connector(files: &AdminTls) -> Result<TlsConnector, AdminError> {
    let verifier = OnlyThisCertificate::read(&files.cert)?;
    let provider = verifier.provider();
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the default versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn ask(
    address: SocketAddr,
    connector: Option<TlsConnector>,
    path: &str,
) -> Result<(StatusCode, Bytes), BoxError> {
    let stream = TcpStream::connect(address).await?;
    match connector {
        None => exchange(stream, address, path).await,
        Some(connector) => {
            let name = ServerName::from(address.ip());
            exchange(connector.connect(name, stream).await?, address, path).await
        }
    }
}

async fn exchange<S>(
    stream: S,
    address: SocketAddr,
    path: &str,
) -> Result<(StatusCode, Bytes), BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the sender.
    tokio::spawn(connection);
    let request = Request::get(path).header(HOST, address.to_string());
    let answer = sender
        .send_request(request.body(Empty::<Bytes>::new())?)
        .await?;
    let status = answer.status();
    Ok((status, answer.into_body().collect().await?.to_bytes()))
}

/// What does not hold, of an answer of the listener's.
fn reasons(body: &[u8]) -> String {
    let answer: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let conditions = answer["conditions"].as_array().into_iter().flatten();
    let failing = conditions.filter(|condition| condition["ok"] != true);
    let told: Vec<String> = failing
        .map(|condition| {
            let text = |name: &str| condition[name].as_str().unwrap_or("?").to_owned();
            format!("{}: {}", text("name"), text("reason"))
        })
        .collect();
    told.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_does_not_hold() {
        let body = br#"{"ok":false,"conditions":[{"name":"streaming","ok":true,"reason":null},
            {"name":"archive","ok":false,"reason":"for 12 s: no such bucket"}]}"#;
        assert_eq!(reasons(body), "archive: for 12 s: no such bucket");
        assert_eq!(reasons(b"<html>"), "");
    }

    #[test]
    fn a_listener_on_every_address_is_asked_on_this_machine() {
        for (listen, asked) in [
            ("0.0.0.0:9847", "127.0.0.1:9847"),
            ("[::]:9847", "[::1]:9847"),
            ("10.0.0.7:1", "10.0.0.7:1"),
        ] {
            assert_eq!(here(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
