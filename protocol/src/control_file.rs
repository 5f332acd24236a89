//! `global/pg_control`: what it says about the layout of data files.
//!
//! `ControlFileData` of `src/include/catalog/pg_control.h` differs between major versions ahead of
//! what is wanted here, so that fields are found from what does not differ: `floatFormat`, which
//! always holds 1234567.0 with the parameters before it and the sizes after it, and the CRC at the
//! end with the checksum version before it. As PostgreSQL does, it is read in the byte order of the
//! machine that wrote it, and that is little-endian on all that walvault supports.

use crate::identity::SystemId;
use crate::wal::Parameters;

/// What `pg_control` says, its CRC having been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlFile {
    /// Whose it is.
    pub system_id: SystemId,
    /// `pg_control_version`.
    pub version: u32,
    /// Bytes of a data page, `BLCKSZ`.
    pub page_size: u32,
    /// Pages of a file of a relation before the next file begins, `RELSEG_SIZE`.
    pub segment_pages: u32,
    /// Whether data pages carry checksums.
    pub data_checksums: bool,
    /// What a server that replays its WAL must not have less of.
    pub parameters: Parameters,
}

/// A `pg_control` that cannot be relied on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlFileError {
    /// No CRC in it fits the bytes before it.
    #[error("pg_control's CRC is wrong: it was damaged; restore another backup")]
    Crc,
    /// Its CRC is right, and it is not as PostgreSQL 13 to 18 write it.
    #[error(
        "pg_control has version {0}, whose layout is not known; use a release of walvault that knows this PostgreSQL"
    )]
    Layout(u32),
}

/// `FLOATFORMAT_VALUE`.
const FLOAT_FORMAT: [u8; 8] = 1_234_567.0f64.to_le_bytes();

/// `PG_CONTROL_MAX_SAFE_SIZE`: the data fits into a sector.
const LONGEST: usize = 512;

/// `MOCK_AUTH_NONCE_LEN`, the length of what lies between the checksum version and the CRC.
const NONCE: usize = 32;

/// `PG_CONTROL_VERSION` of PostgreSQL 18, which put a flag before the nonce.
const WITH_CHAR_SIGNEDNESS: u32 = 1800;

impl ControlFile {
    /// Reads the file.
    ///
    /// # Errors
    /// When its CRC is wrong, or its layout not known.
    pub fn parse(bytes: &[u8]) -> Result<ControlFile, ControlFileError> {
        let crc = crc_offset(bytes).ok_or(ControlFileError::Crc)?;
        let data = &bytes[..crc];
        let version = u32_at(data, 8).unwrap_or_default();
        let unknown = ControlFileError::Layout(version);
        let id = data.first_chunk().copied().map(u64::from_le_bytes);
        let float = data.chunks_exact(8).position(|field| field == FLOAT_FORMAT);
        let sizes = float.map(|field| field * 8 + FLOAT_FORMAT.len());
        let parameters = float.and_then(|field| parameters(data, field * 8));
        let padding = if version < WITH_CHAR_SIGNEDNESS { 0 } else { 4 };
        let checksums = u32_at(data, crc - NONCE - padding - 4);
        let found = id.zip(sizes).zip(checksums).zip(parameters).and_then(
            |(((id, at), checksums), parameters)| {
                Some(ControlFile {
                    system_id: SystemId(id),
                    version,
                    page_size: u32_at(data, at)?,
                    segment_pages: u32_at(data, at + 4)?,
                    data_checksums: checksums != 0,
                    parameters,
                })
            },
        );
        // configure allows --with-blocksize from 1 to 32 kB.
        let sound = |control: &ControlFile| {
            control.page_size.is_power_of_two()
                && (1 << 10..=1 << 15).contains(&control.page_size)
                && control.segment_pages > 0
        };
        found.filter(sound).ok_or(unknown)
    }
}

/// The parameters before `floatFormat` at `float`. `max_locks_per_xact` is followed by the byte
/// `track_commit_timestamp` and by `maxAlign`, `wal_level` by the byte `wal_log_hints`.
fn parameters(data: &[u8], float: usize) -> Option<Parameters> {
    let before = |bytes: usize| u32_at(data, float.checked_sub(bytes)?);
    Some(Parameters {
        wal_level: before(36)?,
        max_connections: before(28)?,
        max_worker_processes: before(24)?,
        max_wal_senders: before(20)?,
        max_prepared_transactions: before(16)?,
        max_locks_per_transaction: before(12)?,
    })
}

/// Where the CRC is: it covers every byte before it, and zeros follow.
fn crc_offset(bytes: &[u8]) -> Option<usize> {
    let least = 2 * FLOAT_FORMAT.len() + NONCE + 8;
    let mut crc = crc32c::crc32c(bytes.get(..least)?);
    let mut at = least;
    while at <= LONGEST {
        if u32_at(bytes, at)? == crc {
            return Some(at);
        }
        crc = crc32c::crc32c_append(crc, &bytes[at..at + 4]);
        at += 4;
    }
    None
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*field))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What of the layout does not differ, with `ahead` bytes of what does before it.
    fn control(version: u32, ahead: usize, checksums: u32) -> Vec<u8> {
        let mut bytes = 7u64.to_le_bytes().to_vec();
        bytes.extend(version.to_le_bytes());
        bytes.resize(16 + ahead - 36, 0xAA);
        for field in [1u32, 0, 150, 8, 10, 5, 64, 1, 8] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(FLOAT_FORMAT);
        bytes.extend(8192u32.to_le_bytes());
        bytes.extend(131_072u32.to_le_bytes());
        bytes.extend([1; 24]);
        bytes.extend(checksums.to_le_bytes());
        if version >= 1800 {
            bytes.push(1);
        }
        bytes.extend([9; NONCE]);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend(crc.to_le_bytes());
        bytes.resize(8192, 0);
        bytes
    }

    #[test]
    fn fields_are_found_whatever_comes_before_them() {
        for (version, ahead) in [(1300, 200), (1700, 208), (1800, 216)] {
            for checksums in [0, 1] {
                let found = ControlFile::parse(&control(version, ahead, checksums));
                let expected = ControlFile {
                    system_id: SystemId(7),
                    version,
                    page_size: 8192,
                    segment_pages: 131_072,
                    data_checksums: checksums == 1,
                    parameters: Parameters {
                        max_connections: 150,
                        max_worker_processes: 8,
                        max_wal_senders: 10,
                        max_prepared_transactions: 5,
                        max_locks_per_transaction: 64,
                        wal_level: 1,
                    },
                };
                assert_eq!(found, Ok(expected));
            }
        }
    }

    #[test]
    fn damage_is_refused() {
        let sound = control(1300, 200, 1);
        for at in [0, 9, 100, 220, 280] {
            let mut damaged = sound.clone();
            damaged[at] ^= 1;
            assert_eq!(ControlFile::parse(&damaged), Err(ControlFileError::Crc));
        }
        for length in [0, 7, 60, 250] {
            let cut = ControlFile::parse(&sound[..length]);
            assert_eq!(cut, Err(ControlFileError::Crc));
        }
        let mut strange = control(1300, 200, 1);
        strange[216..224].fill(0);
        let end = crc_offset(&sound).unwrap();
        let crc = crc32c::crc32c(&strange[..end]);
        strange[end..end + 4].copy_from_slice(&crc.to_le_bytes());
        let refused = ControlFile::parse(&strange);
        assert_eq!(refused, Err(ControlFileError::Layout(1300)));
    }
}
