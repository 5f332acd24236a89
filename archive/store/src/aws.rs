//! What walvault's AWS clients share: one HTTP and TLS stack, credentials that are read again, and errors told
//! with their causes.

use std::error::Error;
use std::path::Path;

use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

mod authorities;
pub mod credentials;

/// An HTTP client that trusts the system's certificates, or those in `ca_file` and no others. The
/// file is read again when it was rewritten.
///
/// # Errors
/// What is wrong with `ca_file`, with its name.
pub fn http_client(ca_file: Option<&Path>) -> Result<SharedHttpClient, String> {
    match ca_file {
        None => client_trusting(None),
        Some(path) => authorities::http_client(path),
    }
}

/// As [`http_client`], with the certificates that `ca_file` holds now.
fn client_trusting(ca_file: Option<&Path>) -> Result<SharedHttpClient, String> {
    let trust = match ca_file {
        None => TrustStore::default(),
        Some(path) => {
            let pem = read_certificates(path)
                .map_err(|reason| format!("'{}' {reason}", path.display()))?;
            TrustStore::empty().with_pem_certificate(pem)
        }
    };
    let context = TlsContext::builder().with_trust_store(trust).build();
    let context = context.map_err(|error| error.to_string())?;
    Ok(Builder::new()
        .tls_provider(Provider::rustls(CryptoMode::Ring))
        .tls_context(context)
        .build_https())
}

/// Reads certificates and checks each, because the HTTP client panics on one it cannot use.
fn read_certificates(path: &Path) -> Result<Vec<u8>, String> {
    let pem = std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| format!("is not PEM: {error}"))?;
        roots
            .add(certificate)
            .map_err(|error| format!("holds a certificate that cannot be used: {error}"))?;
    }
    if roots.is_empty() {
        return Err("holds no certificate".to_owned());
    }
    Ok(pem)
}

/// An error with its causes, each once.
pub fn describe(error: &(dyn Error + 'static)) -> String {
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = next.to_string();
        if !reason.contains(&text) {
            reason = format!("{reason}: {text}");
        }
        cause = next.source();
    }
    reason
}
