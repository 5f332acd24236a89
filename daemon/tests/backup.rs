//! Base backups of a real PostgreSQL into a real archive.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::collections::HashMap;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tempfile::TempDir;
use tokio::sync::Notify;
use walvault_archive::keys::KeyFile;
use walvault_archive::record::{BackupFiles, BackupRecord, FileKind, FileRecord};
use walvault_archive::{Archive, Catalog};
use walvault_daemon::backup::BringAlong;
use walvault_daemon::backup::{
    BackupError, BackupOptions, Label, Progress, Silent, Stage, WalSecured, lock, lock_name, take,
};
use walvault_daemon::observed::StreamState;
use walvault_daemon::pipeline::{CatchUp, Removals, Settings};
use walvault_daemon::stream::connect;
use walvault_daemon::stream::follow::{Context, Origin};
use walvault_harness::{Outcome, Postgres, needs_servers};
use walvault_layout::{BACKUPS_PREFIX, BackupId, ObjectKey};
use walvault_protocol::LsnRange;
use walvault_protocol::TimelineId;
use walvault_protocol::client::ConnInfo;
use walvault_protocol::manifest::{BackupManifest, FileChecksum};
use walvault_protocol::replication::SlotName;
use walvault_store::hooked::{Hooked, Hooks};
use walvault_store::metered::Operation;
use walvault_store::{Body, DirectoryStore, ObjectStore, SharedStore, StoreError};

const MIB: u64 = 1 << 20;

/// A server with an archive of its own.
struct Bench {
    server: Postgres,
    archive: Archive,
    info: ConnInfo,
    _home: TempDir,
}

impl Bench {
    async fn new(server: Postgres) -> Bench {
        Bench::with_store(server, |store| store).await
    }

    async fn with_store(server: Postgres, wrap: impl FnOnce(SharedStore) -> SharedStore) -> Bench {
        let home = tempfile::tempdir().unwrap();
        let (key, root) = (home.path().join("key"), home.path().join("archive"));
        fs::create_dir(&root).unwrap();
        let info = ConnInfo::parse(&server.url(), &|_| None).unwrap();
        let found = connect(&info).await.unwrap();
        let store = wrap(Arc::new(DirectoryStore::open(&root).unwrap()));
        let keys = vec![KeyFile::generate(&key).unwrap()];
        let archive =
            Archive::open_or_begin(store, keys, found.identity.system_id, found.segment_size)
                .await
                .unwrap();
        found.session.close().await;
        Bench {
            server,
            archive,
            info,
            _home: home,
        }
    }

    async fn bring_along(&self) -> BringAlong {
        let context = Context {
            info: self.info.clone(),
            slot: SlotName::new("unused").unwrap(),
            wal_dir: None,
            canary_every: Duration::ZERO,
            temporary: true,
            from: Origin::Slot,
            standby_waits: false,
            new_archive: false,
            settings: Settings {
                receiver_timeout: std::time::Duration::from_secs(60),
                max_delay: Duration::from_millis(100),
                memory: 64 * MIB,
                uploads: 2,
                ack: walvault_config::Ack::First,
                codec: walvault_archive::format::Codec::Lz4,
            },
            state: tokio::sync::watch::Sender::new(StreamState::default()),
            writing: tokio::sync::watch::Sender::new(None),
            metrics: Arc::default(),
            archive: tokio::sync::watch::Sender::new(None),
            journal: Default::default(),
            removals: Removals::default(),
            histories: Default::default(),
            copies: CatchUp::default(),
        };
        let mut server = connect(&self.info).await.unwrap();
        let slot = lock_name(&context.slot);
        lock(&mut server.session, &slot, true).await.unwrap();
        BringAlong::start(&self.archive, &context, server, slot)
            .await
            .unwrap()
    }

    async fn take(
        &self,
        options: &BackupOptions,
        wal: &mut dyn WalSecured,
        progress: &dyn Progress,
    ) -> Result<BackupRecord, BackupError> {
        let session = connect(&self.info).await.unwrap().session;
        take(&self.archive, session, options, wal, progress).await
    }

    /// Of a backup that must fail before it comes to its WAL.
    async fn fail(&self, options: &BackupOptions, progress: &dyn Progress) -> BackupError {
        self.take(options, &mut NoWal, progress).await.unwrap_err()
    }

    /// How many objects of backups there are, complete or not.
    async fn objects(&self) -> usize {
        self.archive.list(BACKUPS_PREFIX).await.unwrap().len()
    }

    async fn backups(&self) -> Vec<BackupRecord> {
        Catalog::load(&self.archive)
            .await
            .unwrap()
            .backups()
            .to_vec()
    }

    /// A table of about `mebibytes` that hardly compresses.
    fn fill(&self, table: &str, mebibytes: u64, tablespace: &str) {
        self.server.query(&format!(
            "CREATE TABLE {table} (id int, noise text) TABLESPACE {tablespace}"
        ));
        self.server.query(&format!(
            "INSERT INTO {table} SELECT n, (SELECT string_agg(md5((n * 40 + m)::text), '') FROM generate_series(1, 30) m)
             FROM generate_series(1, {}) n",
            mebibytes * 1000
        ));
    }
}

/// For backups that do not come so far.
struct NoWal;

#[async_trait]
impl WalSecured for NoWal {
    async fn secure(&mut self, _: TimelineId, range: LsnRange) -> Result<(), BackupError> {
        panic!("the backup asks for {range}");
    }
}

fn small_parts() -> BackupOptions {
    BackupOptions {
        label: Label::new("it's a test").unwrap(),
        part_size: MIB,
        ..BackupOptions::default()
    }
}

async fn files_of(archive: &Archive, record: &BackupRecord) -> BackupFiles {
    let key = ObjectKey::BackupFiles(record.id.clone());
    archive.get_record(&key).await.unwrap()
}

/// Reads every part and puts every file together, as a restore does.
async fn read_back(archive: &Archive, record: &BackupRecord) -> Vec<(FileRecord, Vec<u8>)> {
    let files = files_of(archive, record).await;
    assert_eq!(files.parts.len() as u64, record.part_count);
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for part in &files.parts {
        let key = ObjectKey::BackupPart(record.id.clone(), part.number);
        let stored = archive
            .store()
            .get(&archive.name(&key), None)
            .await
            .unwrap();
        assert_eq!(stored.len() as u64, part.stored);
        assert_eq!(hex::encode(Body::new(stored).sha256), part.sha256);
        let opened = archive.get(&key).await.unwrap();
        assert_eq!(opened.payload.len() as u64, part.length);
        parts.push(opened.payload);
    }
    let content = |file: &FileRecord| -> Vec<u8> {
        let bytes = |extent: &walvault_archive::record::Extent| {
            let start = extent.offset as usize;
            parts[extent.part as usize][start..start + extent.length as usize].to_vec()
        };
        file.extents.iter().flat_map(bytes).collect()
    };
    files
        .files
        .into_iter()
        .map(|file| (file.clone(), content(&file)))
        .collect()
}

/// Writes a backup to a directory, its tablespaces where their links would be.
async fn materialise(archive: &Archive, record: &BackupRecord, root: &Path) {
    let write = |path: &Path, content: &[u8]| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    for (file, content) in read_back(archive, record).await {
        let path = root.join(file.path.to_string());
        match file.kind {
            FileKind::File => write(&path, &content),
            FileKind::Directory => fs::create_dir_all(&path).unwrap(),
            FileKind::Symlink(target) => panic!("a link to {target}: tablespace_map has them"),
        }
    }
    let manifest = archive
        .get(&ObjectKey::BackupManifest(record.id.clone()))
        .await
        .unwrap();
    write(&root.join("backup_manifest"), &manifest.payload);
}

#[tokio::test(flavor = "multi_thread")]
#[needs_servers]
async fn a_backup_holds_every_byte() {
    let mut bench = Bench::new(Postgres::start_new()).await;
    let space = walvault_harness::user::server_dir();
    bench.server.query(&format!(
        "CREATE TABLESPACE fast LOCATION '{}'",
        space.path().display()
    ));
    bench.fill("here", 6, "pg_default");
    bench.fill("there", 3, "fast");
    bench.server.query("CREATE TABLE empty ()");

    let mut wal = bench.bring_along().await;
    let record = bench.take(&small_parts(), &mut wal, &Silent).await.unwrap();
    assert_eq!(bench.backups().await, std::slice::from_ref(&record));
    let catalog = Catalog::load(&bench.archive).await.unwrap();
    let coverage = &catalog.wal(record.timeline).unwrap().coverage;
    assert!(
        coverage.covers(&record.wal_needed(catalog.segment_size())),
        "{coverage:?}"
    );

    assert_eq!(record.label, "it's a test");
    assert_eq!(record.tablespaces.len(), 1);
    assert_eq!(
        record.tablespaces[0].location,
        space.path().display().to_string()
    );
    let parts = files_of(&bench.archive, &record).await.parts;
    assert!(parts.len() > 9);
    let (last, full) = parts.split_last().unwrap();
    assert!(full.iter().all(|part| part.length == MIB) && last.length <= MIB);
    let numbers: Vec<u32> = parts.iter().map(|part| part.number).collect();
    assert_eq!(numbers, (1..=parts.len() as u32).collect::<Vec<_>>());

    // What PostgreSQL says it sent is what is there, file by file.
    let manifest = bench
        .archive
        .get(&ObjectKey::BackupManifest(record.id.clone()))
        .await
        .unwrap();
    let manifest = BackupManifest::parse(&manifest.payload).unwrap();
    let files = read_back(&bench.archive, &record).await;
    let mut contents: HashMap<String, Vec<u8>> = HashMap::new();
    for (file, content) in files {
        if file.kind == FileKind::File {
            assert_eq!(content.len() as u64, file.size, "{}", file.path);
            contents.insert(file.path.to_string(), content);
        }
    }
    assert_eq!(contents.len(), manifest.files.len());
    assert_eq!(contents.len() as u64, record.file_count);
    assert_eq!(
        contents
            .values()
            .map(|content| content.len() as u64)
            .sum::<u64>(),
        record.size
    );
    for listed in &manifest.files {
        let content = &contents[&listed.path.to_string()];
        assert_eq!(content.len() as u64, listed.size, "{}", listed.path);
        assert_eq!(
            listed.checksum,
            Some(FileChecksum::Crc32c(crc32c::crc32c(content))),
            "{}",
            listed.path
        );
    }
    assert!(contents["backup_label"].starts_with(b"START WAL LOCATION: "));
    let oid: u32 = bench
        .server
        .value("SELECT oid FROM pg_tablespace WHERE spcname = 'fast'");
    let map = String::from_utf8(contents["tablespace_map"].clone()).unwrap();
    assert_eq!(map, format!("{oid} {}\n", space.path().display()));

    // Tables nobody wrote to since are on the server's disk as they are in the backup.
    for table in ["here", "there", "empty"] {
        let path: String = bench
            .server
            .value(&format!("SELECT pg_relation_filepath('{table}')"));
        assert_eq!(
            fs::read(bench.server.data_directory().join(&path)).unwrap(),
            contents[&path],
            "{table}"
        );
    }

    // PostgreSQL's own judge agrees.
    let restored = tempfile::tempdir().unwrap();
    materialise(&bench.archive, &record, restored.path()).await;
    fs::set_permissions(restored.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut judge = bench.server.client("pg_verifybackup");
    judge
        .arg("--no-parse-wal")
        .arg("--exit-on-error")
        .arg(restored.path());
    let verdict = Outcome::of(judge).succeeded();
    assert!(
        verdict.stdout.contains("backup successfully verified"),
        "{verdict}"
    );
    bench.server.stop(walvault_harness::Shutdown::Fast);
}

#[tokio::test(flavor = "multi_thread")]
#[needs_servers]
async fn damaged_pages_fail_it_unless_that_is_wanted() {
    let mut bench = Bench::new(Postgres::start_new()).await;
    bench.fill("damaged", 1, "pg_default");
    let path: String = bench.server.value("SELECT pg_relation_filepath('damaged')");
    bench.server.stop(walvault_harness::Shutdown::Fast);
    let relation = bench.server.data_directory().join(&path);
    let mut relation = fs::OpenOptions::new().write(true).open(relation).unwrap();
    relation.seek(SeekFrom::Start(3 * 8192 + 4000)).unwrap();
    relation.write_all(b"damage").unwrap();
    bench.server.start();

    let error = bench.fail(&small_parts(), &Silent).await;
    assert!(
        matches!(error, BackupError::PageChecksums { .. }),
        "{error:?}"
    );
    // With file and block, as the server warned of it.
    for text in ["--no-verify-checksums", &format!("\"./{path}\", block 3")] {
        assert!(error.to_string().contains(text), "{error}");
    }
    assert_eq!(bench.backups().await, []);

    let options = BackupOptions {
        verify_page_checksums: false,
        ..small_parts()
    };
    let mut wal = bench.bring_along().await;
    let record = bench.take(&options, &mut wal, &Silent).await.unwrap();
    assert!(
        record.warnings[0].contains("were not verified"),
        "{record:?}"
    );
    assert_eq!(bench.backups().await, [record]);
}

#[tokio::test(flavor = "multi_thread")]
#[needs_servers]
async fn what_the_server_leaves_out_is_on_record() {
    let bench = Bench::new(Postgres::start_new()).await;
    let link = bench.server.data_directory().join("elsewhere.conf");
    std::os::unix::fs::symlink("/etc/hostname", link).unwrap();
    let mut wal = bench.bring_along().await;
    let record = bench.take(&small_parts(), &mut wal, &Silent).await.unwrap();
    assert_eq!(record.warnings.len(), 1, "{record:?}");
    for text in ["WARNING", "elsewhere.conf"] {
        assert!(record.warnings[0].contains(text), "{record:?}");
    }
    assert_eq!(bench.backups().await, [record]);
}

/// Notices the first bytes.
#[derive(Default)]
struct Watcher {
    received: AtomicU64,
    begun: Notify,
}

impl Progress for Watcher {
    fn stage(&self, _: &Stage) {}

    fn received(&self, bytes: u64) {
        self.received.store(bytes, Ordering::Relaxed);
        self.begun.notify_one();
    }
}

/// Slow enough to be interrupted.
fn slow() -> BackupOptions {
    BackupOptions {
        max_rate_kib: Some(32),
        ..small_parts()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[needs_servers]
async fn a_server_that_dies_leaves_no_backup() {
    let mut bench = Bench::new(Postgres::start_new()).await;
    let watcher = Watcher::default();
    let session = connect(&bench.info).await.unwrap().session;
    let options = slow();
    let error = {
        let Bench {
            server, archive, ..
        } = &mut bench;
        let mut wal = NoWal;
        let taking = take(archive, session, &options, &mut wal, &watcher);
        let killing = async {
            watcher.begun.notified().await;
            tokio::task::block_in_place(|| server.kill());
        };
        tokio::join!(taking, killing).0.unwrap_err()
    };
    match &error {
        BackupError::Interrupted { received, .. } => {
            assert_eq!(*received, watcher.received.load(Ordering::Relaxed));
        }
        other => panic!("{other}"),
    }
    assert!(error.to_string().contains("take it again"), "{error}");
    assert_eq!(bench.backups().await, []);
}

#[tokio::test(flavor = "multi_thread")]
#[needs_servers]
async fn a_backup_that_is_dropped_ends_at_the_server_too() {
    let bench = Bench::new(Postgres::start_new()).await;
    let watcher = Watcher::default();
    let options = slow();
    let mut wal = NoWal;
    tokio::select! {
        result = bench.take(&options, &mut wal, &watcher) => panic!("{result:?}"),
        () = watcher.begun.notified() => {}
    }
    walvault_harness::wait::wait_for("the walsender ends", || {
        bench
            .server
            .query("SELECT count(*) FROM pg_stat_replication")
            == "0"
    });
    assert_eq!(bench.backups().await, []);
    // And nothing of it is in the way of the next.
    let mut wal = bench.bring_along().await;
    bench.take(&small_parts(), &mut wal, &Silent).await.unwrap();
    assert_eq!(bench.backups().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
#[needs_servers]
async fn a_checkpoint_is_not_waited_for_for_ever() {
    let bench = Bench::new(Postgres::start_new()).await;
    bench.fill("dirty", 2, "pg_default");
    let options = BackupOptions {
        fast_checkpoint: false,
        checkpoint_timeout: Duration::from_millis(300),
        ..small_parts()
    };
    let error = bench.fail(&options, &Silent).await;
    assert!(matches!(error, BackupError::Checkpoint { .. }), "{error}");
    assert_eq!(bench.backups().await, []);
}

/// A store that is full after some parts.
#[derive(Debug)]
struct Full {
    room: AtomicU64,
}

#[async_trait]
impl Hooks for Full {
    async fn asked(
        &self,
        store: &dyn ObjectStore,
        operation: Operation,
        key: &str,
    ) -> Result<(), StoreError> {
        let is_part = operation == Operation::Put && key.contains("/part-");
        let take_one = |room: u64| room.checked_sub(1);
        if is_part
            && self
                .room
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take_one)
                .is_err()
        {
            return Err(StoreError::refused(
                store.url(),
                "put",
                key,
                "no space left on device",
                "make room",
            ));
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
#[needs_servers]
async fn a_store_that_is_full_is_named() {
    let full = |inner| -> SharedStore {
        let room = AtomicU64::new(3);
        Arc::new(Hooked::over(inner, Full { room }))
    };
    let bench = Bench::with_store(Postgres::start_new(), full).await;
    let error = bench.fail(&small_parts(), &Silent).await.to_string();
    assert!(
        error.contains("no space left on device") && error.ends_with("make room"),
        "{error}"
    );
    assert_eq!(bench.backups().await, []);
    assert_eq!(bench.objects().await, 0, "what it stored is removed");
}

/// A store that lets nothing be removed, and counts who tries.
#[derive(Debug, Default)]
struct KeepsAll {
    tried: AtomicU64,
}

#[async_trait]
impl Hooks for KeepsAll {
    async fn asked(
        &self,
        store: &dyn ObjectStore,
        operation: Operation,
        key: &str,
    ) -> Result<(), StoreError> {
        if operation == Operation::Delete {
            self.tried.fetch_add(1, Ordering::Relaxed);
            return Err(StoreError::refused(
                store.url(),
                "delete",
                key,
                "access denied",
                "grant it",
            ));
        }
        Ok(())
    }
}

/// A cluster one of whose pages is damaged: PostgreSQL says so when all of it has been sent.
async fn fails_late(wrap: impl FnOnce(SharedStore) -> SharedStore) -> Bench {
    let mut bench = Bench::with_store(Postgres::start_new(), wrap).await;
    bench.fill("damaged", 4, "pg_default");
    let path: String = bench.server.value("SELECT pg_relation_filepath('damaged')");
    bench.server.stop(walvault_harness::Shutdown::Fast);
    let relation = bench.server.data_directory().join(&path);
    let mut relation = fs::OpenOptions::new().write(true).open(relation).unwrap();
    relation.seek(SeekFrom::Start(3 * 8192 + 4000)).unwrap();
    relation.write_all(b"damage").unwrap();
    bench.server.start();
    bench
}

#[tokio::test(flavor = "multi_thread")]
#[needs_servers]
async fn what_a_failed_backup_stored_is_removed_and_nothing_else() {
    let bench = fails_late(|store| store).await;
    // Another backup that is being taken, and has stored a part.
    let other = BackupId::new(jiff::Timestamp::now(), 1);
    let part = ObjectKey::BackupPart(other, 1);
    let content = bytes::Bytes::from_static(b"x");
    bench.archive.put_payload(&part, content).await.unwrap();

    let error = bench.fail(&small_parts(), &Silent).await;
    assert!(
        matches!(error, BackupError::PageChecksums { .. }),
        "{error}"
    );
    let left = bench.archive.list(BACKUPS_PREFIX).await.unwrap();
    let left: Vec<_> = left.into_iter().map(|object| object.key).collect();
    assert_eq!(left, [part]);
}

#[tokio::test(flavor = "multi_thread")]
#[needs_servers]
async fn a_host_that_may_not_delete_asks_once_and_leaves_it_to_a_prune() {
    let mut keeps = None;
    let bench = fails_late(|inner| {
        let store = Hooked::over(inner, KeepsAll::default());
        keeps = Some(store.clone());
        Arc::new(store)
    })
    .await;
    let error = bench.fail(&small_parts(), &Silent).await;
    assert!(
        matches!(error, BackupError::PageChecksums { .. }),
        "{error}"
    );
    assert!(bench.objects().await > 4);
    assert_eq!(keeps.unwrap().tried.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
#[needs_servers]
async fn another_clusters_archive_is_refused() {
    let theirs = Bench::new(Postgres::start_new()).await;
    let ours = Bench::new(Postgres::start_new()).await;
    let session = connect(&ours.info).await.unwrap().session;
    let error = take(
        &theirs.archive,
        session,
        &small_parts(),
        &mut NoWal,
        &Silent,
    )
    .await
    .unwrap_err();
    assert!(
        matches!(
            error,
            BackupError::Archive(walvault_archive::Error::OtherSystem { .. })
        ),
        "{error}"
    );
}

/// The protocol changed with 15, the manifest with 17.
#[tokio::test(flavor = "multi_thread")]
#[needs_servers]
async fn every_supported_version_is_backed_up() {
    for major in walvault_harness::cache::installed_majors() {
        let bench = Bench::new(Postgres::builder().major(major).start()).await;
        let space = walvault_harness::user::server_dir();
        bench.server.query(&format!(
            "CREATE TABLESPACE fast LOCATION '{}'",
            space.path().display()
        ));
        bench.fill("here", 2, "pg_default");
        bench.fill("there", 1, "fast");
        let mut wal = bench.bring_along().await;
        let record = bench.take(&small_parts(), &mut wal, &Silent).await;
        let record = record.unwrap_or_else(|error| panic!("{major}: {error}"));
        assert_eq!(record.server_version.major(), major);
        for (file, content) in read_back(&bench.archive, &record).await {
            if file.kind == FileKind::File {
                assert_eq!(
                    file.crc32c,
                    Some(crc32c::crc32c(&content)),
                    "{major}: {}",
                    file.path
                );
            }
        }
        assert_eq!(bench.backups().await, [record]);
    }
}
