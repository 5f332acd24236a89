//! Sealing: compression, encryption and checksums, composed here and nowhere else.
//!
//! Sealed bytes cannot be read before they are verified: a [`Sealed`] gives its payload only
//! through [`Sealed::open`], which refuses anything cut, altered, renamed or swapped.

use aes_gcm::aead::array::Array;
use aes_gcm::{Aes256Gcm, KeyInit};

use crate::format::{Footer, FormatError, HEADER_LEN, Header, Kind, TAG_LEN};
use crate::keys::{DataKey, KeyPurpose};

mod compress;
mod limits;
mod open;
mod whole;
mod write;

pub use open::{Digests, FrameError, Opened, Sealed, SealedMeta, check_digest};
pub use whole::{check_whole, kind_of, reads_whole};
pub use write::{SealWriter, SealedObject, Sealer};

/// Why an object does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It is not a sealed object that this build reads.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// It is shorter or longer than it says.
    #[error("it is {actual} bytes long and should be {expected}: cut short, or grown")]
    Length {
        /// As its footer says.
        expected: u64,
        /// As found.
        actual: u64,
    },
    /// It is larger than anything walvault writes in its place. It was not read.
    #[error(
        "it has {size} bytes, and walvault writes no more than {limit} there: it was not read; delete it if walvault did not write it"
    )]
    TooLarge {
        /// Its bytes, stored or opened.
        size: u64,
        /// The most there may be.
        limit: u64,
    },
    /// Its stored bytes are not those that were written.
    #[error("its SHA-256 does not match: it was altered or damaged after it was stored")]
    Digest,
    /// It holds something else than asked for.
    #[error("it holds {found:?}, {expected:?} was expected")]
    Kind {
        /// What was asked for.
        expected: Kind,
        /// What its header says.
        found: Kind,
    },
    /// Its data key is for something else, and whoever opens that need not be who may seal this.
    #[error("it is sealed under a data key for {0:?}, which seals nothing of this kind")]
    Purpose(KeyPurpose),
    /// Authentication failed.
    #[error(
        "{frame} does not authenticate: altered, renamed, swapped with another object, or sealed under another key"
    )]
    Authentication {
        /// Which frame.
        frame: String,
    },
    /// Decompression or the payload's own checksum failed behind a valid seal.
    #[error("its {0} is wrong behind a valid seal: it was damaged before it was sealed")]
    Payload(&'static str),
}

/// What every frame of an object is bound to: the archive, the header and the object's name.
fn associated_data(archive: &[u8; 16], header: &[u8; HEADER_LEN], name: &str) -> Vec<u8> {
    [archive.as_slice(), header, name.as_bytes()].concat()
}

/// Nonces count frames; the meta frame, always the last, is marked so that no payload frame can
/// stand in its place.
fn nonce(counter: u64, is_meta: bool) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&counter.to_be_bytes());
    nonce[8] = u8::from(is_meta);
    nonce
}

fn cipher(key: &DataKey, archive: &[u8; 16], header: &Header) -> Aes256Gcm {
    let object_key = key.object_key(archive, &header.salt);
    Aes256Gcm::new(&Array(*object_key.expose()))
}

/// Bytes between the header and the footer.
fn body_len(footer: &Footer, frames_stored: u64) -> u64 {
    frames_stored + u64::from(footer.meta_len.max(TAG_LEN as u32))
}

#[cfg(test)]
mod tests;
