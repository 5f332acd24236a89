//! A cluster's history: real objects in a real archive, and beside them what the model knows.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use proptest::test_runner::TestCaseError;
use walvault_archive::archive::{Archive, wal_key};
use walvault_archive::catalog::Catalog;
use walvault_archive::keep;
use walvault_archive::keys::{KeyAccess, KeyFile, Secret};
use walvault_archive::record::{BackupFiles, BackupRecord, GapRecord, KeepChange, PartRecord};
use walvault_layout::{BackupId, ObjectKey};
use walvault_protocol::{Lsn, LsnRange, SegmentSize, ServerVersion, SystemId, TimelineId};
use walvault_store::hooked::{Hooked, Hooks};
use walvault_store::metered::Operation;
use walvault_store::{MemoryStore, ObjectStore, StoreError};

use super::model::{Backup, Model};
use crate::lock::Lock;
use crate::prune::{Asked, PruneError, PrunePlan, apply, plan};
use crate::retention::RetentionPolicy;

/// Bytes of a segment.
pub const SEGMENT: u64 = 1 << 20;

/// What happens to a cluster and its archive.
#[derive(Debug, Clone)]
pub enum Event {
    /// So many segments are archived.
    Wal(u64),
    /// A backup is taken, whose files lie in part in the one before if so said.
    Backup(bool),
    /// So many hours pass.
    Hours(u64),
    /// A standby is promoted that had replayed so many segments less.
    Fork(u64),
    /// So many segments are lost.
    Gap(u64),
    /// A backup is kept.
    Keep(proptest::sample::Index),
    /// A backup is begun and never completed.
    Unfinished,
    /// A chunk outlives its segment.
    Chunk,
    /// A prune runs, and may be cut off after so many removals.
    Prune(RetentionPolicy, Option<i64>),
}

/// A store that stops removing.
#[derive(Debug)]
struct Mortal {
    removals_left: AtomicI64,
}

/// A cluster's history.
pub struct History {
    pub archive: Archive,
    memory: Arc<MemoryStore>,
    store: Hooked<Mortal>,
    model: Model,
    now: Timestamp,
    backups_begun: u16,
}

impl History {
    /// A new cluster and a new archive.
    pub async fn begin() -> History {
        let key = KeyFile::from_secret(Secret::generate().expect("random bits"));
        History::begin_with(vec![key]).await
    }

    /// As [`History::begin`], sealed and opened with `keys`.
    pub async fn begin_with(keys: impl Into<KeyAccess>) -> History {
        let memory = Arc::new(MemoryStore::new());
        let mortal = Mortal {
            removals_left: AtomicI64::new(i64::MAX),
        };
        let store = Hooked::over(memory.clone(), mortal);
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().expect("a time");
        memory.set_time(now);
        let size = SegmentSize::new(SEGMENT).expect("a size");
        let archive = Archive::open_or_begin(Arc::new(store.clone()), keys, SystemId(1), size)
            .await
            .expect("an archive");
        History {
            archive,
            memory,
            store,
            model: Model::new(),
            now,
            backups_begun: 0,
        }
    }

    /// The backups that the model knows, oldest first.
    pub fn ids(&self) -> Vec<BackupId> {
        self.model
            .backups
            .iter()
            .map(|backup| backup.id.clone())
            .collect()
    }

    /// Locks what is put from now on for so long.
    pub fn lock_for(&self, length: Duration) {
        self.memory.set_retention(length);
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Sets the clock that plans are made by back.
    pub fn set_back(&mut self, by: Duration) {
        self.now = self.now.checked_sub(by).expect("a time");
    }

    /// Plans a prune.
    pub async fn plan(&self, policy: &RetentionPolicy) -> Result<PrunePlan, TestCaseError> {
        self.try_plan(policy, false)
            .await
            .map_err(|error| TestCaseError::fail(error.to_string()))
    }

    pub async fn try_plan(
        &self,
        policy: &RetentionPolicy,
        ignore_clock: bool,
    ) -> Result<PrunePlan, PruneError> {
        let asked = Asked {
            policy: policy.clone(),
            now: self.now,
            store_now: None,
            ignore_clock,
            share: None,
        };
        plan(&self.archive, &asked).await
    }

    /// Seals under the data keys of `keys` from now on; what was sealed before stays. The keys before.
    pub fn seal_with(&mut self, keys: KeyAccess) -> KeyAccess {
        let store = Arc::new(self.store.clone());
        let before = self.archive.keyring().access().clone();
        self.archive = self.archive.within(store, keys);
        before
    }

    /// Lets something happen.
    pub async fn happen(&mut self, event: Event) -> Result<(), TestCaseError> {
        match event {
            Event::Wal(count) => self.archive_wal(count).await,
            Event::Backup(borrows) => self.back_up(borrows).await,
            Event::Hours(hours) => {
                let hours = Duration::from_secs(hours * 3600);
                self.now = self.now.checked_add(hours).expect("a time");
                self.memory.set_time(self.now);
            }
            Event::Fork(back) => self.fork(back).await,
            Event::Gap(count) => self.lose(count).await,
            Event::Keep(which) => self.keep(which).await,
            Event::Unfinished => {
                let id = self.next_id();
                self.put(&ObjectKey::BackupPart(id, 1)).await;
            }
            Event::Chunk => self.leave_chunk().await,
            Event::Prune(policy, crash_after) => return self.prune(&policy, crash_after).await,
        }
        Ok(())
    }

    async fn put(&self, key: &ObjectKey) {
        let payload = Bytes::from_static(b"x");
        self.archive
            .put_payload(key, payload)
            .await
            .expect("stored");
    }

    async fn archive_wal(&mut self, count: u64) {
        for _ in 0..count {
            let (timeline, segment) = self.model.write(self.now);
            let range = LsnRange::new(Lsn(segment * SEGMENT), Lsn((segment + 1) * SEGMENT));
            self.put(&wal_key(timeline, range, true)).await;
        }
    }

    fn next_id(&mut self) -> BackupId {
        self.backups_begun += 1;
        BackupId::new(self.now, self.backups_begun)
    }

    async fn back_up(&mut self, borrows: bool) {
        let id = self.next_id();
        let segment = self.model.next_segment();
        // After the point where a timeline may have begun in this segment.
        let start_lsn = Lsn(segment * SEGMENT + 0x9_0000);
        // One that begins in the first segment and ends in the second.
        let stop_lsn = Lsn((segment + 1) * SEGMENT + 0x100);
        let timeline = self.model.timeline();
        self.archive_wal(2).await;
        let lender = self
            .model
            .backups
            .last()
            .filter(|_| borrows)
            .map(|backup| backup.id.clone());
        let mut parts = vec![(None, 1)];
        parts.extend(lender.map(|lender| (Some(lender), 1)));
        let files = BackupFiles {
            version: 1,
            parts: parts
                .iter()
                .map(|(owner, number)| part(owner.clone(), *number))
                .collect(),
            files: Vec::new(),
        };
        self.put(&ObjectKey::BackupPart(id.clone(), 1)).await;
        self.put(&ObjectKey::BackupManifest(id.clone())).await;
        let key = ObjectKey::BackupFiles(id.clone());
        self.archive.put_record(&key, &files).await.expect("stored");
        let record = record(&id, timeline, start_lsn, stop_lsn, self.now);
        let key = ObjectKey::BackupRecord(id.clone());
        self.archive
            .put_record(&key, &record)
            .await
            .expect("stored");
        let needs = parts.into_iter().map(|(owner, number)| {
            ObjectKey::BackupPart(owner.unwrap_or_else(|| id.clone()), number)
        });
        self.model.backups.push(Backup {
            id: id.clone(),
            timeline,
            first: segment,
            last: segment + 1,
            stopped_at: self.now,
            kept: false,
            objects: needs
                .chain([
                    ObjectKey::BackupManifest(id.clone()),
                    ObjectKey::BackupFiles(id.clone()),
                ])
                .collect(),
        });
    }

    async fn fork(&mut self, back: u64) {
        let (timeline, lines) = self.model.fork(back);
        let content = Bytes::from(lines);
        let key = ObjectKey::History(timeline);
        self.archive
            .put_payload(&key, content)
            .await
            .expect("stored");
    }

    async fn lose(&mut self, count: u64) {
        let timeline = self.model.timeline();
        let first = self.model.next_segment();
        self.model.skip(count);
        let range = LsnRange::new(Lsn(first * SEGMENT), Lsn((first + count) * SEGMENT));
        let record = GapRecord {
            version: 1,
            timeline,
            range,
            cause: "lost".to_owned(),
            noticed_at: self.now,
        };
        let key = ObjectKey::Gap(timeline, range);
        self.archive
            .put_record(&key, &record)
            .await
            .expect("stored");
    }

    async fn keep(&mut self, which: proptest::sample::Index) {
        if !self.model.backups.is_empty() {
            let count = self.model.backups.len();
            let backup = &mut self.model.backups[which.index(count)];
            backup.kept = true;
            keep::say(&self.archive, &backup.id, "somebody", KeepChange::Keep)
                .await
                .expect("said");
        }
    }

    async fn leave_chunk(&mut self) {
        let (timeline, segment) = (self.model.timeline(), self.model.next_segment());
        let start = segment * SEGMENT;
        self.archive_wal(1).await;
        let range = LsnRange::new(Lsn(start), Lsn(start + 0x1000));
        self.put(&wal_key(timeline, range, false)).await;
    }

    async fn prune(
        &mut self,
        policy: &RetentionPolicy,
        crash_after: Option<i64>,
    ) -> Result<(), TestCaseError> {
        let plan = self.plan(policy).await?;
        let promised = self.model.promised(policy, self.now);
        let mut lock = Lock::take(&self.archive, "test", Duration::ZERO)
            .await
            .expect("nobody else has it");
        let limit = crash_after.unwrap_or(i64::MAX);
        self.store.removals_left.store(limit, Ordering::SeqCst);
        let applied = apply(&self.archive, &plan, &mut lock, "test").await;
        self.store.removals_left.store(i64::MAX, Ordering::SeqCst);
        lock.release().await.expect("released");
        if crash_after.is_none() {
            applied.map_err(|error| TestCaseError::fail(error.to_string()))?;
        }

        let catalog = Catalog::load(&self.archive).await.expect("it reads");
        let listed = catalog
            .backups()
            .iter()
            .map(|backup| backup.id.clone())
            .collect();
        let objects = self.archive.list("").await.expect("it lists");
        let objects = objects.into_iter().map(|object| object.key).collect();
        self.model.observe(&listed, &objects, &promised)?;
        if crash_after.is_none() {
            self.model.nothing_is_too_much(policy, &listed)?;
        }
        for backup in catalog
            .backups()
            .iter()
            .filter(|backup| promised.backups.contains(&backup.id))
        {
            let history = catalog.history(backup.timeline);
            let reached = catalog.reach_from(&history, backup);
            if reached < backup.stop_lsn {
                return Err(TestCaseError::fail(format!("{} is broken", backup.id)));
            }
        }
        Ok(())
    }
}

fn part(backup: Option<BackupId>, number: u32) -> PartRecord {
    PartRecord {
        backup,
        number,
        length: 1,
        stored: 1,
        sha256: String::new(),
    }
}

fn record(id: &BackupId, timeline: TimelineId, from: Lsn, to: Lsn, at: Timestamp) -> BackupRecord {
    BackupRecord {
        version: 1,
        id: id.clone(),
        kind: "full".to_owned(),
        label: String::new(),
        system_id: SystemId(1),
        server_version: ServerVersion(150_000),
        timeline,
        start_lsn: from,
        stop_lsn: to,
        started_at: at,
        stopped_at: at,
        size: 1,
        stored_size: 1,
        file_count: 0,
        tablespaces: Vec::new(),
        part_count: 1,
        kept: false,
        warnings: Vec::new(),
    }
}

#[async_trait]
impl Hooks for Mortal {
    async fn asked(
        &self,
        _store: &dyn ObjectStore,
        operation: Operation,
        key: &str,
    ) -> Result<(), StoreError> {
        let removal = operation == Operation::Delete;
        if removal && self.removals_left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            return Err(StoreError::unavailable("memory:", "delete", key, "killed"));
        }
        Ok(())
    }
}
