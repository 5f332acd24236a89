//! From plaintext to a sealed object, frame by frame.

use std::sync::Arc;

use aes_gcm::aead::array::Array;
use aes_gcm::{AeadInOut, Aes256Gcm};
use bytes::Bytes;
use ring::digest::{Context, SHA256};
use walvault_store::{Body, Naming};

use super::compress::compress;
use super::{associated_data, cipher, nonce};
use crate::format::{
    Codec, FOOTER_LEN, FRAME_SIZE, Footer, FrameEntry, HEADER_LEN, Header, Kind, Meta, SALT_LEN,
    TAG_LEN,
};
use crate::keys::{DataKey, SealingKey};

/// Seals objects of one archive, each under the data key that is current when it begins.
#[derive(Clone)]
pub struct Sealer {
    archive: [u8; 16],
    key: Arc<SealingKey>,
    codec: Codec,
}

/// An object ready to be stored.
#[derive(Debug, Clone)]
pub struct SealedObject {
    /// Its bytes, hashed.
    pub body: Body,
    /// Bytes of its payload.
    pub payload_len: u64,
}

impl Sealer {
    /// Seals for `archive` under `key`, whatever happens.
    #[must_use]
    pub fn new(archive: [u8; 16], key: Arc<DataKey>, codec: Codec) -> Sealer {
        Sealer::following(archive, Arc::new(SealingKey::new(key)), codec)
    }

    /// Seals for `archive` under the key that `key` holds at the time.
    #[must_use]
    pub fn following(archive: [u8; 16], key: Arc<SealingKey>, codec: Codec) -> Sealer {
        Sealer {
            archive,
            key,
            codec,
        }
    }

    /// When the current data key was made, if what was stored under it before this process began is
    /// still to be counted.
    #[must_use]
    pub fn counts_since(&self) -> Option<jiff::Timestamp> {
        self.key.counts_since()
    }

    /// Counts what was stored under the current data key before this process began, once: `stored`
    /// tells how much that is since an instant.
    pub fn count_since(&self, stored: impl FnOnce(jiff::Timestamp) -> u64) {
        self.key.count_since(stored);
    }

    /// Begins an object that will be stored as `name`, with a fresh salt.
    ///
    /// # Errors
    /// When the operating system has no random bits to give.
    pub fn begin(&self, kind: Kind, name: &str) -> Result<SealWriter, getrandom::Error> {
        let mut salt = [0; SALT_LEN];
        getrandom::fill(&mut salt)?;
        Ok(self.begin_salted(kind, name, salt))
    }

    /// As [`Sealer::begin`] with a chosen salt, for test vectors. A salt must never serve twice.
    pub fn begin_salted(&self, kind: Kind, name: &str, salt: [u8; SALT_LEN]) -> SealWriter {
        let key = self.key.current();
        let header = Header {
            kind,
            codec: self.codec,
            key_id: key.id,
            salt,
        };
        let encoded = header.encode();
        let mut digest = Context::new(&SHA256);
        digest.update(&encoded);
        SealWriter {
            cipher: cipher(&key, &self.archive, &header),
            account: self.key.clone(),
            associated: associated_data(&self.archive, &encoded, name),
            codec: self.codec,
            pending: Vec::new(),
            out: encoded.to_vec(),
            digest,
            frames: Vec::new(),
            length: 0,
            crc32c: 0,
        }
    }

    /// Seals a whole payload at once.
    ///
    /// # Errors
    /// When the operating system has no random bits to give.
    pub fn seal(
        &self,
        kind: Kind,
        name: &str,
        payload: &[Bytes],
        attachment: &[u8],
    ) -> Result<SealedObject, getrandom::Error> {
        let mut writer = self.begin(kind, name)?;
        for piece in payload {
            writer.write(piece);
        }
        Ok(writer.finish(attachment))
    }
}

/// An object under way. Its memory grows with what is stored, not with what was written to it.
pub struct SealWriter {
    cipher: Aes256Gcm,
    /// Told of what was sealed.
    account: Arc<SealingKey>,
    associated: Vec<u8>,
    codec: Codec,
    /// Plaintext of a frame that is not full yet.
    pending: Vec<u8>,
    out: Vec<u8>,
    digest: Context,
    frames: Vec<FrameEntry>,
    length: u64,
    crc32c: u32,
}

impl SealWriter {
    /// Appends to the payload.
    pub fn write(&mut self, mut input: &[u8]) {
        self.length += input.len() as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, input);
        while !input.is_empty() {
            if self.pending.is_empty() && input.len() >= FRAME_SIZE {
                let (frame, rest) = input.split_at(FRAME_SIZE);
                self.seal_frame(frame);
                input = rest;
                continue;
            }
            let room = FRAME_SIZE - self.pending.len();
            let (head, rest) = input.split_at(room.min(input.len()));
            self.pending.extend_from_slice(head);
            input = rest;
            if self.pending.len() == FRAME_SIZE {
                let frame = std::mem::take(&mut self.pending);
                self.seal_frame(&frame);
                self.pending = frame;
                self.pending.clear();
            }
        }
    }

    /// Makes room for an object of about so many bytes, so that what is sealed already need not
    /// be moved while it grows. Memory is taken up only as it fills.
    pub fn reserve(&mut self, bytes: usize) {
        self.out.reserve_exact(bytes);
    }

    /// Bytes of payload so far.
    #[must_use]
    pub fn payload_len(&self) -> u64 {
        self.length
    }

    /// Bytes held in memory for it.
    #[must_use]
    pub fn sealed_len(&self) -> usize {
        self.out.len() + self.pending.len()
    }

    /// Closes the payload and seals the meta frame with `attachment`.
    #[must_use]
    pub fn finish(mut self, attachment: &[u8]) -> SealedObject {
        if !self.pending.is_empty() {
            let frame = std::mem::take(&mut self.pending);
            self.seal_frame(&frame);
        }
        let frames = self.frames.len() as u32;
        let meta = Meta {
            length: self.length,
            crc32c: self.crc32c,
            frames: std::mem::take(&mut self.frames),
            attachment: attachment.to_vec(),
        };
        let start = self.out.len();
        self.out.extend_from_slice(&meta.encode());
        self.encrypt_from(start, nonce(u64::from(frames), true));
        let meta_len = (self.out.len() - start) as u32;
        self.digest.update(&self.out[start..]);
        let lengths = Footer::lengths(meta_len, frames);
        self.digest.update(&lengths);
        self.out.reserve_exact(FOOTER_LEN);
        self.out.extend_from_slice(&lengths);
        // One pass over the bytes gives both digests: the footer's, of all before it, and the
        // whole object's, of that and the footer's digest itself.
        let stored = self.digest.clone().finish();
        self.out.extend_from_slice(stored.as_ref());
        self.digest.update(stored.as_ref());
        let whole = self.digest.finish();
        // It grew by doubling, and may wait for long: up to half of what it takes would be room.
        self.out.shrink_to_fit();
        self.account.count(self.out.len() as u64);
        SealedObject {
            payload_len: meta.length,
            body: Body {
                bytes: Bytes::from(self.out),
                sha256: whole.as_ref().try_into().expect("SHA-256 is 32 bytes"),
                naming: Naming::Shared,
            },
        }
    }

    fn seal_frame(&mut self, plain: &[u8]) {
        let start = self.out.len();
        let compressed = compress(self.codec, plain, &mut self.out);
        if !compressed {
            self.out.extend_from_slice(plain);
        }
        self.encrypt_from(start, nonce(self.frames.len() as u64, false));
        self.digest.update(&self.out[start..]);
        self.frames.push(FrameEntry {
            stored: (self.out.len() - start) as u32,
            compressed,
        });
    }

    /// Encrypts everything from `start` on in place and appends the tag.
    fn encrypt_from(&mut self, start: usize, nonce: [u8; 12]) {
        let tag = self
            .cipher
            .encrypt_inout_detached(
                &Array(nonce),
                &self.associated,
                (&mut self.out[start..]).into(),
            )
            .expect("a frame is within AES-GCM's limit of 64 GiB");
        debug_assert_eq!(tag.len(), TAG_LEN);
        self.out.extend_from_slice(&tag);
    }
}

const _: () = assert!(HEADER_LEN == 64 && FOOTER_LEN == 40);
