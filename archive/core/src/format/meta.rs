//! The meta frame: what a reader must know before it believes any other frame.

use walvault_protocol::codec::{CodecError, Reader};

use super::{FRAME_SIZE, FormatError, TAG_LEN};

/// The last frame of an object. It is authenticated like every frame, says how long the payload
/// is and where each frame lies, and carries the kind's own attachment (for WAL, the commit index).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Bytes of the payload.
    pub length: u64,
    /// CRC-32C of the payload.
    pub crc32c: u32,
    /// The payload's frames, in order.
    pub frames: Vec<FrameEntry>,
    /// What the kind adds.
    pub attachment: Vec<u8>,
}

/// One frame's place is the sum of the stored lengths before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameEntry {
    /// Bytes stored, the tag included.
    pub stored: u32,
    /// Whether the codec was applied.
    pub compressed: bool,
}

/// Set in a frame's table entry when its bytes are not compressed.
const RAW: u32 = 1 << 31;

impl FrameEntry {
    /// Reads and checks one table entry: a frame is never larger than raw bytes and a tag.
    fn decode(reader: &mut Reader<'_>) -> Result<FrameEntry, CodecError> {
        let word = reader.u32_le("frame entry")?;
        let entry = FrameEntry {
            stored: word & !RAW,
            compressed: word & RAW == 0,
        };
        let allowed = TAG_LEN + 1..=FRAME_SIZE + TAG_LEN;
        if allowed.contains(&(entry.stored as usize)) {
            Ok(entry)
        } else {
            Err(reader.refuse("frame entry", word.into()))
        }
    }
}

impl Meta {
    /// The bytes that are sealed as the meta frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(20 + self.frames.len() * 4 + self.attachment.len());
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(&self.crc32c.to_le_bytes());
        out.extend_from_slice(&(self.frames.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.attachment.len() as u32).to_le_bytes());
        for frame in &self.frames {
            let raw = if frame.compressed { 0 } else { RAW };
            out.extend_from_slice(&(frame.stored | raw).to_le_bytes());
        }
        out.extend_from_slice(&self.attachment);
        out
    }

    /// Reads the opened meta frame.
    ///
    /// # Errors
    /// When it is cut, or its numbers contradict each other.
    pub fn decode(input: &[u8]) -> Result<Meta, FormatError> {
        let mut reader = Reader::new(input);
        let length = reader.u64_le("payload length")?;
        let crc32c = reader.u32_le("CRC-32C")?;
        let count = reader.u32_le("frame count")?;
        let attached = reader.u32_le("attachment length")? as usize;
        if u64::from(count) != length.div_ceil(FRAME_SIZE as u64) {
            return Err(FormatError::Lengths("frame count and payload length"));
        }
        // The table must be there before room is made for it.
        let table = reader.take((count as usize).saturating_mul(4), "frame table")?;
        let mut table = Reader::new(table);
        let frames = (0..count)
            .map(|_| FrameEntry::decode(&mut table))
            .collect::<Result<_, _>>()?;
        let attachment = reader.take(attached, "attachment")?.to_vec();
        reader.finish("the meta frame")?;
        Ok(Meta {
            length,
            crc32c,
            frames,
            attachment,
        })
    }

    /// Plaintext bytes of frame `index`.
    #[must_use]
    pub fn plain_len(&self, index: usize) -> usize {
        let before = index as u64 * FRAME_SIZE as u64;
        (self.length.saturating_sub(before)).min(FRAME_SIZE as u64) as usize
    }

    /// Stored bytes of all payload frames.
    #[must_use]
    pub fn stored_len(&self) -> u64 {
        self.frames
            .iter()
            .map(|frame| u64::from(frame.stored))
            .sum()
    }
}
