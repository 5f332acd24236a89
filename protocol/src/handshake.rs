//! From an open socket to a session that takes commands: each state consumes itself. No I/O.
//!
//! `SSLRequest` → startup → authentication → parameters → ready (manual, section "Start-up").
//! Errors and notices of the server are for the caller to take out before they get here.

use std::collections::BTreeMap;

use bytes::BytesMut;
use postgres_protocol::message::frontend;

use crate::auth::{AuthError, AuthStep, Authentication, Credentials, Outgoing, Transport};
use crate::message::{Frame, ProtocolError, backend, tag};

/// The server's answer to `SSLRequest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsAnswer {
    /// TLS begins with the next byte.
    Willing,
    /// The server has no TLS; the connection goes on as it is.
    Unwilling,
}

/// The `SSLRequest` message.
#[must_use]
pub fn tls_request() -> BytesMut {
    let mut out = BytesMut::new();
    frontend::ssl_request(&mut out);
    out
}

/// Reads the one byte that answers [`tls_request`]. The caller reads exactly that byte: whatever
/// follows in the clear must reach TLS, where it fails (CVE-2021-23222).
///
/// # Errors
/// When it is neither yes nor no.
pub fn tls_answer(byte: u8) -> Result<TlsAnswer, ProtocolError> {
    match byte {
        b'S' => Ok(TlsAnswer::Willing),
        b'N' => Ok(TlsAnswer::Unwilling),
        other => Err(ProtocolError::Unexpected {
            tag: char::from(other),
            during: "in answer to SSLRequest",
        }),
    }
}

/// Why a handshake stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The login cannot go on.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The server sent what it may not.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

/// Everything the startup message and the login need.
pub struct Startup {
    /// Run-time parameters such as `database` and `replication`; the user is added.
    pub parameters: Vec<(&'static str, String)>,
    /// Who logs in.
    pub credentials: Credentials,
    /// What the login travels in.
    pub transport: Transport,
}

impl Startup {
    /// The startup message, and the state that waits for its answer.
    ///
    /// # Errors
    /// When a parameter holds a zero byte.
    pub fn begin(self) -> Result<(Outgoing, Handshake), HandshakeError> {
        let parameters = self
            .parameters
            .iter()
            .map(|(name, value)| (*name, value.as_str()));
        let parameters =
            std::iter::once(("user", self.credentials.user.as_str())).chain(parameters);
        let outgoing = Outgoing::build(|out| frontend::startup_message(parameters, out))?;
        let authentication = Authentication::new(self.credentials, self.transport);
        Ok((outgoing, Handshake::Authenticating(authentication)))
    }
}

/// A handshake under way.
pub enum Handshake {
    /// The server has not let us in yet.
    Authenticating(Authentication),
    /// It has, and tells its parameters.
    Settling(Greeting),
}

/// What to do after a message.
pub enum HandshakeStep {
    /// Send this, then wait for the next message.
    Send(Outgoing, Handshake),
    /// Wait for the next message.
    Wait(Handshake),
    /// The session takes commands.
    Ready(Greeting),
}

/// What the server told before it was ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Greeting {
    /// Its parameters, such as `server_version`.
    pub parameters: BTreeMap<String, String>,
    /// The process that serves us.
    pub backend_pid: i32,
}

impl Handshake {
    /// Takes the server's next message.
    ///
    /// # Errors
    /// When the login cannot go on or the message does not belong here.
    pub fn on(self, frame: &Frame) -> Result<HandshakeStep, HandshakeError> {
        match (self, frame.tag) {
            (Handshake::Authenticating(state), tag::AUTHENTICATION) => {
                Ok(match state.on(backend::authentication(frame)?)? {
                    AuthStep::Send(outgoing, next) => {
                        HandshakeStep::Send(outgoing, Handshake::Authenticating(next))
                    }
                    AuthStep::Wait(next) => HandshakeStep::Wait(Handshake::Authenticating(next)),
                    AuthStep::Accepted => {
                        HandshakeStep::Wait(Handshake::Settling(Greeting::default()))
                    }
                })
            }
            (Handshake::Settling(mut greeting), tag::PARAMETER_STATUS) => {
                let (name, value) = backend::parameter_status(frame)?;
                greeting.parameters.insert(name, value);
                Ok(HandshakeStep::Wait(Handshake::Settling(greeting)))
            }
            (Handshake::Settling(mut greeting), tag::BACKEND_KEY_DATA) => {
                greeting.backend_pid = backend::backend_pid(frame)?;
                Ok(HandshakeStep::Wait(Handshake::Settling(greeting)))
            }
            (Handshake::Settling(greeting), tag::READY_FOR_QUERY) => {
                Ok(HandshakeStep::Ready(greeting))
            }
            // Nothing was asked for that an older server could lack.
            (state, tag::NEGOTIATE_PROTOCOL_VERSION) => Ok(HandshakeStep::Wait(state)),
            _ => Err(ProtocolError::unexpected(frame, "during the handshake").into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::auth::{ChannelBinding, Password, Secret};

    fn begin() -> (Outgoing, Handshake) {
        let startup = Startup {
            parameters: vec![
                ("database", "replication".to_owned()),
                ("replication", "true".to_owned()),
            ],
            credentials: Credentials {
                user: "vault".to_owned(),
                password: Password::Known(Arc::new(Secret::new("secret".to_owned()))),
                channel_binding: ChannelBinding::Prefer,
            },
            transport: Transport::Plain,
        };
        startup.begin().expect("no zero byte")
    }

    fn frame(tag: u8, body: &[u8]) -> Frame {
        Frame {
            tag,
            body: Bytes::copy_from_slice(body),
        }
    }

    #[test]
    fn a_session_is_ready_after_consent_and_parameters() {
        let (outgoing, mut state) = begin();
        let body = b"\0\x03\0\0user\0vault\0database\0replication\0replication\0true\0\0";
        assert_eq!(&outgoing.bytes()[4..], body);
        for (tag, body) in [
            (b'v', &b""[..]),
            (b'R', &[0; 4]),
            (b'S', b"server_version\x0015.4\0"),
            (b'K', &[0, 0, 0, 9, 1, 2, 3, 4]),
        ] {
            state = match state.on(&frame(tag, body)) {
                Ok(HandshakeStep::Wait(next)) => next,
                _ => panic!("the handshake goes on"),
            };
        }
        let Ok(HandshakeStep::Ready(greeting)) = state.on(&frame(b'Z', b"I")) else {
            panic!("the session is ready");
        };
        assert_eq!(greeting.backend_pid, 9);
        assert_eq!(greeting.parameters["server_version"], "15.4");
    }

    #[test]
    fn nothing_is_ready_before_the_server_let_us_in() {
        for tag in [b'Z', b'S', b'K', b'D'] {
            assert!(begin().1.on(&frame(tag, b"a\0b\0I")).is_err());
        }
        assert!(tls_answer(b'E').is_err());
    }

    proptest! {
        #[test]
        fn no_server_message_panics(messages in prop::collection::vec((0usize..7, any::<Vec<u8>>()), 0..8)) {
            let (_, mut state) = begin();
            for (index, body) in messages {
                state = match state.on(&frame(b"RSKZvRR"[index], &body)) {
                    Ok(HandshakeStep::Send(_, next) | HandshakeStep::Wait(next)) => next,
                    Ok(HandshakeStep::Ready(_)) | Err(_) => begin().1,
                };
            }
        }
    }
}
