//! What the server sends inside a WAL stream.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::codec::{CodecError, Reader};
use crate::lsn::Lsn;
use crate::timestamp::PgTimestamp;

/// The next thing in a WAL stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalMessage {
    /// WAL.
    Data(WalData),
    /// A sign of life.
    Keepalive(Keepalive),
    /// The server's `CopyDone`: this timeline has no more WAL. Finish the stream to learn what
    /// follows.
    EndOfTimeline,
}

/// `XLogData`: a run of WAL, at most 128 KiB from PostgreSQL (`MAX_SEND_SIZE`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalData {
    /// Where the run begins.
    pub start: Lsn,
    /// The end of the server's WAL when it sent this. PostgreSQL sends what it has flushed.
    pub server_end: Lsn,
    /// The server's clock.
    pub sent_at: PgTimestamp,
    /// The WAL, a slice of the read buffer.
    pub bytes: Bytes,
}

/// A primary keepalive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// The end of what the server has sent; equal to what was received when caught up.
    pub server_end: Lsn,
    /// The server's clock.
    pub sent_at: PgTimestamp,
    /// Whether the server waits for a status update.
    pub reply_requested: bool,
}

const DATA_TYPE: u8 = b'w';
const KEEPALIVE_TYPE: u8 = b'k';

/// Bytes in front of the WAL in `XLogData`.
const DATA_HEADER: usize = 1 + 3 * 8;

impl WalMessage {
    /// Reads the body of a `CopyData` message. The WAL is sliced, not copied.
    ///
    /// # Errors
    /// When it is neither WAL nor a keepalive, or malformed.
    pub fn decode(mut body: Bytes) -> Result<WalMessage, CodecError> {
        let mut reader = Reader::new(&body);
        match reader.u8("message type")? {
            DATA_TYPE => {
                let start = Lsn(reader.u64_be("WAL start")?);
                let server_end = Lsn(reader.u64_be("server's WAL end")?);
                let sent_at = PgTimestamp(reader.i64_be("server's clock")?);
                body.advance(DATA_HEADER);
                Ok(WalMessage::Data(WalData {
                    start,
                    server_end,
                    sent_at,
                    bytes: body,
                }))
            }
            KEEPALIVE_TYPE => {
                let keepalive = Keepalive {
                    server_end: Lsn(reader.u64_be("server's WAL end")?),
                    sent_at: PgTimestamp(reader.i64_be("server's clock")?),
                    reply_requested: reader.u8("reply request")? != 0,
                };
                reader.finish("keepalive")?;
                Ok(WalMessage::Keepalive(keepalive))
            }
            other => Err(reader.refuse("message type", u64::from(other))),
        }
    }
}

impl WalData {
    /// The position after the run; `None` past the end of the WAL address space.
    #[must_use]
    pub fn end(&self) -> Option<Lsn> {
        self.start.checked_add(self.bytes.len() as u64)
    }

    /// Appends the body of the `CopyData` message that carries it.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(DATA_TYPE);
        out.put_u64(self.start.0);
        out.put_u64(self.server_end.0);
        out.put_i64(self.sent_at.0);
        out.put_slice(&self.bytes);
    }
}

impl Keepalive {
    /// Appends the body of the `CopyData` message that carries it.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(KEEPALIVE_TYPE);
        out.put_u64(self.server_end.0);
        out.put_i64(self.sent_at.0);
        out.put_u8(u8::from(self.reply_requested));
    }
}
