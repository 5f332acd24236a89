//! From a sealed object back to plaintext, refusing whatever was altered.

use std::convert::Infallible;
use std::ops::Range;

use aes_gcm::aead::array::Array;
use aes_gcm::{AeadInOut, Aes256Gcm};
use bytes::Bytes;
use ring::digest::{Context, SHA256, digest};
use walvault_layout::KeyId;

use super::compress::decompress;
use super::limits::payload_limit;
use super::{OpenError, associated_data, body_len, cipher, nonce};
use crate::format::{
    Codec, FOOTER_LEN, FRAME_SIZE, Footer, FormatError, HEADER_LEN, Header, Kind, Meta, TAG_LEN,
};
use crate::keys::{DataKey, KeyPurpose};

/// A stored object whose bytes are not believed yet.
#[derive(Debug, Clone)]
pub struct Sealed {
    bytes: Bytes,
    header: Header,
    footer: Footer,
}

/// What an object held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Its payload.
    pub payload: Vec<u8>,
    /// What its kind attaches.
    pub attachment: Vec<u8>,
    /// The data key it is sealed under.
    pub key_id: KeyId,
}

/// Why an object's frames were not all taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameError<E> {
    /// The object does not open.
    Open(OpenError),
    /// Whoever took them did not take this one.
    Take(E),
}

impl<E> From<OpenError> for FrameError<E> {
    fn from(error: OpenError) -> FrameError<E> {
        FrameError::Open(error)
    }
}

/// What is known of an object's bytes without its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digests {
    /// Its last bytes.
    pub footer: Footer,
    /// The SHA-256 of all of it, as S3's `x-amz-checksum-sha256` and a backup's list of parts have it.
    pub object: [u8; 32],
}

/// Checks an object's own SHA-256, of whatever version it is.
///
/// # Errors
/// When it is too short to have one, or has another.
pub fn check_digest(bytes: &[u8]) -> Result<Digests, OpenError> {
    let footer = Footer::decode(bytes)?;
    let (covered, rest) = bytes.split_at(bytes.len() - footer.sha256.len());
    let mut context = Context::new(&SHA256);
    context.update(covered);
    if context.clone().finish().as_ref() != footer.sha256 {
        return Err(OpenError::Digest);
    }
    context.update(rest);
    let mut object = [0; 32];
    object.copy_from_slice(context.finish().as_ref());
    Ok(Digests { footer, object })
}

impl Sealed {
    /// Reads header and footer and checks the object's own SHA-256: what can be known without a key.
    ///
    /// # Errors
    /// When it is no sealed object, of a newer version, cut short, or damaged.
    pub fn parse(bytes: Bytes) -> Result<Sealed, OpenError> {
        let header = Header::decode(&bytes)?;
        let footer = Footer::decode(&bytes[HEADER_LEN.min(bytes.len())..])?;
        let covered = bytes.len() - (FOOTER_LEN - 8);
        if digest(&SHA256, &bytes[..covered]).as_ref() != footer.sha256 {
            return Err(OpenError::Digest);
        }
        Ok(Sealed {
            bytes,
            header,
            footer,
        })
    }

    /// The data key it needs.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.header.key_id
    }

    /// What it says it holds; believed only once it is opened.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.header.kind
    }

    /// Verifies and decrypts all of it.
    ///
    /// # Errors
    /// When it is not what was sealed as `kind` under `name` in `archive`.
    pub fn open(
        &self,
        key: &DataKey,
        archive: &[u8; 16],
        kind: Kind,
        name: &str,
    ) -> Result<Opened, OpenError> {
        let mut payload = Vec::new();
        let opened = self.open_frames(key, archive, kind, name, |frame| {
            payload.extend_from_slice(frame);
            Ok::<(), Infallible>(())
        });
        match opened {
            Ok(attachment) => Ok(Opened {
                payload,
                attachment,
                key_id: self.header.key_id,
            }),
            Err(FrameError::Open(error)) => Err(error),
            Err(FrameError::Take(never)) => match never {},
        }
    }

    /// Verifies and decrypts all of it, handing the plaintext to `take` frame by frame, in order,
    /// each as soon as it is authentic. Memory holds one frame beside the object itself. That
    /// nothing is missing is known only when this succeeds. Returns the attachment.
    ///
    /// # Errors
    /// [`FrameError::Open`] when it is not what was sealed as `kind` under `name` in `archive`,
    /// [`FrameError::Take`] when `take` refuses.
    pub fn open_frames<E>(
        &self,
        key: &DataKey,
        archive: &[u8; 16],
        kind: Kind,
        name: &str,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Vec<u8>, FrameError<E>> {
        let meta_start = self
            .bytes
            .len()
            .checked_sub(FOOTER_LEN + self.footer.meta_len as usize)
            .filter(|start| *start >= HEADER_LEN)
            .ok_or(FormatError::Lengths("meta length and size"))
            .map_err(OpenError::from)?;
        let sealed_meta = SealedMeta::new(&self.bytes[..HEADER_LEN], &self.bytes[meta_start..])?;
        let opener = Opener::new(
            key,
            archive,
            &sealed_meta.header,
            &self.bytes[..HEADER_LEN],
            name,
        );
        let meta = opener.meta(&sealed_meta, kind)?;
        let expected = (HEADER_LEN + FOOTER_LEN) as u64 + body_len(&self.footer, meta.stored_len());
        if expected != self.bytes.len() as u64 {
            return Err(FrameError::Open(OpenError::Length {
                expected,
                actual: self.bytes.len() as u64,
            }));
        }
        let mut crc = 0;
        let stored = &self.bytes[HEADER_LEN..meta_start];
        opener.frames(&meta, 0..meta.frames.len(), stored, |_, frame| {
            crc = crc32c::crc32c_append(crc, frame);
            take(frame).map_err(FrameError::Take)
        })?;
        if crc != meta.crc32c {
            return Err(FrameError::Open(OpenError::Payload("CRC-32C")));
        }
        Ok(meta.attachment)
    }
}

/// The header and the end of an object, fetched by range: enough to open its meta frame.
#[derive(Debug, Clone)]
pub struct SealedMeta {
    header: Header,
    footer: Footer,
    header_bytes: [u8; HEADER_LEN],
    sealed: Vec<u8>,
}

impl SealedMeta {
    /// From the first 64 bytes and a tail that reaches back at least to the meta frame's start.
    ///
    /// # Errors
    /// When these are not the ends of a sealed object, or the tail is too short:
    /// [`SealedMeta::tail_needed`] tells how much it takes.
    pub fn new(head: &[u8], tail: &[u8]) -> Result<SealedMeta, OpenError> {
        let header = Header::decode(head)?;
        let footer = Footer::decode(tail)?;
        let start = tail
            .len()
            .checked_sub(FOOTER_LEN + footer.meta_len as usize)
            .filter(|_| footer.meta_len as usize >= TAG_LEN)
            .ok_or(FormatError::Lengths("meta length and size"))?;
        Ok(SealedMeta {
            header,
            footer,
            header_bytes: head[..HEADER_LEN].try_into().expect("decoded as a header"),
            sealed: tail[start..tail.len() - FOOTER_LEN].to_vec(),
        })
    }

    /// How many bytes of an object's end hold its meta frame and footer, told by its footer.
    ///
    /// # Errors
    /// When `tail` is shorter than a footer.
    pub fn tail_needed(tail: &[u8]) -> Result<u64, OpenError> {
        let footer = Footer::decode(tail)?;
        Ok(u64::from(footer.meta_len) + FOOTER_LEN as u64)
    }

    /// The data key it needs.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.header.key_id
    }

    /// Verifies and decrypts the meta frame alone.
    ///
    /// # Errors
    /// When it is not what was sealed as `kind` under `name` in `archive`.
    pub fn open(
        &self,
        key: &DataKey,
        archive: &[u8; 16],
        kind: Kind,
        name: &str,
    ) -> Result<Meta, OpenError> {
        Opener::new(key, archive, &self.header, &self.header_bytes, name).meta(self, kind)
    }

    /// Verifies and decrypts the frames `range` of the object, whose bytes are `stored`, and hands them
    /// to `take` with their numbers, in order. `meta` is this object's, opened.
    ///
    /// # Errors
    /// [`FrameError::Open`] when they are not what was sealed there, [`FrameError::Take`] when `take`
    /// refuses.
    #[expect(clippy::too_many_arguments, reason = "an object's identity takes four")]
    pub fn open_frames<E>(
        &self,
        key: &DataKey,
        archive: &[u8; 16],
        name: &str,
        meta: &Meta,
        range: Range<usize>,
        stored: &[u8],
        mut take: impl FnMut(usize, &[u8]) -> Result<(), E>,
    ) -> Result<(), FrameError<E>> {
        let opener = Opener::new(key, archive, &self.header, &self.header_bytes, name);
        opener.frames(meta, range, stored, |index, frame| {
            take(index, frame).map_err(FrameError::Take)
        })
    }
}

struct Opener {
    codec: Codec,
    purpose: KeyPurpose,
    cipher: Aes256Gcm,
    associated: Vec<u8>,
}

impl Opener {
    fn new(key: &DataKey, archive: &[u8; 16], header: &Header, bytes: &[u8], name: &str) -> Opener {
        let bytes = bytes.try_into().expect("a header is 64 bytes");
        Opener {
            codec: header.codec,
            purpose: key.purpose(),
            cipher: cipher(key, archive, header),
            associated: associated_data(archive, bytes, name),
        }
    }

    fn meta(&self, sealed: &SealedMeta, kind: Kind) -> Result<Meta, OpenError> {
        let counter = u64::from(sealed.footer.frames);
        let mut plain = Vec::new();
        self.decrypt(&sealed.sealed, nonce(counter, true), &mut plain, || {
            "the meta frame".to_owned()
        })?;
        if sealed.header.kind != kind {
            return Err(OpenError::Kind {
                expected: kind,
                found: sealed.header.kind,
            });
        }
        if self.purpose != KeyPurpose::of(kind) {
            return Err(OpenError::Purpose(self.purpose));
        }
        let meta = Meta::decode(&plain)?;
        if meta.frames.len() as u64 != counter {
            return Err(FormatError::Lengths("frame counts").into());
        }
        let (size, limit) = (meta.length, payload_limit(kind));
        match size > limit {
            true => Err(OpenError::TooLarge { size, limit }),
            false => Ok(meta),
        }
    }

    /// Opens the frames `range`, which `stored` holds, one after the other.
    fn frames<E>(
        &self,
        meta: &Meta,
        range: Range<usize>,
        mut stored: &[u8],
        mut take: impl FnMut(usize, &[u8]) -> Result<(), FrameError<E>>,
    ) -> Result<(), FrameError<E>> {
        // Both serve for every frame: memory that was touched before is faster than new.
        let mut decrypted = Vec::with_capacity(FRAME_SIZE);
        let mut decompressed = Vec::new();
        let frames = meta.frames.iter().enumerate();
        for (index, frame) in frames.take(range.end).skip(range.start) {
            let (sealed, rest) = stored
                .split_at_checked(frame.stored as usize)
                .ok_or(OpenError::Payload("length"))?;
            stored = rest;
            self.decrypt(sealed, nonce(index as u64, false), &mut decrypted, || {
                format!("frame {index}")
            })?;
            let length = meta.plain_len(index);
            if !frame.compressed {
                if decrypted.len() != length {
                    return Err(OpenError::Payload("length").into());
                }
                take(index, &decrypted)?;
                continue;
            }
            decompressed.resize(length, 0);
            if !decompress(self.codec, &decrypted, &mut decompressed) {
                return Err(OpenError::Payload("compression").into());
            }
            take(index, &decompressed)?;
        }
        Ok(())
    }

    /// Replaces what `plain` holds by the plaintext of `sealed`.
    fn decrypt(
        &self,
        sealed: &[u8],
        nonce: [u8; 12],
        plain: &mut Vec<u8>,
        what: impl Fn() -> String,
    ) -> Result<(), OpenError> {
        let refused = || OpenError::Authentication { frame: what() };
        let split = sealed.len().checked_sub(TAG_LEN).ok_or_else(refused)?;
        plain.clear();
        plain.extend_from_slice(&sealed[..split]);
        let tag: [u8; TAG_LEN] = sealed[split..].try_into().expect("split at the tag");
        self.cipher
            .decrypt_inout_detached(
                &Array(nonce),
                &self.associated,
                plain.as_mut_slice().into(),
                &Array(tag),
            )
            .map_err(|_| refused())
    }
}
