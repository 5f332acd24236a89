//! The answers to replication commands, read out of their result sets.

use bytes::Bytes;

use crate::identity::SystemId;
use crate::lsn::Lsn;
use crate::message::{ProtocolError, QueryResult};
use crate::timeline::TimelineId;

/// The answer to `IDENTIFY_SYSTEM`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemIdentity {
    /// Which cluster this is.
    pub system_id: SystemId,
    /// The timeline the server is on now; after a failover not the one to resume on.
    pub timeline: TimelineId,
    /// The end of the WAL it has flushed.
    pub flushed_lsn: Lsn,
    /// The database of the session; `None` for physical replication.
    pub dbname: Option<String>,
}

/// The answer to `READ_REPLICATION_SLOT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotPosition {
    /// The oldest WAL the slot holds back; `None` when it holds none.
    pub restart_lsn: Option<Lsn>,
    /// The timeline that position is on.
    pub timeline: Option<TimelineId>,
}

/// The answer to `TIMELINE_HISTORY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryFile {
    /// The file's name, `00000002.history`.
    pub name: String,
    /// Its bytes, as they are on the server's disk.
    pub content: Bytes,
}

/// What follows the timeline that was streamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimelineEnd {
    /// The next timeline.
    pub next: TimelineId,
    /// Where it begins.
    pub at: Lsn,
}

/// `bytea`, the type that servers before 14 give a history file's content.
const BYTEA_OID: u32 = 17;

impl SystemIdentity {
    /// Reads the answer.
    ///
    /// # Errors
    /// When a field is missing or unreadable.
    pub fn from_result(result: &QueryResult) -> Result<SystemIdentity, ProtocolError> {
        let lacks = lacks("IDENTIFY_SYSTEM");
        Ok(SystemIdentity {
            system_id: parse(result, 0).ok_or_else(|| lacks("system identifier"))?,
            timeline: timeline(result, 1).ok_or_else(|| lacks("timeline"))?,
            flushed_lsn: parse(result, 2).ok_or_else(|| lacks("WAL position"))?,
            dbname: result.text(0, 3).map(str::to_owned),
        })
    }
}

impl SlotPosition {
    /// Reads the answer; `None` when there is no such slot, for which the server answers NULLs.
    ///
    /// # Errors
    /// When a field is missing or unreadable.
    pub fn from_result(result: &QueryResult) -> Result<Option<SlotPosition>, ProtocolError> {
        let lacks = lacks("READ_REPLICATION_SLOT");
        let row = result.rows.first().filter(|row| row.len() >= 3);
        let row = row.ok_or_else(|| lacks("row"))?;
        if row.iter().all(Option::is_none) {
            return Ok(None);
        }
        let restart_lsn = parse(result, 1);
        if row[1].is_some() && restart_lsn.is_none() {
            return Err(lacks("restart position"));
        }
        Ok(Some(SlotPosition {
            restart_lsn,
            timeline: timeline(result, 2),
        }))
    }
}

impl HistoryFile {
    /// Reads the answer. Servers send the file's bytes as they are under either column type
    /// (`SendTimeLineHistory`); the hexadecimal form that `bytea` has elsewhere cannot begin a
    /// history file and is undone should something in between have produced it.
    ///
    /// # Errors
    /// When a field is missing or unreadable.
    pub fn from_result(result: &QueryResult) -> Result<HistoryFile, ProtocolError> {
        let lacks = lacks("TIMELINE_HISTORY");
        let name = result.text(0, 0).ok_or_else(|| lacks("file name"))?;
        let content = result.rows.first().and_then(|row| row.get(1)?.clone());
        let content = content.ok_or_else(|| lacks("content"))?;
        let content = match content.strip_prefix(b"\\x") {
            Some(digits) if result.types.get(1) == Some(&BYTEA_OID) => {
                unhex(digits).ok_or_else(|| lacks("content"))?
            }
            _ => content,
        };
        Ok(HistoryFile {
            name: name.to_owned(),
            content,
        })
    }
}

impl TimelineEnd {
    /// Reads the result set that ends the stream of a timeline that was left.
    ///
    /// # Errors
    /// When a field is missing or unreadable.
    pub fn from_result(result: &QueryResult) -> Result<TimelineEnd, ProtocolError> {
        let lacks = lacks("START_REPLICATION");
        Ok(TimelineEnd {
            next: timeline(result, 0).ok_or_else(|| lacks("next timeline"))?,
            at: parse(result, 1).ok_or_else(|| lacks("switch position"))?,
        })
    }
}

pub(super) fn lacks(command: &'static str) -> impl Fn(&'static str) -> ProtocolError {
    move |what| ProtocolError::Answer { command, what }
}

pub(super) fn parse<T: std::str::FromStr>(result: &QueryResult, column: usize) -> Option<T> {
    result.text(0, column)?.parse().ok()
}

pub(super) fn timeline(result: &QueryResult, column: usize) -> Option<TimelineId> {
    parse(result, column).and_then(TimelineId::new)
}

fn unhex(digits: &[u8]) -> Option<Bytes> {
    let nibble = |digit: u8| char::from(digit).to_digit(16);
    let pairs = digits.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    pairs
        .map(|pair| u8::try_from(nibble(pair[0])? << 4 | nibble(pair[1])?).ok())
        .collect()
}
