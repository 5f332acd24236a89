//! The commit index: when each transaction in a run of WAL ended.
//!
//! Attached to every WAL object, so that a restore can say before it begins whether a time, a
//! transaction or a named point can be reached, and which commits stand on either side of it.

use walvault_protocol::codec::{CodecError, Reader, put_varint, unzigzag, zigzag};
use walvault_protocol::wal::{MarkKind, WalMark};
use walvault_protocol::{Lsn, PgTimestamp};

const VERSION: u8 = 1;
const COMMIT: u8 = 0;
const ABORT: u8 = 1;
const RESTORE_POINT: u8 = 2;

/// Packs `marks`, which must be in WAL order. Differences are stored, so that a commit takes
/// some six bytes.
#[must_use]
pub fn encode(marks: &[WalMark]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + marks.len() * 8);
    out.push(VERSION);
    put_varint(&mut out, marks.len() as u64);
    let (mut lsn, mut time, mut last_xid) = (0u64, 0i64, 0i64);
    for mark in marks {
        let (kind, xid) = match &mark.kind {
            MarkKind::Commit { xid } => (COMMIT, Some(*xid)),
            MarkKind::Abort { xid } => (ABORT, Some(*xid)),
            MarkKind::RestorePoint { .. } => (RESTORE_POINT, None),
        };
        out.push(kind);
        put_varint(&mut out, mark.start.0.wrapping_sub(lsn));
        put_varint(&mut out, mark.end.saturating_sub(mark.start));
        put_varint(&mut out, zigzag(mark.time.0.wrapping_sub(time)));
        if let Some(xid) = xid {
            put_varint(&mut out, zigzag(i64::from(xid) - last_xid));
            last_xid = i64::from(xid);
        }
        if let MarkKind::RestorePoint { name } = &mark.kind {
            put_varint(&mut out, name.len() as u64);
            out.extend_from_slice(name.as_bytes());
        }
        (lsn, time) = (mark.start.0, mark.time.0);
    }
    out
}

/// The inverse of [`encode`].
///
/// # Errors
/// When the bytes are cut, or of a newer version.
pub fn decode(input: &[u8]) -> Result<Vec<WalMark>, CodecError> {
    let mut reader = Reader::new(input);
    let version = reader.u8("commit index version")?;
    if version != VERSION {
        return Err(reader.refuse("commit index version", version.into()));
    }
    let count = reader.varint("commit count")?;
    let mut marks = Vec::with_capacity(count.min(input.len() as u64) as usize);
    let (mut lsn, mut time, mut last_xid) = (0u64, 0i64, 0i64);
    for _ in 0..count {
        let kind = reader.u8("kind of mark")?;
        lsn = lsn.wrapping_add(reader.varint("position")?);
        let length = reader.varint("record length")?;
        time = time.wrapping_add(unzigzag(reader.varint("time")?));
        let kind = match kind {
            COMMIT | ABORT => {
                last_xid = last_xid.wrapping_add(unzigzag(reader.varint("transaction id")?));
                let xid = u32::try_from(last_xid)
                    .map_err(|_| reader.refuse("transaction id", last_xid as u64))?;
                if kind == COMMIT {
                    MarkKind::Commit { xid }
                } else {
                    MarkKind::Abort { xid }
                }
            }
            RESTORE_POINT => {
                let length = reader.varint("name length")?;
                let bytes = reader.take(length.min(1 << 20) as usize, "restore point name")?;
                MarkKind::RestorePoint {
                    name: String::from_utf8_lossy(bytes).into_owned(),
                }
            }
            other => return Err(reader.refuse("kind of mark", other.into())),
        };
        marks.push(WalMark {
            start: Lsn(lsn),
            end: Lsn(lsn.wrapping_add(length)),
            time: PgTimestamp(time),
            kind,
        });
    }
    reader.finish("the commit index")?;
    Ok(marks)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn marks() -> impl Strategy<Value = Vec<WalMark>> {
        let kind = prop_oneof![
            any::<u32>().prop_map(|xid| MarkKind::Commit { xid }),
            any::<u32>().prop_map(|xid| MarkKind::Abort { xid }),
            ".{0,63}".prop_map(|name| MarkKind::RestorePoint { name }),
        ];
        let mark = (0..u64::MAX / 2, 0..1u64 << 30, any::<i64>(), kind);
        prop::collection::vec(mark, 0..50).prop_map(|marks| {
            let mark = |(start, length, time, kind)| WalMark {
                start: Lsn(start),
                end: Lsn(start + length),
                time: PgTimestamp(time),
                kind,
            };
            marks.into_iter().map(mark).collect()
        })
    }

    proptest! {
        #[test]
        fn round_trips(marks in marks()) {
            prop_assert_eq!(decode(&encode(&marks)), Ok(marks));
        }

        #[test]
        fn garbage_never_panics(input: Vec<u8>) {
            let _ = decode(&input);
        }
    }
}
