//! `[admin]`: the sidecar's own HTTP listener.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::reader::Section;
use crate::{ConfigError, Secret, values};

/// Fewer characters than this are guessed too easily.
const SHORTEST_TOKEN: usize = 16;

/// `[admin]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminSettings {
    /// `listen`: where to listen; `None` for `off`.
    pub listen: Option<SocketAddr>,
    /// `token` or `token_file`: what whoever asks for more than health has to show.
    pub token: Option<TokenSource>,
    /// `tls_cert` and `tls_key`: what to speak TLS with.
    pub tls: Option<AdminTls>,
}

/// Where the token comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// `token`
    Value(Secret),
    /// `token_file`: read again for every request, so that it can be exchanged.
    File(PathBuf),
}

/// A certificate with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminTls {
    /// `tls_cert`: the certificate and those that lead to its root, in PEM.
    pub cert: PathBuf,
    /// `tls_key`: its private key, in PEM.
    pub key: PathBuf,
}

impl Default for AdminSettings {
    fn default() -> AdminSettings {
        AdminSettings {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 9847))),
            token: None,
            tls: None,
        }
    }
}

impl AdminSettings {
    pub(super) fn read(mut section: Section) -> Result<AdminSettings, ConfigError> {
        let mut settings = AdminSettings::default();
        let listen = section.take("listen");
        if let Some(field) = &listen {
            settings.listen = match field.is("address and port, or `off`").text()?.as_str() {
                "off" => None,
                text => Some(text.parse().map_err(|_| {
                    field.invalid(format!(
                        "'{text}' is not an address; write it as \"127.0.0.1:9847\", \
                         \"[::1]:9847\", or \"off\""
                    ))
                })?),
            };
        }
        let value = section.take("token");
        let file = section.take("token_file");
        settings.token = match (value, file) {
            (Some(_), Some(file)) => {
                return Err(file.invalid("admin.token is set as well; keep one of the two"));
            }
            (Some(field), None) => {
                let token = Secret::new(field.text()?);
                if token.reveal().chars().count() < SHORTEST_TOKEN {
                    return Err(field.invalid(format!(
                        "it is too short; use at least {SHORTEST_TOKEN} random characters"
                    )));
                }
                Some(TokenSource::Value(token))
            }
            (None, Some(field)) => Some(TokenSource::File(values::path(field)?)),
            (None, None) => None,
        };
        let cert = section.take("tls_cert");
        let key = section.take("tls_key");
        settings.tls = match (cert, key) {
            (Some(cert), Some(key)) => Some(AdminTls {
                cert: values::path(cert)?,
                key: values::path(key)?,
            }),
            (None, None) => None,
            (Some(field), None) => return Err(field.invalid("set admin.tls_key as well")),
            (None, Some(field)) => return Err(field.invalid("set admin.tls_cert as well")),
        };
        section.finish()?;
        let exposed = settings.listen.filter(|at| !at.ip().is_loopback());
        if let (Some(at), Some(field)) = (exposed, listen)
            && (settings.tls.is_none() || settings.token.is_none())
        {
            return Err(field.invalid(format!(
                "{at} can be reached from other machines; set tls_cert, tls_key and token_file in \
                 [admin] as well, or listen on 127.0.0.1"
            )));
        }
        Ok(settings)
    }
}
