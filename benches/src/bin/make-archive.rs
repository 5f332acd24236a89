//! `make-archive CONFIG segments|chunks COUNT`: an archive of many objects in the store that CONFIG names.
//!
//! One empty backup, and behind it COUNT segments, or one segment and COUNT chunks of the next. Each
//! object holds one commit, a second after the one before; transaction IDs count from 700. Segments hold
//! next to nothing: a plan looks at names and into commit indexes.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;
use walvault_archive::archive::{WalPut, kind_of, wal_key};
use walvault_archive::format::Codec;
use walvault_archive::keys::KeyAccess;
use walvault_archive::record::{BackupFiles, BackupRecord, commit_index};
use walvault_archive::seal::Sealer;
use walvault_archive::{Archive, WalCut};
use walvault_config::Config;
use walvault_layout::{BackupId, ObjectKey};
use walvault_protocol::wal::{MarkKind, WalMark};
use walvault_protocol::{
    Lsn, LsnRange, PgTimestamp, SegmentSize, ServerVersion, SystemId, TimelineId,
};

type Failure = Box<dyn Error + Send + Sync>;

const SEGMENT: u64 = 16 << 20;
/// How many objects are stored at once.
const AT_ONCE: usize = 64;
/// The transaction of the first object.
const FIRST_XID: u32 = 700;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().collect();
    let usage = "usage: make-archive CONFIG segments|chunks COUNT";
    let [_, config, kind, count] = arguments.as_slice() else {
        return Err(usage.into());
    };
    let count: u64 = count.parse()?;
    let config = Config::load(Some(config.as_ref()))?;
    let store = walvault_store::open_at(&config.archive.url, &config.archive.options).await?;
    let keys = KeyAccess::from_settings(&config.encryption)?;
    let size = SegmentSize::new(SEGMENT)?;
    let archive = Archive::open_or_begin(store, keys, SystemId(1), size).await?;
    let sealer = Arc::new(archive.sealer(Codec::Lz4).await?);
    let segment = |number: u64| LsnRange::new(Lsn(number * SEGMENT), Lsn((number + 1) * SEGMENT));
    let ranges: Vec<(LsnRange, WalCut)> = match kind.as_str() {
        "segments" => (1..=count)
            .map(|number| (segment(number), WalCut::Unit))
            .collect(),
        "chunks" => {
            let (start, length) = (2 * SEGMENT, (SEGMENT - 1) / count);
            let chunk = |number| {
                let begin = Lsn(start + number * length);
                (LsnRange::new(begin, begin + length), WalCut::Chunk)
            };
            let whole = std::iter::once((segment(1), WalCut::Unit));
            whole.chain((0..count).map(chunk)).collect()
        }
        _ => return Err(usage.into()),
    };
    let mut puts = JoinSet::new();
    for (number, (range, cut)) in (0..).zip(ranges) {
        while puts.len() >= AT_ONCE {
            puts.join_next().await.ok_or("a task")???;
        }
        let (archive, sealer) = (archive.clone(), sealer.clone());
        drop(puts.spawn(async move { put(&archive, &sealer, number, range, cut).await }));
    }
    while let Some(put) = puts.join_next().await {
        put??;
    }
    put_backup(&archive).await
}

/// Stores one object of WAL.
async fn put(
    archive: &Archive,
    sealer: &Sealer,
    number: u32,
    range: LsnRange,
    cut: WalCut,
) -> Result<(), Failure> {
    let commit = WalMark {
        start: range.start,
        end: Lsn(range.start.0 + 40),
        time: PgTimestamp(i64::from(number) * 1_000_000),
        kind: MarkKind::Commit {
            xid: FIRST_XID + number,
        },
    };
    let whole = matches!(cut, WalCut::Unit);
    let key = wal_key(TimelineId::FIRST, range, whole);
    let length = usize::try_from(range.len())?;
    let sealed = sealer.seal(
        kind_of(&key),
        &archive.name(&key),
        &[Bytes::from(vec![0; length])],
        &commit_index::encode(&[commit]),
    )?;
    let put = WalPut {
        timeline: TimelineId::FIRST,
        range,
        cut,
        sealed,
    };
    let _ = archive.put_wal(&put).await?;
    Ok(())
}

/// Stores a backup without files that ends in the first segment.
async fn put_backup(archive: &Archive) -> Result<(), Failure> {
    let at = jiff::Timestamp::UNIX_EPOCH;
    let id = BackupId::new(at, 1);
    let files = BackupFiles {
        version: 1,
        parts: Vec::new(),
        files: Vec::new(),
    };
    let key = ObjectKey::BackupFiles(id.clone());
    let _ = archive.put_record(&key, &files).await?;
    let record = BackupRecord {
        version: 1,
        id: id.clone(),
        kind: "full".to_owned(),
        label: "made".to_owned(),
        system_id: SystemId(1),
        server_version: ServerVersion(150_000),
        timeline: TimelineId::FIRST,
        start_lsn: Lsn(SEGMENT),
        stop_lsn: Lsn(SEGMENT + 40),
        started_at: at,
        stopped_at: at,
        size: 0,
        stored_size: 0,
        file_count: 0,
        tablespaces: Vec::new(),
        part_count: 0,
        kept: false,
        warnings: Vec::new(),
    };
    let _ = archive
        .put_record(&ObjectKey::BackupRecord(id), &record)
        .await?;
    Ok(())
}
