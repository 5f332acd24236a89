//! The values of a connection string, checked and typed.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::keywords::Values;
use super::{ConnInfo, ConnInfoError};
use crate::auth::{ChannelBinding, Secret};

/// Where Debian, Red Hat and the container images put the socket.
const SOCKET_DIRECTORY: &str = "/var/run/postgresql";
const PORT: u16 = 5432;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// One host to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::client) struct Host {
    /// Its name, or the directory of its socket.
    pub(in crate::client) name: String,
    /// Its address, where it must not be looked up.
    pub(in crate::client) address: Option<IpAddr>,
    pub(in crate::client) port: u16,
}

impl Host {
    /// The path of its socket, if it is one.
    pub(in crate::client) fn socket(&self) -> Option<PathBuf> {
        let local = self.address.is_none() && self.name.starts_with('/');
        local.then(|| Path::new(&self.name).join(format!(".s.PGSQL.{}", self.port)))
    }

    pub(in crate::client) fn endpoint(&self) -> String {
        match self.socket() {
            Some(path) => path.display().to_string(),
            None if self.name.contains(':') => format!("[{}]:{}", self.name, self.port),
            None => format!("{}:{}", self.name, self.port),
        }
    }
}

/// When a silent connection is probed. Unlike libpq's, the defaults notice a dead server within
/// two minutes, not two hours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::client) struct KeepAlive {
    pub(in crate::client) idle: Duration,
    pub(in crate::client) interval: Duration,
    pub(in crate::client) count: u32,
}

/// `sslmode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::client) enum SslMode {
    Disable,
    Allow,
    #[default]
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// `sslrootcert`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::client) enum RootCertificates {
    /// Those the operating system trusts.
    System,
    /// Those in a file, if it exists.
    File(PathBuf),
    /// There is nowhere to look.
    Nowhere,
}

/// `sslcert` and `sslkey`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::client) struct ClientCertificate {
    pub(in crate::client) certificate: PathBuf,
    pub(in crate::client) key: PathBuf,
    /// Whether it was asked for, or is shown only if it is there.
    pub(in crate::client) required: bool,
}

/// Everything about TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::client) struct TlsSettings {
    pub(in crate::client) mode: SslMode,
    pub(in crate::client) roots: RootCertificates,
    pub(in crate::client) client: Option<ClientCertificate>,
    pub(in crate::client) tls12: bool,
    pub(in crate::client) tls13: bool,
    pub(in crate::client) sni: bool,
    /// Whether TLS begins at once, without asking PostgreSQL first.
    pub(in crate::client) direct: bool,
}

/// `target_session_attrs`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::client) enum Target {
    #[default]
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

/// Builds the whole out of the values given.
pub(super) fn assemble(
    mut values: Values,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<ConnInfo, ConnInfoError> {
    let home = env("HOME")
        .filter(|home| !home.is_empty())
        .map(PathBuf::from);
    let user = values
        .text("user")
        .or_else(|| env("USER"))
        .or_else(|| env("LOGNAME"));
    let passfile = values.text("passfile").map(PathBuf::from);
    let name = values.text("application_name");
    let fallback = values.text("fallback_application_name");
    let timeout = values.read("connect_timeout", "whole seconds", |text| {
        text.trim().parse::<i64>().ok()
    })?;
    check_fixed(&mut values)?;
    let info = ConnInfo {
        hosts: hosts(&mut values)?,
        dbname: values.text("dbname"),
        user: user
            .filter(|user| !user.is_empty())
            .ok_or(ConnInfoError::NoUser)?,
        password: values
            .take("password")
            .map(|mut password| Arc::new(Secret::new(std::mem::take(&mut *password)))),
        passfile: passfile.or_else(|| home.as_ref().map(|home| home.join(".pgpass"))),
        application_name: name.or(fallback).unwrap_or_else(|| "walvault".to_owned()),
        options: values.text("options"),
        answer_timeout: None,
        #[cfg(feature = "synthetic")]
        dial: None,
        connect_timeout: match timeout {
            None => Some(CONNECT_TIMEOUT),
            // As in libpq: not positive waits for ever, and 1 counts as 2.
            Some(seconds) => u64::try_from(seconds)
                .ok()
                .filter(|seconds| *seconds > 0)
                .map(|seconds| Duration::from_secs(seconds.max(2))),
        },
        keepalive: keepalive(&mut values)?,
        tcp_user_timeout: values
            .read("tcp_user_timeout", "milliseconds", |text| {
                text.trim().parse().ok()
            })?
            .filter(|millis| *millis > 0)
            .map(Duration::from_millis),
        channel_binding: values
            .read("channel_binding", "disable, prefer or require", |text| {
                Some(match text {
                    "disable" => ChannelBinding::Disable,
                    "prefer" => ChannelBinding::Prefer,
                    "require" => ChannelBinding::Require,
                    _ => return None,
                })
            })?
            .unwrap_or_default(),
        target: target(&mut values)?,
        tls: tls(&mut values, home.as_deref())?,
    };
    debug_assert!(values.is_spent(), "every parameter accepted is honoured");
    Ok(info)
}

/// Parameters that may only say what is so anyway.
fn check_fixed(values: &mut Values) -> Result<(), ConnInfoError> {
    values.read("client_encoding", "UTF8", |text| {
        let text = text.to_ascii_lowercase();
        matches!(text.as_str(), "utf8" | "utf-8" | "auto").then_some(())
    })?;
    values.read("gssencmode", "disable or prefer", |text| {
        matches!(text, "disable" | "prefer").then_some(())
    })?;
    values.read("sslcompression", "0", |text| (text == "0").then_some(()))?;
    Ok(())
}

fn hosts(values: &mut Values) -> Result<Vec<Host>, ConnInfoError> {
    let split = |list: Option<String>| -> Vec<String> {
        list.map_or_else(Vec::new, |list| {
            list.split(',').map(|part| part.trim().to_owned()).collect()
        })
    };
    let names = split(values.text("host"));
    let addresses = split(values.text("hostaddr"));
    let ports = split(values.text("port"));
    if !names.is_empty() && !addresses.is_empty() && names.len() != addresses.len() {
        return Err(ConnInfoError::Conflict(
            "host and hostaddr name different numbers of hosts; give one address for each host",
        ));
    }
    let count = names.len().max(addresses.len()).max(1);
    if ports.len() > 1 && ports.len() != count {
        return Err(ConnInfoError::Conflict(
            "there are more ports than hosts or fewer; give one port, or one for each host",
        ));
    }
    let given =
        |list: &[String], index: usize| list.get(index).filter(|text| !text.is_empty()).cloned();
    (0..count)
        .map(|index| {
            let address = given(&addresses, index);
            let address = address
                .map(|text| {
                    text.parse().map_err(|_| ConnInfoError::Value {
                        keyword: "hostaddr",
                        value: text.clone(),
                        expected: "an IP address",
                    })
                })
                .transpose()?;
            let name = given(&names, index).unwrap_or_else(|| {
                address.map_or_else(|| SOCKET_DIRECTORY.to_owned(), |address: IpAddr| address.to_string())
            });
            let port = match given(&ports, if ports.len() == 1 { 0 } else { index }) {
                // Not repeated: in a URI with an unescaped '/' it is part of the password.
                Some(text) => text.parse().ok().filter(|port| *port > 0).ok_or(ConnInfoError::Conflict(
                    "a port is not a number from 1 to 65535; in a URI, write '/' as %2F and '@' as %40 in a password",
                ))?,
                None => PORT,
            };
            Ok(Host { name, address, port })
        })
        .collect()
}

fn keepalive(values: &mut Values) -> Result<Option<KeepAlive>, ConnInfoError> {
    let on = values.read("keepalives", "0 or 1", |text| {
        text.trim().parse::<i32>().ok()
    })?;
    let mut number = |keyword, default: u32| -> Result<u32, ConnInfoError> {
        let given = values.read(keyword, "a whole number", |text| {
            text.trim().parse::<u32>().ok()
        })?;
        Ok(given.filter(|number| *number > 0).unwrap_or(default))
    };
    let settings = KeepAlive {
        idle: Duration::from_secs(number("keepalives_idle", 60)?.into()),
        interval: Duration::from_secs(number("keepalives_interval", 10)?.into()),
        count: number("keepalives_count", 6)?,
    };
    Ok((on != Some(0)).then_some(settings))
}

fn target(values: &mut Values) -> Result<Target, ConnInfoError> {
    let expected = "any, read-write, read-only, primary, standby or prefer-standby";
    let target = values.read("target_session_attrs", expected, |text| {
        Some(match text {
            "any" => Target::Any,
            "read-write" => Target::ReadWrite,
            "read-only" => Target::ReadOnly,
            "primary" => Target::Primary,
            "standby" => Target::Standby,
            "prefer-standby" => Target::PreferStandby,
            _ => return None,
        })
    })?;
    Ok(target.unwrap_or_default())
}

fn tls(values: &mut Values, home: Option<&Path>) -> Result<TlsSettings, ConnInfoError> {
    let in_home = |file: &str| home.map(|home| home.join(".postgresql").join(file));
    let expected = "disable, allow, prefer, require, verify-ca or verify-full";
    let mode = values.read("sslmode", expected, |text| {
        Some(match text {
            "disable" => SslMode::Disable,
            "allow" => SslMode::Allow,
            "prefer" => SslMode::Prefer,
            "require" => SslMode::Require,
            "verify-ca" => SslMode::VerifyCa,
            "verify-full" => SslMode::VerifyFull,
            _ => return None,
        })
    })?;
    let roots = match values.text("sslrootcert") {
        Some(word) if word == "system" => RootCertificates::System,
        Some(path) => RootCertificates::File(path.into()),
        None => in_home("root.crt").map_or(RootCertificates::Nowhere, RootCertificates::File),
    };
    let mode = match (mode, &roots) {
        (None, RootCertificates::System) => SslMode::VerifyFull,
        (Some(mode), RootCertificates::System) if mode != SslMode::VerifyFull => {
            return Err(ConnInfoError::Conflict(
                "sslrootcert=system trusts every public authority and is safe only with sslmode=verify-full; set that",
            ));
        }
        (mode, _) => mode.unwrap_or_default(),
    };
    let version = |text: &str| match text {
        "TLSv1" | "TLSv1.1" | "TLSv1.2" => Some(2),
        "TLSv1.3" => Some(3),
        _ => None,
    };
    let expected = "TLSv1.2 or TLSv1.3";
    let least = values
        .read("ssl_min_protocol_version", expected, version)?
        .unwrap_or(2);
    let most = values
        .read("ssl_max_protocol_version", expected, |text| {
            version(text).filter(|_| matches!(text, "TLSv1.2" | "TLSv1.3"))
        })?
        .unwrap_or(3);
    if least > most {
        return Err(ConnInfoError::Conflict(
            "ssl_min_protocol_version is above ssl_max_protocol_version; no TLS version is left",
        ));
    }
    let direct = values.read("sslnegotiation", "postgres or direct", |text| match text {
        "postgres" => Some(false),
        "direct" => Some(true),
        _ => None,
    })?;
    if direct == Some(true) && mode < SslMode::Require {
        return Err(ConnInfoError::Conflict(
            "sslnegotiation=direct needs sslmode=require, verify-ca or verify-full; set one of them",
        ));
    }
    Ok(TlsSettings {
        mode,
        roots,
        client: client_certificate(values, in_home)?,
        tls12: least <= 2,
        tls13: most >= 3,
        sni: values.read("sslsni", "0 or 1", |text| match text {
            "0" => Some(false),
            "1" => Some(true),
            _ => None,
        })? != Some(false),
        direct: direct == Some(true),
    })
}

fn client_certificate(
    values: &mut Values,
    in_home: impl Fn(&str) -> Option<PathBuf>,
) -> Result<Option<ClientCertificate>, ConnInfoError> {
    let certificate = values.text("sslcert").map(PathBuf::from);
    let key = values.text("sslkey").map(PathBuf::from);
    let required = certificate.is_some();
    let paths = certificate
        .or_else(|| in_home("postgresql.crt"))
        .zip(key.or_else(|| in_home("postgresql.key")));
    match paths {
        Some((certificate, key)) => Ok(Some(ClientCertificate {
            certificate,
            key,
            required,
        })),
        None if required => Err(ConnInfoError::Conflict(
            "sslcert is given without its key; set sslkey",
        )),
        None => Ok(None),
    }
}
