//! What we tell the server of our progress.

use bytes::{BufMut, BytesMut};

use crate::codec::{CodecError, Reader};
use crate::lsn::Lsn;
use crate::message::tag;
use crate::timestamp::PgTimestamp;

/// A position below which every byte is durable in the archive. Only a type that proves it
/// implements this: the server removes WAL and answers waiting commits on its word.
pub trait DurablePosition {
    /// The position.
    fn durable(&self) -> Lsn;
}

/// A standby status update.
#[derive(Debug)]
pub struct StandbyStatus<'a, D> {
    /// The end of what was received.
    pub write: Lsn,
    /// The end of what is durable.
    pub flush: &'a D,
    /// Our clock.
    pub now: PgTimestamp,
    /// Whether the server should answer at once.
    pub reply_requested: bool,
}

/// The fields of a standby status update as they are on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawStatus {
    /// The end of what was written.
    pub write: Lsn,
    /// The end of what was flushed.
    pub flush: Lsn,
    /// The end of what was applied; `0/0` when nothing is.
    pub apply: Lsn,
    /// The sender's clock.
    pub now: PgTimestamp,
    /// Whether the receiver should answer at once.
    pub reply_requested: bool,
}

const STATUS_TYPE: u8 = b'r';

/// The length field of the frame around a status: itself, the type, four integers and a flag.
const STATUS_LENGTH: u32 = 4 + 1 + 4 * 8 + 1;

impl<D: DurablePosition> StandbyStatus<'_, D> {
    /// Appends the update as one whole `CopyData` message. `apply` is `InvalidXLogRecPtr`:
    /// an archive applies nothing.
    pub fn encode(&self, out: &mut BytesMut) {
        out.reserve(1 + STATUS_LENGTH as usize);
        out.put_u8(tag::COPY_DATA);
        out.put_u32(STATUS_LENGTH);
        out.put_u8(STATUS_TYPE);
        out.put_u64(self.write.0);
        out.put_u64(self.flush.durable().0);
        out.put_u64(Lsn::INVALID.0);
        out.put_i64(self.now.0);
        out.put_u8(u8::from(self.reply_requested));
    }
}

impl RawStatus {
    /// Reads the body of the `CopyData` message that holds an update.
    ///
    /// # Errors
    /// When it is another message, or malformed.
    pub fn decode(body: &[u8]) -> Result<RawStatus, CodecError> {
        let mut reader = Reader::new(body);
        match reader.u8("status type")? {
            STATUS_TYPE => {}
            other => return Err(reader.refuse("status type", u64::from(other))),
        }
        let status = RawStatus {
            write: Lsn(reader.u64_be("write position")?),
            flush: Lsn(reader.u64_be("flush position")?),
            apply: Lsn(reader.u64_be("apply position")?),
            now: PgTimestamp(reader.i64_be("clock")?),
            reply_requested: reader.u8("reply request")? != 0,
        };
        reader.finish("status")?;
        Ok(status)
    }
}
