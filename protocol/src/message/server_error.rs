//! Errors and notices as the server words them, and what an operator can do about them.

use std::fmt;

use super::{Frame, ProtocolError, backend::c_str_lossy};
use crate::codec::Reader;

/// An `ErrorResponse` or a `NoticeResponse`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR`, `FATAL`, `WARNING` and so on; English on every server walvault speaks to.
    pub severity: String,
    /// The five characters of the manual's appendix "PostgreSQL Error Codes".
    pub sqlstate: String,
    /// The primary message, in the server's language.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What the server suggests.
    pub hint: Option<String>,
    /// The function of PostgreSQL's source that says so, in no language.
    pub routine: Option<String>,
}

impl std::error::Error for ServerError {}

impl ServerError {
    /// Reads the fields of `frame`, an error or a notice.
    ///
    /// # Errors
    /// When a field has no end.
    pub fn decode(frame: &Frame) -> Result<ServerError, ProtocolError> {
        let mut error = ServerError {
            severity: "ERROR".to_owned(),
            sqlstate: "XX000".to_owned(),
            message: String::new(),
            detail: None,
            hint: None,
            routine: None,
        };
        let mut reader = Reader::new(&frame.body);
        let malformed = |source| ProtocolError::body(frame.tag, source);
        while !reader.is_empty() {
            let field = reader.u8("field type").map_err(malformed)?;
            if field == 0 {
                break;
            }
            let text = c_str_lossy(&mut reader, "field").map_err(malformed)?;
            match field {
                b'V' => error.severity = text,
                b'C' => error.sqlstate = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'R' => error.routine = Some(text),
                b'H' => error.hint = Some(text),
                _ => {}
            }
        }
        Ok(error)
    }

    /// Whether the server closes the connection after it.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity.as_str(), "FATAL" | "PANIC")
    }

    /// Whether the same request may succeed later though nobody changes anything: the server is
    /// starting, stopping, short of resources or busy with what we ask for.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self.sqlstate.as_str() {
            "53400" => false,
            "55006" | "55P03" | "57P01" | "57P02" | "57P03" | "57P05" | "58030" => true,
            code => ["08", "40", "53"]
                .iter()
                .any(|class| code.starts_with(class)),
        }
    }

    /// Whether, as the answer to streaming, it says that the WAL asked for is no longer on the
    /// server (`WalSndSegmentOpen` and `CheckXLogRemoved` both report `undefined_file`).
    #[must_use]
    pub fn is_wal_removed(&self) -> bool {
        self.sqlstate == "58P01"
    }

    /// What the operator can do about it, where that is known.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        Some(match self.sqlstate.as_str() {
            "28P01" => "check the user's password (URL, PGPASSWORD or passfile)",
            "28000" => {
                "check that pg_hba.conf lets this user in from this address, for the database 'replication' too"
            }
            // The operating system refused the server a file, and the message has its path in any
            // language (`errcode_for_file_access` in `elog.c`).
            "42501" if self.message.contains('/') => {
                "give it to the server's user (chown), or move it out of the data directory"
            }
            "42501" => {
                "grant this role what it names; for replication: ALTER ROLE <user> REPLICATION"
            }
            "3D000" => "check the database name in the URL",
            "53300" => {
                "raise max_wal_senders (where it is 0, wal_level is minimal: set it to replica) or max_connections, or close connections that are not needed"
            }
            "53400" => "raise max_replication_slots, or drop slots that are not needed",
            "55006" => {
                "another connection streams from it: stop the other walvaultd, or give this one a slot of its own"
            }
            "55000" => {
                "check that wal_level is replica or logical and that the slot was not invalidated"
            }
            "42704" => "create the slot, or correct its name",
            "42710" => "choose another slot name, or use the slot that exists",
            "57P03" => "wait for the server to finish starting or stopping",
            "58P01" => {
                "take a new base backup if it was WAL, and keep a replication slot or raise wal_keep_size"
            }
            _ => return None,
        })
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.sqlstate, self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        for advice in [self.hint.as_deref(), self.remedy()].into_iter().flatten() {
            write!(f, "; {advice}")?;
        }
        Ok(())
    }
}
