//! Authentication: what to answer to each request of the server. No I/O.
//!
//! The methods and the rules of channel binding are libpq's (`fe-auth.c`, `fe-auth-scram.c`;
//! RFC 5802, RFC 5929). A server that begins SCRAM has to finish it: proving that it knows the
//! password too is the half that protects the client.

use std::sync::Arc;

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding as Binding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::frontend;
use zeroize::Zeroizing;

use crate::message::backend::AuthRequest;

mod secret;

#[cfg(test)]
mod tests;

pub use secret::{Outgoing, Secret};

/// `channel_binding`: whether the login must be tied to the TLS connection it travels in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// Where both sides can.
    #[default]
    Prefer,
    /// Or not at all.
    Require,
}

/// What the login travels in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// A socket as it is.
    Plain,
    /// TLS. The hash of the server's certificate that `tls-server-end-point` binds to; `None`
    /// where its signature algorithm defines none.
    Tls(Option<Vec<u8>>),
}

/// The password, or why there is none.
#[derive(Clone)]
pub enum Password {
    /// This one.
    Known(Arc<Secret>),
    /// None; the reason, for the error if the server asks for one.
    Missing(String),
}

/// Who logs in, and how far the server is trusted.
#[derive(Clone)]
pub struct Credentials {
    /// The role.
    pub user: String,
    /// Its password.
    pub password: Password,
    /// Whether to bind to TLS.
    pub channel_binding: ChannelBinding,
}

/// Why a login stopped before the server refused it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The server asks for a password and there is none.
    #[error("the server asks for the password of user '{user}', but {why}")]
    NoPassword {
        /// The role.
        user: String,
        /// Why there is none.
        why: String,
    },
    /// A method that is not spoken here.
    #[error("the server asks for {0}; use scram-sha-256 or cert for this user in pg_hba.conf")]
    Unsupported(String),
    /// `channel_binding=require` could not be met.
    #[error(
        "channel binding is required, but {0}; use TLS and scram-sha-256, or channel_binding=prefer"
    )]
    ChannelBinding(&'static str),
    /// The SCRAM exchange went wrong on the server's side.
    #[error(
        "the server does not prove that it knows the password ({0}); make sure that it is the right server"
    )]
    Scram(String),
    /// A request that makes no sense now.
    #[error("the server sends {0} out of turn; make sure that it is a PostgreSQL server")]
    OutOfTurn(&'static str),
    /// A user name or password with a zero byte.
    #[error(
        "the user name or password holds a zero byte, which PostgreSQL does not allow; remove it"
    )]
    ZeroByte,
}

/// What to do after a request.
pub enum AuthStep {
    /// Send this, then wait for the next request.
    Send(Outgoing, Authentication),
    /// Wait for the next request.
    Wait(Authentication),
    /// The server let us in.
    Accepted,
}

/// A login under way.
pub struct Authentication {
    credentials: Credentials,
    transport: Transport,
    state: State,
}

enum State {
    /// Nothing was asked yet.
    Fresh,
    /// A password was sent.
    PasswordSent,
    /// SCRAM's first message was sent.
    ScramBegun {
        scram: Box<ScramSha256>,
        bound: bool,
    },
    /// SCRAM's proof was sent.
    ScramProved {
        scram: Box<ScramSha256>,
        bound: bool,
    },
    /// The server proved itself.
    ScramVerified { bound: bool },
}

impl Authentication {
    /// Begins a login.
    #[must_use]
    pub fn new(credentials: Credentials, transport: Transport) -> Authentication {
        Authentication {
            credentials,
            transport,
            state: State::Fresh,
        }
    }

    /// Answers the server's next request.
    ///
    /// # Errors
    /// When it cannot or must not be answered.
    pub fn on(self, request: AuthRequest) -> Result<AuthStep, AuthError> {
        let Authentication {
            credentials,
            transport,
            state,
        } = self;
        let (outgoing, state) = match (state, request) {
            (State::Fresh | State::PasswordSent, AuthRequest::Ok) => {
                credentials.refuse_unbound("the server did not ask for it")?;
                return Ok(AuthStep::Accepted);
            }
            (State::ScramVerified { bound }, AuthRequest::Ok) => {
                if !bound {
                    credentials.refuse_unbound("the login was not bound")?;
                }
                return Ok(AuthStep::Accepted);
            }
            (State::Fresh, AuthRequest::Cleartext) => {
                credentials.refuse_unbound("the server asks for the password in clear text")?;
                let password = credentials.password()?.expose();
                let outgoing = Outgoing::build(|out| frontend::password_message(password, out))?;
                (Some(outgoing), State::PasswordSent)
            }
            (State::Fresh, AuthRequest::Md5 { salt }) => {
                credentials.refuse_unbound("the server asks for an MD5 password")?;
                let password = credentials.password()?.expose();
                let hash = Zeroizing::new(md5_hash(credentials.user.as_bytes(), password, salt));
                let outgoing =
                    Outgoing::build(|out| frontend::password_message(hash.as_bytes(), out))?;
                (Some(outgoing), State::PasswordSent)
            }
            (State::Fresh, AuthRequest::Sasl { mechanisms }) => {
                let (mechanism, binding) =
                    choose(&mechanisms, &transport, credentials.channel_binding)?;
                let bound = mechanism == SCRAM_SHA_256_PLUS;
                let scram = Box::new(ScramSha256::new(credentials.password()?.expose(), binding));
                let outgoing = Outgoing::build(|out| {
                    frontend::sasl_initial_response(mechanism, scram.message(), out)
                })?;
                (Some(outgoing), State::ScramBegun { scram, bound })
            }
            (State::ScramBegun { mut scram, bound }, AuthRequest::SaslContinue(challenge)) => {
                let failed = |error: std::io::Error| AuthError::Scram(error.to_string());
                scram.update(&challenge).map_err(failed)?;
                let outgoing =
                    Outgoing::build(|out| frontend::sasl_response(scram.message(), out))?;
                (Some(outgoing), State::ScramProved { scram, bound })
            }
            (State::ScramProved { mut scram, bound }, AuthRequest::SaslFinal(proof)) => {
                let failed = |error: std::io::Error| AuthError::Scram(error.to_string());
                scram.finish(&proof).map_err(failed)?;
                (None, State::ScramVerified { bound })
            }
            (_, AuthRequest::Unsupported(method)) => {
                return Err(AuthError::Unsupported(method_name(method)));
            }
            (_, request) => return Err(AuthError::OutOfTurn(request_name(&request))),
        };
        let next = Authentication {
            credentials,
            transport,
            state,
        };
        Ok(match outgoing {
            Some(outgoing) => AuthStep::Send(outgoing, next),
            None => AuthStep::Wait(next),
        })
    }
}

impl Credentials {
    fn password(&self) -> Result<&Secret, AuthError> {
        match &self.password {
            Password::Known(secret) => Ok(secret),
            Password::Missing(why) => Err(AuthError::NoPassword {
                user: self.user.clone(),
                why: why.clone(),
            }),
        }
    }

    fn refuse_unbound(&self, why: &'static str) -> Result<(), AuthError> {
        match self.channel_binding {
            ChannelBinding::Require => Err(AuthError::ChannelBinding(why)),
            ChannelBinding::Prefer | ChannelBinding::Disable => Ok(()),
        }
    }
}

/// The mechanism to use and what to say of channel binding (`pg_SASL_init`).
fn choose(
    offered: &[String],
    transport: &Transport,
    policy: ChannelBinding,
) -> Result<(&'static str, Binding), AuthError> {
    let offers = |name: &str| offered.iter().any(|mechanism| mechanism == name);
    let hash = match transport {
        // Offered over plain TCP it was put there by somebody in between.
        Transport::Plain if offers(SCRAM_SHA_256_PLUS) => {
            return Err(AuthError::OutOfTurn(
                "an offer of channel binding without TLS",
            ));
        }
        Transport::Tls(Some(hash)) if policy != ChannelBinding::Disable => Some(hash),
        Transport::Plain | Transport::Tls(_) => None,
    };
    match hash {
        Some(hash) if offers(SCRAM_SHA_256_PLUS) => Ok((
            SCRAM_SHA_256_PLUS,
            Binding::tls_server_end_point(hash.clone()),
        )),
        _ if policy == ChannelBinding::Require => Err(AuthError::ChannelBinding(match transport {
            Transport::Plain => "the connection is not encrypted",
            Transport::Tls(None) => "the server's certificate has a signature that defines none",
            Transport::Tls(Some(_)) => "the server does not offer it",
        })),
        _ if !offers(SCRAM_SHA_256) => Err(AuthError::Unsupported(format!(
            "SASL by {}",
            offered.join(", ")
        ))),
        Some(_) => Ok((SCRAM_SHA_256, Binding::unrequested())),
        None => Ok((SCRAM_SHA_256, Binding::unsupported())),
    }
}

fn method_name(method: u32) -> String {
    match method {
        2 => "Kerberos V5".to_owned(),
        7 | 8 => "GSSAPI".to_owned(),
        9 => "SSPI".to_owned(),
        other => format!("authentication method {other}"),
    }
}

fn request_name(request: &AuthRequest) -> &'static str {
    match request {
        AuthRequest::Ok => "its consent",
        AuthRequest::Cleartext | AuthRequest::Md5 { .. } => "a request for a password",
        AuthRequest::Sasl { .. } => "a request for SASL",
        AuthRequest::SaslContinue(_) => "a SASL challenge",
        AuthRequest::SaslFinal(_) => "a SASL outcome",
        AuthRequest::Unsupported(_) => "an unknown request",
    }
}
