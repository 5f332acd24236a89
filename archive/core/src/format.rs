//! The bytes of a sealed object, and nothing of what protects them.
//!
//! An object is a [`Header`], frames, a meta frame and a [`Footer`]; `docs/format.md` tables every
//! byte. Numbers are little-endian.

use walvault_layout::KeyId;
use walvault_protocol::codec::{CodecError, Reader};

pub mod meta;

pub use meta::{FrameEntry, Meta};

/// The format version this build writes, and the newest it reads.
pub const VERSION: u16 = 1;
/// The first bytes of every sealed object.
pub const MAGIC: [u8; 8] = *b"WALVAULT";
/// Plaintext bytes in every frame but the last.
pub const FRAME_SIZE: usize = 256 << 10;
/// Bytes of the header.
pub const HEADER_LEN: usize = 64;
/// Bytes of the footer.
pub const FOOTER_LEN: usize = 40;
/// Bytes that AES-GCM adds to every frame.
pub const TAG_LEN: usize = 16;
/// Bytes of the salt that an object's key is derived with.
pub const SALT_LEN: usize = 32;

/// What an object holds. A kind's number is part of what is authenticated, so that an object of
/// one kind cannot stand in for one of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A whole segment, or a piece of a large one, with its commit index attached.
    Wal = 1,
    /// A chunk of a segment that is not stored whole yet, with its commit index attached.
    Tail = 2,
    /// A timeline history file, as PostgreSQL wrote it.
    History = 3,
    /// A run of files of a base backup.
    BackupPart = 4,
    /// PostgreSQL's `backup_manifest`, as it was sent.
    BackupManifest = 5,
    /// A backup's record, JSON.
    BackupRecord = 6,
    /// A gap's record, JSON.
    Gap = 7,
    /// Where each file of a backup lies, JSON.
    BackupFiles = 8,
    /// Who took an epoch, JSON.
    Writer = 9,
    /// That a backup shall be kept, or no longer, JSON.
    Keep = 10,
    /// Who changes what is kept, JSON.
    Lock = 11,
    /// What was pruned, JSON.
    Pruned = 12,
    /// What was verified, JSON.
    Verified = 13,
    /// A batch of events of the audit trail, JSON.
    Audit = 14,
    /// How a drill went, JSON.
    Drill = 15,
}

impl Kind {
    const ALL: [Kind; 15] = [
        Kind::Wal,
        Kind::Tail,
        Kind::History,
        Kind::BackupPart,
        Kind::BackupManifest,
        Kind::BackupRecord,
        Kind::Gap,
        Kind::BackupFiles,
        Kind::Writer,
        Kind::Keep,
        Kind::Lock,
        Kind::Pruned,
        Kind::Verified,
        Kind::Audit,
        Kind::Drill,
    ];
}

/// How frames are compressed. A frame that compression does not shrink is stored raw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// Not at all.
    None = 0,
    /// LZ4 blocks.
    Lz4 = 1,
    /// zstd frames (RFC 8878).
    Zstd = 2,
}

/// The first 64 bytes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the object holds.
    pub kind: Kind,
    /// How its frames are compressed.
    pub codec: Codec,
    /// The data key its own key is derived from.
    pub key_id: KeyId,
    /// Random, different in every object.
    pub salt: [u8; SALT_LEN],
}

/// Why bytes are not a sealed object of a version this build reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// It does not begin as sealed objects do.
    #[error("it does not begin with the magic bytes of a sealed object")]
    Magic,
    /// Written by a newer walvault.
    #[error(
        "it has format version {0}, this walvault reads up to {VERSION}; use the release that wrote it, or a newer one"
    )]
    Version(u16),
    /// Compressed by a newer walvault.
    #[error(
        "it is compressed with codec {0}, which this walvault does not know; use the release that wrote it, or a newer one"
    )]
    Compression(u8),
    /// Bytes that the format does not allow.
    #[error("{0}")]
    Codec(#[from] CodecError),
    /// Lengths that do not fit each other.
    #[error("its {0} do not fit each other")]
    Lengths(&'static str),
}

impl Header {
    /// The 64 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[10] = self.kind as u8;
        out[11] = self.codec as u8;
        out[12..16].copy_from_slice(&(FRAME_SIZE as u32).to_le_bytes());
        out[16..32].copy_from_slice(&self.key_id.0);
        out[32..64].copy_from_slice(&self.salt);
        out
    }

    /// Reads the first 64 bytes of `object`.
    ///
    /// # Errors
    /// When they are not a header, or one of a newer version.
    pub fn decode(object: &[u8]) -> Result<Header, FormatError> {
        let mut reader = Reader::new(object);
        if reader.array::<8>("magic")? != MAGIC {
            return Err(FormatError::Magic);
        }
        let version = reader.u16_le("format version")?;
        if version != VERSION {
            return Err(FormatError::Version(version));
        }
        let number = reader.u8("kind")?;
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| *kind as u8 == number)
            .ok_or_else(|| reader.refuse("kind", number.into()))?;
        let codec = match reader.u8("codec")? {
            0 => Codec::None,
            1 => Codec::Lz4,
            2 => Codec::Zstd,
            other => return Err(FormatError::Compression(other)),
        };
        let frame_size = reader.u32_le("frame size")?;
        if frame_size as usize != FRAME_SIZE {
            return Err(reader.refuse("frame size", frame_size.into()).into());
        }
        Ok(Header {
            kind,
            codec,
            key_id: KeyId(reader.array("key id")?),
            salt: reader.array("salt")?,
        })
    }
}

/// The last 40 bytes of an object: where its meta frame is, and a SHA-256 that anybody can check
/// without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footer {
    /// Bytes of the meta frame, its tag included.
    pub meta_len: u32,
    /// Payload frames before it.
    pub frames: u32,
    /// SHA-256 of every byte before it.
    pub sha256: [u8; 32],
}

impl Footer {
    /// The 40 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; FOOTER_LEN] {
        let mut out = [0; FOOTER_LEN];
        out[..8].copy_from_slice(&Footer::lengths(self.meta_len, self.frames));
        out[8..].copy_from_slice(&self.sha256);
        out
    }

    /// The part of the footer that its own SHA-256 covers.
    #[must_use]
    pub fn lengths(meta_len: u32, frames: u32) -> [u8; 8] {
        let mut out = [0; 8];
        out[..4].copy_from_slice(&meta_len.to_le_bytes());
        out[4..].copy_from_slice(&frames.to_le_bytes());
        out
    }

    /// Reads the last 40 bytes of an object.
    ///
    /// # Errors
    /// When there are not 40.
    pub fn decode(tail: &[u8]) -> Result<Footer, FormatError> {
        let at = tail.len().saturating_sub(FOOTER_LEN);
        let mut reader = Reader::new(&tail[at..]);
        Ok(Footer {
            meta_len: reader.u32_le("meta length")?,
            frames: reader.u32_le("frame count")?,
            sha256: reader.array("SHA-256")?,
        })
    }
}
/// The SHA-256 at the end of a sealed object, in hexadecimal; unchecked.
#[must_use]
pub fn footer_digest(object: &[u8]) -> String {
    let start = object.len().saturating_sub(FOOTER_LEN - 8);
    hex::encode(&object[start..])
}
