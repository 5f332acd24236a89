//! The checksums a manifest can give a file, `src/common/checksum_helper.c`.

use std::fmt;

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

/// How a file's checksum is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChecksumAlgorithm {
    /// CRC-32C (Castagnoli), PostgreSQL's default.
    Crc32c,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl ChecksumAlgorithm {
    /// By the name the manifest gives it, as `pg_checksum_parse_type` reads it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<ChecksumAlgorithm> {
        [
            ChecksumAlgorithm::Crc32c,
            ChecksumAlgorithm::Sha224,
            ChecksumAlgorithm::Sha256,
            ChecksumAlgorithm::Sha384,
            ChecksumAlgorithm::Sha512,
        ]
        .into_iter()
        .find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }

    /// The name the manifest gives it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            ChecksumAlgorithm::Crc32c => "CRC32C",
            ChecksumAlgorithm::Sha224 => "SHA224",
            ChecksumAlgorithm::Sha256 => "SHA256",
            ChecksumAlgorithm::Sha384 => "SHA384",
            ChecksumAlgorithm::Sha512 => "SHA512",
        }
    }
}

impl fmt::Display for ChecksumAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A file's checksum. Displays as the manifest spells it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileChecksum {
    /// CRC-32C as a number; the manifest has its four bytes in the server's order, the lowest
    /// first.
    Crc32c(u32),
    /// SHA-224.
    Sha224([u8; 28]),
    /// SHA-256.
    Sha256([u8; 32]),
    /// SHA-384.
    Sha384([u8; 48]),
    /// SHA-512.
    Sha512([u8; 64]),
}

impl FileChecksum {
    /// Reads `Checksum-Algorithm` and `Checksum`; `None` when the algorithm is unknown or the
    /// digits are not hexadecimal or not as many as it needs.
    #[must_use]
    pub fn parse(algorithm: &str, digits: &str) -> Option<FileChecksum> {
        let bytes = hex::decode(digits).ok()?;
        Some(match ChecksumAlgorithm::from_name(algorithm)? {
            ChecksumAlgorithm::Crc32c => {
                FileChecksum::Crc32c(u32::from_le_bytes(bytes.try_into().ok()?))
            }
            ChecksumAlgorithm::Sha224 => FileChecksum::Sha224(bytes.try_into().ok()?),
            ChecksumAlgorithm::Sha256 => FileChecksum::Sha256(bytes.try_into().ok()?),
            ChecksumAlgorithm::Sha384 => FileChecksum::Sha384(bytes.try_into().ok()?),
            ChecksumAlgorithm::Sha512 => FileChecksum::Sha512(bytes.try_into().ok()?),
        })
    }

    /// How it is computed.
    #[must_use]
    pub const fn algorithm(&self) -> ChecksumAlgorithm {
        match self {
            FileChecksum::Crc32c(_) => ChecksumAlgorithm::Crc32c,
            FileChecksum::Sha224(_) => ChecksumAlgorithm::Sha224,
            FileChecksum::Sha256(_) => ChecksumAlgorithm::Sha256,
            FileChecksum::Sha384(_) => ChecksumAlgorithm::Sha384,
            FileChecksum::Sha512(_) => ChecksumAlgorithm::Sha512,
        }
    }

    /// Whether it is the checksum of `bytes`.
    #[must_use]
    pub fn verify(&self, bytes: &[u8]) -> bool {
        let mut state = ChecksumState::new(self.algorithm());
        state.update(bytes);
        state.finish() == *self
    }
}

impl fmt::Display for FileChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&match self {
            FileChecksum::Crc32c(crc) => hex::encode(crc.to_le_bytes()),
            FileChecksum::Sha224(bytes) => hex::encode(bytes),
            FileChecksum::Sha256(bytes) => hex::encode(bytes),
            FileChecksum::Sha384(bytes) => hex::encode(bytes),
            FileChecksum::Sha512(bytes) => hex::encode(bytes),
        })
    }
}

impl fmt::Debug for FileChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{self}", self.algorithm())
    }
}

/// A checksum being computed while the file passes.
#[derive(Clone)]
pub struct ChecksumState(State);

#[derive(Clone)]
enum State {
    Crc32c(u32),
    Sha224(Sha224),
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl ChecksumState {
    /// Of no bytes yet.
    #[must_use]
    pub fn new(algorithm: ChecksumAlgorithm) -> ChecksumState {
        ChecksumState(match algorithm {
            ChecksumAlgorithm::Crc32c => State::Crc32c(0),
            ChecksumAlgorithm::Sha224 => State::Sha224(Sha224::new()),
            ChecksumAlgorithm::Sha256 => State::Sha256(Sha256::new()),
            ChecksumAlgorithm::Sha384 => State::Sha384(Sha384::new()),
            ChecksumAlgorithm::Sha512 => State::Sha512(Sha512::new()),
        })
    }

    /// What is being computed.
    #[must_use]
    pub const fn algorithm(&self) -> ChecksumAlgorithm {
        match self.0 {
            State::Crc32c(_) => ChecksumAlgorithm::Crc32c,
            State::Sha224(_) => ChecksumAlgorithm::Sha224,
            State::Sha256(_) => ChecksumAlgorithm::Sha256,
            State::Sha384(_) => ChecksumAlgorithm::Sha384,
            State::Sha512(_) => ChecksumAlgorithm::Sha512,
        }
    }

    /// The file's next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Crc32c(crc) => *crc = crc32c::crc32c_append(*crc, bytes),
            State::Sha224(sha) => sha.update(bytes),
            State::Sha256(sha) => sha.update(bytes),
            State::Sha384(sha) => sha.update(bytes),
            State::Sha512(sha) => sha.update(bytes),
        }
    }

    /// The checksum of all the bytes given.
    #[must_use]
    pub fn finish(self) -> FileChecksum {
        match self.0 {
            State::Crc32c(crc) => FileChecksum::Crc32c(crc),
            State::Sha224(sha) => FileChecksum::Sha224(sha.finalize().into()),
            State::Sha256(sha) => FileChecksum::Sha256(sha.finalize().into()),
            State::Sha384(sha) => FileChecksum::Sha384(sha.finalize().into()),
            State::Sha512(sha) => FileChecksum::Sha512(sha.finalize().into()),
        }
    }
}

impl fmt::Debug for ChecksumState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChecksumState({})", self.algorithm())
    }
}
