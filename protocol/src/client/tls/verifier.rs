//! How far a server's certificate is believed.
//!
//! The chain is webpki's to check. Two habits of PostgreSQL installations that webpki does not
//! know are added, as OpenSSL and libpq have them: a self-signed certificate that is itself the
//! root certificate file, and a host name that stands only in the subject's common name
//! (`fe-secure-common.c`, `fe-secure-openssl.c`).

use std::net::IpAddr;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::certificate::Certificate;

/// Whom to trust.
#[derive(Debug)]
pub(super) enum Trust {
    /// Whoever answers: `sslmode=require` and below, without root certificates.
    Anybody,
    /// Whoever a root certificate vouches for.
    Roots {
        store: RootCertStore,
        /// The same certificates as they are in the file.
        certificates: Vec<CertificateDer<'static>>,
        /// Whether the certificate must also be for the host's name: `sslmode=verify-full`.
        check_name: bool,
    },
}

/// A verifier that holds the server to `Trust`.
#[derive(Debug)]
pub(super) struct Verifier {
    trust: Trust,
    host: String,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(super) fn new(trust: Trust, host: &str, algorithms: WebPkiSupportedAlgorithms) -> Verifier {
        Verifier {
            trust,
            host: host.to_owned(),
            algorithms,
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Trust::Roots {
            store,
            certificates,
            check_name,
        } = &self.trust
        else {
            return Ok(ServerCertVerified::assertion());
        };
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let chain = verify_server_cert_signed_by_trust_anchor(
            &parsed,
            store,
            intermediates,
            now,
            self.algorithms.all,
        );
        match chain {
            // webpki takes no authority's certificate for a server's; OpenSSL does.
            Err(_) if certificates.iter().any(|root| root == end_entity) => {
                verify_dates(end_entity, now)?;
            }
            outcome => outcome?,
        }
        if *check_name {
            match verify_server_name(&parsed, server_name) {
                Err(_) if common_name_fits(end_entity, &self.host) => {}
                outcome => outcome?,
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    // Signatures are verified in every mode: they prove that the server owns the certificate it
    // shows, on which channel binding rests.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn verify_dates(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let certificate = Certificate::parse(certificate);
    let certificate = certificate.map_err(|_| Error::from(CertificateError::BadEncoding))?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < certificate.not_before {
        Err(CertificateError::NotValidYet.into())
    } else if now > certificate.not_after {
        Err(CertificateError::Expired.into())
    } else {
        Ok(())
    }
}

/// Whether the common name is `host`'s, where no alternative name of the host's kind says
/// otherwise (RFC 6125, section 6.4.4).
fn common_name_fits(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let Ok(certificate) = Certificate::parse(certificate) else {
        return false;
    };
    let address = host.parse::<IpAddr>().is_ok();
    let overruled = if address {
        certificate.names_addresses
    } else {
        certificate.names_hosts
    };
    match certificate.common_name {
        Some(pattern) if !overruled => name_fits(pattern, host, address),
        _ => false,
    }
}

/// `*.example.org` fits exactly one more label, as in libpq's `wildcard_certificate_match`.
fn name_fits(pattern: &str, host: &str, address: bool) -> bool {
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    let suffix = pattern
        .strip_prefix('*')
        .filter(|suffix| suffix.starts_with('.') && suffix.len() > 1);
    match (suffix, host.find('.')) {
        (Some(suffix), Some(dot)) if !address && dot > 0 => {
            host[dot..].eq_ignore_ascii_case(suffix)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::name_fits;

    #[test]
    fn a_wildcard_stands_for_one_label() {
        assert!(name_fits("DB.example.org", "db.Example.org", false));
        assert!(name_fits("*.example.org", "db.example.org", false));
        for (pattern, host) in [
            ("*.example.org", "a.b.example.org"),
            ("*.example.org", "example.org"),
            ("*.example.org", ".example.org"),
            ("*", "db"),
            ("*.", "db."),
            ("d*.example.org", "db.example.org"),
        ] {
            assert!(!name_fits(pattern, host, false), "{pattern} {host}");
        }
        assert!(!name_fits("*.0.0.1", "127.0.0.1", true));
    }
}
