//! From connection parameters to a session: which hosts, with or without TLS, in which order.
//!
//! The order is libpq's (`PQconnectPoll`): hosts as they are given, every address of a host,
//! TLS before or after plain text as `sslmode` says. Only what never reached a server, a server
//! that is starting or stopping, and a server of the wrong kind lead on to the next host.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::connection::Connection;
use super::conninfo::{ConnInfo, Host, SslMode, Target};
use super::error::ClientError;
use super::passfile::{self, Lookup};
use super::session::{Mode, Session};
use super::socket::{self, Socket};
use super::tls;
use crate::auth::{Credentials, Password, Transport};
use crate::handshake::{HandshakeStep, Startup, TlsAnswer, tls_answer, tls_request};

/// Connects to the first host that will have us.
pub(super) async fn connect(info: &ConnInfo, mode: Mode) -> Result<Session, ClientError> {
    let targets: &[Target] = match info.target {
        Target::PreferStandby => &[Target::Standby, Target::Any],
        ref target => std::slice::from_ref(target),
    };
    let mut failures = Vec::new();
    for target in targets {
        for host in &info.hosts {
            for address in addresses(host).await {
                let outcome = match address {
                    Ok(address) => attempts(info, mode, host, address, *target).await,
                    Err(error) => Err(unreachable(host, error)),
                };
                match outcome {
                    Ok(session) => return Ok(session),
                    Err(error) if leads_on(&error) => failures.push(error),
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Err(combine(info, failures))
}

/// Where a host is.
#[derive(Debug, Clone, Copy)]
enum Address {
    Tcp(SocketAddr),
    Unix,
}

async fn addresses(host: &Host) -> Vec<io::Result<Address>> {
    if host.socket().is_some() {
        return vec![Ok(Address::Unix)];
    }
    if let Some(address) = host.address {
        return vec![Ok(Address::Tcp(SocketAddr::new(address, host.port)))];
    }
    match tokio::net::lookup_host((host.name.as_str(), host.port)).await {
        Ok(found) => found.map(|address| Ok(Address::Tcp(address))).collect(),
        Err(error) => vec![Err(error)],
    }
}

fn leads_on(error: &ClientError) -> bool {
    matches!(error, ClientError::Unreachable { .. }) || error.sqlstate() == Some("57P03")
}

/// One error for all hosts.
fn combine(info: &ConnInfo, mut failures: Vec<ClientError>) -> ClientError {
    if failures.len() > 1 {
        let mut told: Vec<String> = Vec::new();
        for failure in &failures {
            let text = match failure {
                ClientError::Unreachable { endpoint, source } => format!("{endpoint}: {source}"),
                other => other.to_string(),
            };
            if !told.contains(&text) {
                told.push(text);
            }
        }
        return ClientError::Unreachable {
            endpoint: info.endpoint(),
            source: io::Error::other(told.join("; ")),
        };
    }
    failures.pop().unwrap_or_else(|| ClientError::Unreachable {
        endpoint: info.endpoint(),
        source: io::Error::new(io::ErrorKind::NotFound, "the host has no address"),
    })
}

fn unreachable(host: &Host, source: io::Error) -> ClientError {
    ClientError::Unreachable {
        endpoint: host.endpoint(),
        source,
    }
}

/// How one attempt treats TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encryption {
    No,
    /// If the server is willing.
    IfWilling,
    Yes,
}

/// Tries one address, with and without TLS as `sslmode` has it.
async fn attempts(
    info: &ConnInfo,
    mode: Mode,
    host: &Host,
    address: Address,
    target: Target,
) -> Result<Session, ClientError> {
    let plan: &[Encryption] = match (address, info.tls.mode) {
        (Address::Unix, _) | (_, SslMode::Disable) => &[Encryption::No],
        (_, SslMode::Allow) => &[Encryption::No, Encryption::Yes],
        (_, SslMode::Prefer) => &[Encryption::IfWilling, Encryption::No],
        (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => &[Encryption::Yes],
    };
    let mut first: Option<ClientError> = None;
    for encryption in plan {
        let attempt = attempt(info, mode, host, address, *encryption, target);
        let outcome = match info.connect_timeout {
            Some(limit) => tokio::time::timeout(limit, attempt)
                .await
                .unwrap_or_else(|_| Err(timed_out(host, limit))),
            None => attempt.await,
        };
        let error = match outcome {
            Ok(session) => return Ok(session),
            Err(error) => error,
        };
        let refused = matches!(error, ClientError::Server { .. } | ClientError::Tls { .. });
        first = Some(match first {
            // What the server said to the encrypted attempt is the answer worth telling.
            Some(told @ ClientError::Server { .. }) if *encryption == Encryption::No => told,
            _ => error,
        });
        if !refused {
            break;
        }
    }
    Err(first.unwrap_or_else(|| unreachable(host, io::ErrorKind::Other.into())))
}

fn timed_out(host: &Host, limit: Duration) -> ClientError {
    let text = format!("no session within {} s", limit.as_secs());
    unreachable(host, io::Error::new(io::ErrorKind::TimedOut, text))
}

/// One connection, from the socket to a session of the right kind.
async fn attempt(
    info: &ConnInfo,
    mode: Mode,
    host: &Host,
    address: Address,
    encryption: Encryption,
    target: Target,
) -> Result<Session, ClientError> {
    let (socket, transport) = open(info, host, address, encryption).await?;
    let mut connection = Connection::new(socket, host.endpoint());
    let startup = Startup {
        parameters: parameters(info, mode),
        credentials: Credentials {
            user: info.user.clone(),
            password: password(info, mode, host).await,
            channel_binding: info.channel_binding,
        },
        transport,
    };
    let failed = |error| ClientError::handshake(&host.endpoint(), error);
    let (outgoing, mut state) = startup.begin().map_err(failed)?;
    connection.send(outgoing).await?;
    let greeting = loop {
        let frame = connection.greeting_frame().await?;
        state = match state.on(&frame).map_err(failed)? {
            HandshakeStep::Send(outgoing, next) => {
                connection.send(outgoing).await?;
                next
            }
            HandshakeStep::Wait(next) => next,
            HandshakeStep::Ready(greeting) => break greeting,
        };
    };
    connection.settle(greeting.parameters);
    let mut session = Session::new(connection, greeting.backend_pid, info.answer_timeout)?;
    match session.is_of_kind(target).await {
        Ok(None) => Ok(session),
        Ok(Some(why)) => {
            session.close().await;
            Err(unreachable(host, io::Error::other(why)))
        }
        Err(error) => Err(error),
    }
}

/// Opens the socket and, if it is to be, TLS on it.
async fn open(
    info: &ConnInfo,
    host: &Host,
    address: Address,
    encryption: Encryption,
) -> Result<(Socket, Transport), ClientError> {
    let unreachable = |error| unreachable(host, error);
    #[cfg(feature = "synthetic")]
    if let Some(dial) = &info.dial {
        let stream = dial().map_err(unreachable)?;
        return Ok((Socket::Simulated(stream), Transport::Plain));
    }
    let address = match address {
        Address::Tcp(address) => address,
        Address::Unix => {
            let path = host.socket().unwrap_or_default();
            let socket = socket::unix(&path).await.map_err(unreachable)?;
            return Ok((socket, Transport::Plain));
        }
    };
    let mut stream = socket::tcp(info, address).await.map_err(unreachable)?;
    let willing = match encryption {
        Encryption::No => false,
        Encryption::IfWilling | Encryption::Yes if info.tls.direct => true,
        Encryption::IfWilling | Encryption::Yes => ask_for_tls(&mut stream, host).await?,
    };
    let failed = |reason| ClientError::Tls {
        endpoint: host.endpoint(),
        reason,
    };
    if willing {
        let stream = tls::connect(&info.tls, &host.name, stream)
            .await
            .map_err(failed)?;
        let transport = Transport::Tls(tls::server_end_point(&stream));
        Ok((Socket::Tls(Box::new(stream)), transport))
    } else if encryption == Encryption::Yes {
        Err(failed(
            "the server does not offer it; set ssl = on there, or choose another sslmode"
                .to_owned(),
        ))
    } else {
        Ok((Socket::Tcp(stream), Transport::Plain))
    }
}

async fn ask_for_tls(stream: &mut TcpStream, host: &Host) -> Result<bool, ClientError> {
    let unreachable = |error| unreachable(host, error);
    stream
        .write_all(&tls_request())
        .await
        .map_err(unreachable)?;
    let byte = stream.read_u8().await.map_err(unreachable)?;
    match tls_answer(byte) {
        Ok(answer) => Ok(answer == TlsAnswer::Willing),
        Err(source) => Err(ClientError::Protocol {
            endpoint: host.endpoint(),
            source,
        }),
    }
}

/// The database a physical replication connection is for, as libpq's tools name it. The server
/// ignores it; poolers and password files do not.
const REPLICATION: &str = "replication";

fn parameters(info: &ConnInfo, mode: Mode) -> Vec<(&'static str, String)> {
    let mut parameters = vec![
        ("application_name", info.application_name.clone()),
        ("client_encoding", "UTF8".to_owned()),
    ];
    match mode {
        Mode::Replication => {
            let database = info.dbname.as_deref().unwrap_or(REPLICATION);
            parameters.push(("database", database.to_owned()));
            parameters.push(("replication", "true".to_owned()));
        }
        Mode::Regular => parameters.push(("database", info.dbname().to_owned())),
    }
    parameters.extend(info.options.clone().map(|options| ("options", options)));
    parameters
}

async fn password(info: &ConnInfo, mode: Mode, host: &Host) -> Password {
    if let Some(secret) = &info.password {
        return Password::Known(Arc::clone(secret));
    }
    let Some(path) = &info.passfile else {
        return Password::Missing(
            "none is configured; give it in the URL, PGPASSWORD or a password file".to_owned(),
        );
    };
    let both = [REPLICATION, info.dbname()];
    let databases = match mode {
        Mode::Replication => &both[..],
        Mode::Regular => &both[1..],
    };
    let lookup = Lookup {
        host: &host.name,
        port: host.port,
        databases,
        user: &info.user,
    };
    match passfile::read(path, lookup).await {
        Ok(secret) => Password::Known(Arc::new(secret)),
        Err(why) => Password::Missing(why),
    }
}
