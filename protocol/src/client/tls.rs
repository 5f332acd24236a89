//! TLS as `sslmode` means it (manual, chapter "libpq", section "SSL Support").
//!
//! Files are read anew for every connection, so that renewed certificates need no restart.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

use super::conninfo::{ClientCertificate, RootCertificates, SslMode, TlsSettings};
use certificate::Certificate;
use verifier::{Trust, Verifier};

mod certificate;
mod verifier;

/// The protocol's name in TLS, which servers since 17 check (IANA, "TLS ALPN Protocol IDs").
const ALPN: &[u8] = b"postgresql";

/// Speaks TLS over `socket` with the server called `host`. The error says why not, and what to do.
pub(super) async fn connect(
    settings: &TlsSettings,
    host: &str,
    socket: TcpStream,
) -> Result<TlsStream<TcpStream>, String> {
    let trust = trust(settings).await?;
    let name = match ServerName::try_from(host.to_owned()) {
        Ok(name) => name,
        Err(_) if settings.mode == SslMode::VerifyFull => {
            return Err(format!(
                "'{host}' cannot stand in a certificate; name the host as its certificate does"
            ));
        }
        // Nobody looks at the name, but TLS wants one.
        Err(_) => ServerName::from(socket.peer_addr().map_err(|error| error.to_string())?.ip()),
    };
    let provider = Arc::new(ring::default_provider());
    let config = config(settings, trust, host, &provider).await?;
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector
        .connect(name, socket)
        .await
        .map_err(|error| explain(&error))?;
    // As libpq does (`pqsecure_open_client` in `fe-secure-openssl.c`): nobody said before that this is PostgreSQL.
    if settings.direct && stream.get_ref().1.alpn_protocol() != Some(ALPN) {
        return Err(
            "the server does not say in TLS that it speaks PostgreSQL's protocol; see what listens there, or use sslnegotiation=postgres"
                .to_owned(),
        );
    }
    Ok(stream)
}

/// What SCRAM binds to (`tls-server-end-point`, RFC 5929, section 4.1); `None` where the
/// certificate's signature algorithm defines no hash.
pub(super) fn server_end_point(stream: &TlsStream<TcpStream>) -> Option<Vec<u8>> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    Certificate::parse(certificate).ok()?.end_point_hash()
}

async fn config(
    settings: &TlsSettings,
    trust: Trust,
    host: &str,
    provider: &Arc<CryptoProvider>,
) -> Result<ClientConfig, String> {
    let mut versions = Vec::with_capacity(2);
    versions.extend(settings.tls13.then_some(&TLS13));
    versions.extend(settings.tls12.then_some(&TLS12));
    let verifier = Verifier::new(trust, host, provider.signature_verification_algorithms);
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&versions)
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity(settings.client.as_ref()).await? {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| format!("the client certificate and its key cannot be used: {error}; check sslcert and sslkey"))?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = settings.sni;
    Ok(config)
}

/// Whom to trust. As in libpq the root certificates are used in every mode when they are there;
/// only the verifying modes insist on them.
#[expect(clippy::disallowed_methods, reason = "this crate lies below the seam")]
async fn trust(settings: &TlsSettings) -> Result<Trust, String> {
    let must_verify = settings.mode >= SslMode::VerifyCa;
    let certificates = match &settings.roots {
        RootCertificates::System => {
            // Reads hundreds of files: not on a thread that serves sockets.
            let loaded = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
            let loaded = loaded.map_err(|error| error.to_string())?;
            if loaded.certs.is_empty() {
                return Err(
                    "the system has no trusted certificates; install ca-certificates".to_owned(),
                );
            }
            loaded.certs
        }
        RootCertificates::File(path) => match read_certificates(path).await {
            Ok(Some(certificates)) => certificates,
            Ok(None) if must_verify => {
                let path = path.display();
                return Err(format!(
                    "root certificate file {path} does not exist; put the authority's certificate there or set sslrootcert"
                ));
            }
            Ok(None) => return Ok(Trust::Anybody),
            Err(error) => return Err(error),
        },
        RootCertificates::Nowhere if must_verify => {
            return Err(
                "there is no root certificate to verify the server with; set sslrootcert"
                    .to_owned(),
            );
        }
        RootCertificates::Nowhere => return Ok(Trust::Anybody),
    };
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(certificates.iter().cloned());
    if added == 0 {
        return Err("none of the root certificates can be used; check sslrootcert".to_owned());
    }
    Ok(Trust::Roots {
        store,
        certificates,
        check_name: settings.mode == SslMode::VerifyFull,
    })
}

/// The certificates in the PEM file at `path`; `None` when there is no such file.
async fn read_certificates(path: &Path) -> Result<Option<Vec<CertificateDer<'static>>>, String> {
    let name = path.display();
    let pem = match tokio::fs::read(path).await {
        Ok(pem) => pem,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(format!(
                "{name} cannot be read: {error}; check its permissions"
            ));
        }
    };
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(Some(certificates)),
        Ok(_) => Err(format!(
            "{name} holds no certificate; it has to be a PEM file"
        )),
        Err(error) => Err(format!(
            "{name} is no PEM file of certificates: {error}; make it anew"
        )),
    }
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The certificate to show, with its key, where one is configured or in its usual place.
async fn identity(files: Option<&ClientCertificate>) -> Result<Option<Identity>, String> {
    let Some(files) = files else {
        return Ok(None);
    };
    let chain = match read_certificates(&files.certificate).await? {
        Some(chain) => chain,
        None if files.required => {
            return Err(format!(
                "client certificate {} does not exist; check sslcert",
                files.certificate.display()
            ));
        }
        None => return Ok(None),
    };
    let name = files.key.display();
    let unreadable = |error| {
        format!("client key {name} cannot be read: {error}; check sslkey and its permissions")
    };
    let metadata = tokio::fs::metadata(&files.key).await.map_err(unreadable)?;
    // libpq's rule: private to its owner, but root may let a group read it.
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.mode() & forbidden != 0 {
        return Err(format!(
            "others may read the client key {name}; set its mode to 0600, or 0640 when root owns it"
        ));
    }
    let pem = Zeroizing::new(tokio::fs::read(&files.key).await.map_err(unreadable)?);
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
        format!(
            "client key {name} holds no usable key: {error}; it has to be PEM and not encrypted"
        )
    })?;
    Ok(Some((chain, key)))
}

/// Why TLS failed, and what to do.
fn explain(error: &std::io::Error) -> String {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let remedy = match inner {
        Some(rustls::Error::InvalidCertificate(reason)) => match reason {
            CertificateError::UnknownIssuer => {
                "set sslrootcert to the certificate of the authority that signed the server's"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "connect by a name the certificate holds, or use sslmode=verify-ca"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "renew the server's certificate"
            }
            _ => "check ssl_cert_file on the server; it has to be an X.509 version 3 certificate",
        },
        Some(rustls::Error::AlertReceived(_)) => {
            "the server refuses; check the client certificate and the server's ssl settings"
        }
        _ => "check the server's ssl settings",
    };
    format!("{error}; {remedy}")
}
