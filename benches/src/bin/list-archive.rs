//! How long `walvault list` takes over an archive of many segments, and the most memory it uses.
//!
//! `list-archive PROGRAM DIRECTORY [SEGMENTS]` makes the archive in a new directory (100,000 segments unless told otherwise,
//! every thousandth followed by a backup), runs `PROGRAM list --json` three times, and prints seconds and MiB. The
//! segments hold next to nothing: a listing looks at names, and into few objects.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use walvault_archive::Archive;
use walvault_archive::archive::{kind_of, wal_key};
use walvault_archive::format::Codec;
use walvault_archive::keys::KeyFile;
use walvault_archive::record::{BackupRecord, commit_index};
use walvault_archive::seal::Sealer;
use walvault_layout::{BackupId, ObjectKey};
use walvault_protocol::wal::{MarkKind, WalMark};
use walvault_protocol::{
    Lsn, LsnRange, PgTimestamp, SegmentSize, ServerVersion, SystemId, TimelineId,
};
use walvault_store::directory::DirectoryStore;

const SEGMENT: u64 = 16 << 20;
const BACKUP_EVERY: u64 = 1000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (program, directory) = match &arguments[..] {
        [program, directory, ..] => (program.as_str(), Path::new(directory)),
        _ => return Err("usage: list-archive PROGRAM DIRECTORY [SEGMENTS]".into()),
    };
    let segments = match arguments.get(2) {
        Some(segments) => segments.parse()?,
        None => 100_000,
    };
    let begun = Instant::now();
    let config = make(directory, segments).await?;
    println!(
        "{segments} segments and {} backups, made in {:.1} s",
        segments / BACKUP_EVERY,
        begun.elapsed().as_secs_f64()
    );
    for _ in 0..3 {
        let (took, peak) = run(program, &config)?;
        println!("list: {:.2} s, at most {peak:.0} MiB", took.as_secs_f64());
    }
    Ok(())
}

/// Makes the archive; returns the path of a configuration that names it.
async fn make(directory: &Path, segments: u64) -> Result<String, Box<dyn Error>> {
    let root = directory.join("archive");
    fs::create_dir_all(&root)?;
    let root = root.canonicalize()?;
    let file = directory.join("walvault.key");
    let key = KeyFile::generate(&file)?;
    let store = Arc::new(DirectoryStore::open(root.clone())?);
    let size = SegmentSize::new(SEGMENT)?;
    let archive = Archive::open_or_begin(store, vec![key], SystemId(1), size).await?;
    let sealer = archive.sealer(Codec::None).await?;
    let put = |key: &ObjectKey, payload: &[u8], attachment: &[u8]| {
        put(&archive, &sealer, &root, key, payload, attachment)
    };
    for number in 1..=segments {
        let start = Lsn(number * SEGMENT);
        let commit = WalMark {
            start,
            end: Lsn(start.0 + 40),
            time: PgTimestamp(number.cast_signed() * 60_000_000),
            kind: MarkKind::Commit { xid: 700 },
        };
        let key = wal_key(
            TimelineId::FIRST,
            LsnRange::new(start, start + SEGMENT),
            true,
        );
        put(&key, b"WAL", &commit_index::encode(&[commit]))?;
        if number.is_multiple_of(BACKUP_EVERY) {
            let record = backup(number);
            let key = ObjectKey::BackupRecord(record.id.clone());
            put(&key, &serde_json::to_vec(&record)?, b"")?;
        }
    }
    let config = directory.join("walvault.toml");
    let text = format!(
        "[archive]\nurl = \"file://{}\"\n[encryption]\nkey_file = \"{}\"\n",
        root.display(),
        file.canonicalize()?.display()
    );
    fs::write(&config, text)?;
    Ok(config.display().to_string())
}

/// Writes a sealed object without settling it on the disk, which would take most of the time.
fn put(
    archive: &Archive,
    sealer: &Sealer,
    root: &Path,
    key: &ObjectKey,
    payload: &[u8],
    attachment: &[u8],
) -> Result<(), Box<dyn Error>> {
    let name = archive.name(key);
    let payload = [Bytes::copy_from_slice(payload)];
    let object = sealer.seal(kind_of(key), &name, &payload, attachment)?;
    let path = root.join(name);
    fs::create_dir_all(path.parent().ok_or("a directory")?)?;
    Ok(fs::write(path, &object.body.bytes)?)
}

/// A backup that ends in the segment of this number.
fn backup(number: u64) -> BackupRecord {
    let at = jiff::Timestamp::UNIX_EPOCH + Duration::from_secs(number * 60);
    BackupRecord {
        version: 1,
        id: BackupId::new(at, 1),
        kind: "full".to_owned(),
        label: "nightly".to_owned(),
        system_id: SystemId(1),
        server_version: ServerVersion(150_000),
        timeline: TimelineId::FIRST,
        start_lsn: Lsn(number * SEGMENT + 40),
        stop_lsn: Lsn(number * SEGMENT + 4000),
        started_at: at,
        stopped_at: at,
        size: 1 << 40,
        stored_size: 1 << 39,
        file_count: 1000,
        tablespaces: Vec::new(),
        part_count: 1 << 15,
        kept: false,
        warnings: Vec::new(),
    }
}

/// Runs the program to its end; how long it took, and its peak memory in MiB, which Linux tells while it runs.
fn run(program: &str, config: &str) -> Result<(Duration, f64), Box<dyn Error>> {
    let begun = Instant::now();
    let mut listing = Command::new(program)
        .args(["list", "--json", "--config", config])
        .stdout(Stdio::null())
        .spawn()?;
    let status = format!("/proc/{}/status", listing.id());
    let mut peak = 0.0f64;
    let ended = loop {
        if let Some(ended) = listing.try_wait()? {
            break ended;
        }
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
        let kib: f64 = kib
            .and_then(|kib| kib.trim().parse().ok())
            .unwrap_or_default();
        peak = peak.max(kib / 1024.0);
        std::thread::sleep(Duration::from_millis(5));
    };
    match ended.success() {
        true => Ok((begun.elapsed(), peak)),
        false => Err(format!("{program} list: {ended}").into()),
    }
}
