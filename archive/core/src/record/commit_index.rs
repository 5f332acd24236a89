//! The commit index: when each transaction in a run of WAL ended, and what else a restore has to
//! know.
//!
//! Attached to every WAL object, so that a restore can say before it begins whether a time, a
//! transaction or a named point can be reached, which commits stand on either side of it, and which
//! tablespaces, databases and settings replay meets on its way.

use walvault_protocol::codec::{CodecError, Reader, put_varint, unzigzag, zigzag};
use walvault_protocol::wal::{DatabaseDirectory, MarkKind, Parameters, WalMark};
use walvault_protocol::{Lsn, PgTimestamp};

const VERSION: u8 = 1;
const COMMIT: u8 = 0;
const ABORT: u8 = 1;
const RESTORE_POINT: u8 = 2;
const TABLESPACE: u8 = 3;
const PARAMETERS: u8 = 4;
const DATABASE: u8 = 5;
const FULL_PAGE_WRITES: u8 = 6;

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
            MarkKind::Tablespace { .. } => (TABLESPACE, None),
            MarkKind::Parameters(_) => (PARAMETERS, None),
            MarkKind::Database(_) => (DATABASE, None),
            MarkKind::FullPageWrites { .. } => (FULL_PAGE_WRITES, None),
        };
        out.push(kind);
        put_varint(&mut out, mark.start.0.wrapping_sub(lsn));
        put_varint(&mut out, mark.end.saturating_sub(mark.start));
        lsn = mark.start.0;
        match &mark.kind {
            // Their records have no time.
            MarkKind::Tablespace { oid, location } => {
                put_varint(&mut out, u64::from(*oid));
                put_text(&mut out, location);
                continue;
            }
            MarkKind::Parameters(parameters) => {
                for number in numbers(parameters) {
                    put_varint(&mut out, u64::from(number));
                }
                continue;
            }
            MarkKind::Database(made) => {
                put_varint(&mut out, u64::from(made.oid));
                put_varint(&mut out, u64::from(made.tablespace));
                // No database has the OID 0, InvalidOid.
                put_varint(&mut out, u64::from(made.template.unwrap_or(0)));
                continue;
            }
            MarkKind::FullPageWrites { on } => {
                put_varint(&mut out, u64::from(*on));
                continue;
            }
            MarkKind::Commit { .. } | MarkKind::Abort { .. } | MarkKind::RestorePoint { .. } => {}
        }
        put_varint(&mut out, zigzag(mark.time.0.wrapping_sub(time)));
        time = mark.time.0;
        if let Some(xid) = xid {
            put_varint(&mut out, zigzag(i64::from(xid) - last_xid));
            last_xid = i64::from(xid);
        }
        if let MarkKind::RestorePoint { name } = &mark.kind {
            put_text(&mut out, name);
        }
    }
    out
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// In the order of `xl_parameter_change`.
fn numbers(parameters: &Parameters) -> [u32; 6] {
    [
        parameters.max_connections,
        parameters.max_worker_processes,
        parameters.max_wal_senders,
        parameters.max_prepared_transactions,
        parameters.max_locks_per_transaction,
        parameters.wal_level,
    ]
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
        let mark = |time, kind| WalMark {
            start: Lsn(lsn),
            end: Lsn(lsn.wrapping_add(length)),
            time: PgTimestamp(time),
            kind,
        };
        match kind {
            TABLESPACE => {
                let oid = number(&mut reader, "tablespace's OID")?;
                let location = text(&mut reader, "tablespace's location")?;
                marks.push(mark(0, MarkKind::Tablespace { oid, location }));
                continue;
            }
            PARAMETERS => {
                let mut next = || number(&mut reader, "value of a parameter");
                let parameters = Parameters {
                    max_connections: next()?,
                    max_worker_processes: next()?,
                    max_wal_senders: next()?,
                    max_prepared_transactions: next()?,
                    max_locks_per_transaction: next()?,
                    wal_level: next()?,
                };
                marks.push(mark(0, MarkKind::Parameters(parameters)));
                continue;
            }
            DATABASE => {
                let oid = number(&mut reader, "database's OID")?;
                let tablespace = number(&mut reader, "database's tablespace")?;
                let template = number(&mut reader, "database's template")?;
                let made = DatabaseDirectory {
                    oid,
                    tablespace,
                    template: (template != 0).then_some(template),
                };
                marks.push(mark(0, MarkKind::Database(made)));
                continue;
            }
            FULL_PAGE_WRITES => {
                let on = match number(&mut reader, "full_page_writes")? {
                    0 => false,
                    1 => true,
                    other => return Err(reader.refuse("full_page_writes", other.into())),
                };
                marks.push(mark(0, MarkKind::FullPageWrites { on }));
                continue;
            }
            _ => {}
        }
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
            RESTORE_POINT => MarkKind::RestorePoint {
                name: text(&mut reader, "restore point name")?,
            },
            other => return Err(reader.refuse("kind of mark", other.into())),
        };
        marks.push(mark(time, kind));
    }
    reader.finish("the commit index")?;
    Ok(marks)
}

fn text(reader: &mut Reader<'_>, what: &'static str) -> Result<String, CodecError> {
    let length = reader.varint(what)?;
    let bytes = reader.take(length.min(1 << 20) as usize, what)?;
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

fn number(reader: &mut Reader<'_>, what: &'static str) -> Result<u32, CodecError> {
    let number = reader.varint(what)?;
    u32::try_from(number).map_err(|_| reader.refuse(what, number))
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
            (any::<u32>(), "(/.{0,99})?")
                .prop_map(|(oid, location)| MarkKind::Tablespace { oid, location }),
            any::<[u32; 6]>().prop_map(|numbers| MarkKind::Parameters(Parameters {
                max_connections: numbers[0],
                max_worker_processes: numbers[1],
                max_wal_senders: numbers[2],
                max_prepared_transactions: numbers[3],
                max_locks_per_transaction: numbers[4],
                wal_level: numbers[5],
            })),
            (any::<u32>(), any::<u32>(), prop::option::of(1..=u32::MAX)).prop_map(
                |(oid, tablespace, template)| MarkKind::Database(DatabaseDirectory {
                    oid,
                    tablespace,
                    template,
                })
            ),
            any::<bool>().prop_map(|on| MarkKind::FullPageWrites { on }),
        ];
        let mark = (0..u64::MAX / 2, 0..1u64 << 30, any::<i64>(), kind);
        prop::collection::vec(mark, 0..50).prop_map(|marks| {
            let mark = |(start, length, time, kind): (u64, u64, i64, MarkKind)| WalMark {
                start: Lsn(start),
                end: Lsn(start + length),
                time: PgTimestamp(if kind.has_time() { time } else { 0 }),
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
