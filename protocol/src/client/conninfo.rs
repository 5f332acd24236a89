//! Where and how to connect, in libpq's own notation.
//!
//! Manual, chapter "libpq", sections "Connection Strings", "Parameter Key Words", "Environment
//! Variables" and "The Password File". What is given in the text wins over the environment.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::{ChannelBinding, Secret};

mod keywords;
mod settings;
#[cfg(test)]
mod tests;
mod text;

pub(super) use settings::{
    ClientCertificate, Host, KeepAlive, RootCertificates, SslMode, Target, TlsSettings,
};

/// Where and how to connect. Cheap to clone; never prints the password.
#[derive(Clone)]
pub struct ConnInfo {
    pub(super) hosts: Vec<Host>,
    pub(super) dbname: Option<String>,
    pub(super) user: String,
    pub(super) password: Option<Arc<Secret>>,
    pub(super) passfile: Option<PathBuf>,
    pub(super) application_name: String,
    pub(super) options: Option<String>,
    /// For each address; `None` waits for ever.
    pub(super) connect_timeout: Option<Duration>,
    /// For each read of an answer; `None` waits for ever.
    pub(super) answer_timeout: Option<Duration>,
    pub(super) keepalive: Option<KeepAlive>,
    pub(super) tcp_user_timeout: Option<Duration>,
    pub(super) channel_binding: ChannelBinding,
    pub(super) target: Target,
    pub(super) tls: TlsSettings,
    #[cfg(feature = "synthetic")]
    pub(super) dial: Option<super::socket::Dial>,
}

/// A connection string that cannot be used. It never repeats what might be a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnInfoError {
    /// The text is neither a URI nor `key=value` pairs.
    #[error("the connection string {0}; write postgresql://user@host:5432/dbname or host=… user=…")]
    Syntax(&'static str),
    /// A parameter libpq does not have.
    #[error(
        "'{0}' is not a connection parameter; see \"Parameter Key Words\" in PostgreSQL's manual"
    )]
    Unknown(String),
    /// A parameter libpq has and walvault does not honour.
    #[error("the connection parameter '{keyword}' is not supported: {why}; remove it")]
    Unsupported {
        /// The parameter.
        keyword: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// A value its parameter does not take.
    #[error("the connection parameter '{keyword}' takes {expected}, not '{value}'")]
    Value {
        /// The parameter.
        keyword: &'static str,
        /// What was given.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
    /// Parameters that do not go together.
    #[error("{0}")]
    Conflict(&'static str),
    /// No user is named anywhere.
    #[error("no user is named; add user=… to the connection string or set PGUSER")]
    NoUser,
}

impl ConnInfo {
    /// Reads a URI or `key=value` pairs. `env` looks up `PGPASSWORD`, `PGPASSFILE`, `PGUSER`,
    /// `HOME` and the like.
    ///
    /// # Errors
    /// When the text is malformed, names an unknown or unsupported parameter, gives one a value
    /// it does not take, or when no user is named.
    pub fn parse(
        text: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<ConnInfo, ConnInfoError> {
        let mut values = keywords::Values::default();
        for (keyword, value) in text::pairs(text)? {
            values.set(&keyword, value)?;
        }
        values.fill_from(env)?;
        settings::assemble(values, env)
    }

    /// The same with another name in `pg_stat_activity` and `synchronous_standby_names`.
    #[must_use]
    pub fn with_application_name(mut self, name: &str) -> ConnInfo {
        name.clone_into(&mut self.application_name);
        self
    }

    /// The same for whoever must not wait for ever: a server that sends nothing of an answer for
    /// `limit` counts as lost. Streams and base backups wait as their caller decides.
    #[must_use]
    pub fn with_answer_timeout(mut self, limit: Duration) -> ConnInfo {
        self.answer_timeout = Some(limit);
        self
    }

    /// The same to a simulated server: `dial` opens each connection.
    #[cfg(feature = "synthetic")]
    #[must_use]
    pub fn with_dial(mut self, dial: super::socket::Dial) -> ConnInfo {
        self.dial = Some(dial);
        self
    }

    /// The name in `pg_stat_activity` and `synchronous_standby_names`; `walvault` by default.
    #[must_use]
    pub fn application_name(&self) -> &str {
        &self.application_name
    }

    /// Where, for messages: `host:port` or the socket's path, all of them where there are several.
    #[must_use]
    pub fn endpoint(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(Host::endpoint).collect();
        hosts.join(", ")
    }

    /// The database; the user's name unless one is given.
    #[must_use]
    pub fn dbname(&self) -> &str {
        self.dbname.as_deref().unwrap_or(&self.user)
    }

    /// The role.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }
}

impl fmt::Debug for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnInfo")
            .field("endpoint", &self.endpoint())
            .field("dbname", &self.dbname())
            .field("user", &self.user)
            .field("application_name", &self.application_name)
            .finish_non_exhaustive()
    }
}
