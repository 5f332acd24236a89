//! PostgreSQL's messages: frames as they lie on the wire, and what their bodies hold.
//!
//! Framing is our own because a copy stream must hand out slices of the read buffer and because
//! replication uses `CopyBothResponse`. The shapes are those of the manual's chapter
//! "Frontend/Backend Protocol", section "Message Formats".

use bytes::{Buf, Bytes, BytesMut};

use crate::codec::CodecError;

pub mod backend;
pub mod rows;
pub mod server_error;

#[cfg(test)]
mod tests;

pub use rows::{QueryResult, ResultBuilder};
pub use server_error::ServerError;

/// The longest message accepted from a server that has let us in: PostgreSQL never sends a
/// longer one (`MaxAllocSize`, 1 GiB).
pub const MAX_MESSAGE: usize = 1 << 30;

/// The longest message accepted before authentication, when anybody may be at the other end.
pub const MAX_GREETING: usize = 64 << 10;

/// The tags of messages a server sends.
pub mod tag {
    #![allow(missing_docs, reason = "the names are the manual's")]
    pub const AUTHENTICATION: u8 = b'R';
    pub const BACKEND_KEY_DATA: u8 = b'K';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const COPY_BOTH_RESPONSE: u8 = b'W';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_OUT_RESPONSE: u8 = b'H';
    pub const DATA_ROW: u8 = b'D';
    pub const EMPTY_QUERY_RESPONSE: u8 = b'I';
    pub const ERROR_RESPONSE: u8 = b'E';
    pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
    pub const NOTICE_RESPONSE: u8 = b'N';
    pub const NOTIFICATION_RESPONSE: u8 = b'A';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const READY_FOR_QUERY: u8 = b'Z';
    pub const ROW_DESCRIPTION: u8 = b'T';
}

/// One message: its tag and its body, without the length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// One of [`tag`].
    pub tag: u8,
    /// A slice of the read buffer; nothing is copied.
    pub body: Bytes,
}

/// Bytes that no PostgreSQL server sends here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A length that is none, or beyond what is allowed.
    #[error("a message of type {tag:?} claims {length} bytes; 4 to {limit} are allowed here")]
    Length {
        /// The message's type.
        tag: char,
        /// What it claims, the length field included.
        length: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// A body that does not have its message's shape.
    #[error("a message of type {tag:?} is malformed: {source}")]
    Body {
        /// The message's type.
        tag: char,
        /// What is wrong with it.
        source: CodecError,
    },
    /// A message that has no business here.
    #[error("a message of type {tag:?} arrived {during}")]
    Unexpected {
        /// The message's type.
        tag: char,
        /// What was going on.
        during: &'static str,
    },
    /// An answer that lacks what the command's answer has.
    #[error("the answer to {command} has no usable {what}")]
    Answer {
        /// The command.
        command: &'static str,
        /// What is missing or unreadable.
        what: &'static str,
    },
}

impl ProtocolError {
    /// The error for a frame that does not belong `during` something.
    #[must_use]
    pub fn unexpected(frame: &Frame, during: &'static str) -> ProtocolError {
        ProtocolError::Unexpected {
            tag: char::from(frame.tag),
            during,
        }
    }

    /// The error for a body that could not be read.
    #[must_use]
    pub fn body(tag: u8, source: CodecError) -> ProtocolError {
        ProtocolError::Body {
            tag: char::from(tag),
            source,
        }
    }
}

/// Bytes of the tag and the length in front of every body.
const HEADER: usize = 5;

impl Frame {
    /// Takes the next whole message off the front of `input`; `None` when it has not all arrived.
    /// `limit` bounds the length it may claim.
    ///
    /// # Errors
    /// When the claimed length is below 4 or above `limit`.
    pub fn split(input: &mut BytesMut, limit: usize) -> Result<Option<Frame>, ProtocolError> {
        let Some((tag, length)) = header(input, limit)? else {
            return Ok(None);
        };
        if input.len() <= length {
            return Ok(None);
        }
        let mut body = input.split_to(1 + length).freeze();
        body.advance(HEADER);
        Ok(Some(Frame { tag, body }))
    }

    /// How many bytes the message at the front of `input` still lacks, as far as is known;
    /// at least 1.
    #[must_use]
    pub fn missing(input: &[u8], limit: usize) -> usize {
        match header(input, limit) {
            Ok(Some((_, length))) => (1 + length).saturating_sub(input.len()).max(1),
            _ => HEADER.saturating_sub(input.len()).max(1),
        }
    }
}

/// The tag and the length (which counts itself but not the tag) at the front of `input`.
fn header(input: &[u8], limit: usize) -> Result<Option<(u8, usize)>, ProtocolError> {
    let Some([tag, length @ ..]) = input.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length) as usize;
    if (HEADER - 1..=limit).contains(&length) {
        Ok(Some((*tag, length)))
    } else {
        Err(ProtocolError::Length {
            tag: char::from(*tag),
            length,
            limit,
        })
    }
}
