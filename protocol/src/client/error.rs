//! Why a session did not do what it was asked, sorted by what the caller does next.

use std::io;

use crate::auth::AuthError;
use crate::handshake::HandshakeError;
use crate::identity::ServerVersion;
use crate::message::{ProtocolError, ServerError};

/// Everything that can go wrong in a session.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection could be made. Try again later.
    #[error(
        "cannot reach PostgreSQL at {endpoint}: {source}; check that it runs there and that the network lets us through"
    )]
    Unreachable {
        /// Where.
        endpoint: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// The connection ended. Connect again.
    #[error("the connection to PostgreSQL at {endpoint} ended: {source}")]
    Lost {
        /// Where.
        endpoint: String,
        /// What the operating system says; `UnexpectedEof` when the server just closed.
        source: io::Error,
    },
    /// The server shut down in good order, after everything it sent was confirmed. Connect again.
    #[error("PostgreSQL at {endpoint} is shutting down")]
    Closed {
        /// Where.
        endpoint: String,
    },
    /// TLS could not be set up as `sslmode` wants it.
    #[error("TLS with {endpoint}: {reason}")]
    Tls {
        /// Where.
        endpoint: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The login stopped on our side.
    #[error("login at {endpoint}: {source}")]
    Auth {
        /// Where.
        endpoint: String,
        /// Why, and what to do.
        source: AuthError,
    },
    /// The server refused.
    #[error("PostgreSQL at {endpoint}: {error}")]
    Server {
        /// Where.
        endpoint: String,
        /// In the server's words.
        error: Box<ServerError>,
    },
    /// The server sent what a PostgreSQL server does not send.
    #[error("{endpoint} does not speak as PostgreSQL does: {source}; check what listens there")]
    Protocol {
        /// Where.
        endpoint: String,
        /// What was wrong.
        source: ProtocolError,
    },
    /// The server is too old for what was asked.
    #[error("PostgreSQL {version} at {endpoint} has no {what}; it takes {needs} or newer")]
    Unsupported {
        /// Where.
        endpoint: String,
        /// What it runs.
        version: ServerVersion,
        /// What it lacks.
        what: &'static str,
        /// The first version that has it.
        needs: ServerVersion,
    },
    /// The request itself makes no sense.
    #[error("{0}")]
    Request(String),
}

impl ClientError {
    pub(super) fn handshake(endpoint: &str, error: HandshakeError) -> ClientError {
        let endpoint = endpoint.to_owned();
        match error {
            HandshakeError::Auth(source) => ClientError::Auth { endpoint, source },
            HandshakeError::Protocol(source) => ClientError::Protocol { endpoint, source },
        }
    }

    /// The server's words, if it refused.
    #[must_use]
    pub fn server(&self) -> Option<&ServerError> {
        match self {
            ClientError::Server { error, .. } => Some(error),
            _ => None,
        }
    }

    /// The server's SQLSTATE, if it refused.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        self.server().map(|error| error.sqlstate.as_str())
    }

    /// Whether connecting again and repeating the request may succeed though nobody changes
    /// anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            ClientError::Unreachable { .. }
            | ClientError::Lost { .. }
            | ClientError::Closed { .. } => true,
            ClientError::Server { error, .. } => error.is_transient(),
            ClientError::Tls { .. }
            | ClientError::Auth { .. }
            | ClientError::Protocol { .. }
            | ClientError::Unsupported { .. }
            | ClientError::Request(_) => false,
        }
    }

    /// Whether, as the answer to streaming, it says that the WAL asked for is no longer on the
    /// server.
    #[must_use]
    pub fn is_wal_removed(&self) -> bool {
        self.server().is_some_and(ServerError::is_wal_removed)
    }

    /// Whether the slot asked for is in use by another connection.
    #[must_use]
    pub fn is_slot_in_use(&self) -> bool {
        self.sqlstate() == Some("55006")
    }

    /// Whether, as the answer to streaming, it says that the slot was invalidated, such as by
    /// `idle_replication_slot_timeout` (`ReplicationSlotAcquire` in `slot.c`). Other faults of a slot have
    /// this SQLSTATE too, and another routine.
    #[must_use]
    pub fn is_slot_invalid(&self) -> bool {
        self.server().is_some_and(|error| {
            error.sqlstate == "55000" && error.routine.as_deref() == Some("ReplicationSlotAcquire")
        })
    }

    /// Whether what was asked for, such as a slot, does not exist.
    #[must_use]
    pub fn is_undefined(&self) -> bool {
        self.sqlstate() == Some("42704")
    }
}
