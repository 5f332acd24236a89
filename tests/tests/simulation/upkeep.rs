//! Base backups, prunes and plans of restores: what is done to an archive beside the sidecars.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use walvault_archive::record::{BackupFiles, BackupRecord, PartRecord};
use walvault_archive::{Archive, Catalog, Error};
use walvault_daemon::backup::{Patience, Watched, complete};
use walvault_layout::{BackupId, ObjectKey};
use walvault_protocol::wal::synthetic::SYSTEM;
use walvault_protocol::{Lsn, ServerVersion, TimelineId};
use walvault_restore::marks::ArchiveMarks;
use walvault_restore::plan::{Request, plan as plan_restore};
use walvault_restore::target::{Point, Target, TimelineChoice};
use walvault_store::{RetryPolicy, Retrying, clock};
use walvault_upkeep::lock::Lock;
use walvault_upkeep::prune::{Asked, PruneError, apply, plan};
use walvault_upkeep::retention::{RetentionPolicy, before};

use crate::backups::Backup;
use crate::sidecar::key;
use crate::store::SimulatedStore;
use crate::world::World;

/// How long a backup waits for the WAL that makes it consistent.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often it looks for that: not by chance, since chance is the world's.
const LOOKS: Patience = Patience {
    poll_min: Duration::from_millis(200),
    poll_max: Duration::from_millis(200),
    stall: PATIENCE,
};

/// A process that is none of the sidecars.
pub struct Upkeep {
    pub world: World,
    pub number: u32,
}

impl Upkeep {
    async fn archive(&self) -> Result<Archive, Error> {
        let store = Arc::new(SimulatedStore::of(&self.world, self.number));
        let store = Arc::new(Retrying::new(store, RetryPolicy::default()));
        Archive::open(store, vec![key()]).await
    }

    fn note(&self, what: &str) {
        let number = self.number;
        self.world.lock().note(format!("process {number}: {what}"));
    }

    /// Takes a base backup of a node.
    pub async fn back_up(self, node: usize) {
        match timeout(PATIENCE, self.try_back_up(node)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.note(&format!("no backup: {error}")),
            Err(_) => self.note("no backup: its WAL is not archived"),
        }
    }

    async fn try_back_up(&self, node: usize) -> Result<(), Error> {
        let archive = self.archive().await?;
        let backup = {
            let written = self.world.draw(300_000);
            let random = self.world.draw(1 << 16) as u16;
            let mut state = self.world.lock();
            let line = state.nodes[node].line;
            let start = state.end(line);
            state.write(line, written);
            let backup = Backup {
                id: BackupId::new(clock::now(), random),
                line,
                start,
                stop: state.end(line),
                stopped_at: clock::now(),
            };
            state.note(format!("process {}: {backup:?} is taken", self.number));
            state.backups.push(backup.clone());
            backup
        };
        self.world.tell();
        let id = &backup.id;
        let payload = || Bytes::from_static(b"x");
        archive
            .put_payload(&ObjectKey::BackupPart(id.clone(), 1), payload())
            .await?;
        archive
            .put_payload(&ObjectKey::BackupManifest(id.clone()), payload())
            .await?;
        let files = BackupFiles {
            version: 1,
            parts: vec![PartRecord {
                backup: None,
                number: 1,
                length: 1,
                stored: 1,
                sha256: String::new(),
            }],
            files: Vec::new(),
        };
        let mut watched = Watched::new(archive.clone(), LOOKS);
        if let Err(error) = complete(&archive, &files, record(&backup), &mut watched).await {
            self.note(&format!("no backup: {error}"));
        }
        Ok(())
    }

    /// Removes what `policy` frees.
    pub async fn prune(self, policy: RetentionPolicy) {
        match self.try_prune(&policy).await {
            Ok(()) => self.note("pruned"),
            Err(error) => self.note(&format!("not pruned: {error}")),
        }
    }

    async fn try_prune(&self, policy: &RetentionPolicy) -> Result<(), PruneError> {
        let archive = self.archive().await?;
        let mut lock = Lock::take(&archive, "a prune", Duration::ZERO).await?;
        let now = clock::now();
        let complete_before = self.world.lock().complete();
        let asked = Asked {
            policy: policy.clone(),
            now,
            store_now: None,
            ignore_clock: false,
            share: None,
        };
        let plan = plan(&archive, &asked).await?;
        let promised = {
            let mut state = self.world.lock();
            state.pruners.insert(self.number);
            let mut promised = state.kept_by(policy, now);
            // What was completed since counts if its last object was too young to be left over.
            let young = |id: &BackupId| state.files_stored(id) >= Some(before(now, policy.grace));
            promised.retain(|id| complete_before.contains(id) || young(id));
            promised
        };
        apply(&archive, &plan, &mut lock, "a prune").await?;
        {
            // While the lock is held: the next prune may follow another policy.
            let mut state = self.world.lock();
            let gone = promised.into_iter().find(|id| !state.is_listed(id));
            if let Some(id) = gone {
                state.violate(format!("{id} is gone, which {policy:?} keeps"));
            }
        }
        lock.release().await?;
        Ok(())
    }
}

/// Plans restores of `line`: what was promised is reached, and from a backup that is there.
pub async fn plan_restores(world: &World, archive: &Archive, line: usize) -> Result<(), String> {
    let (leading, promised, last_record) = {
        let state = world.lock();
        let promised = state.promised(line);
        let leading: Vec<Backup> = state.leading_to(line).cloned().collect();
        (leading, promised, state.record_before(line, promised))
    };
    let catalog = Catalog::load(archive).await.map_err(|e| e.to_string())?;
    let source = ArchiveMarks::new(archive, &catalog);
    let timeline = TimelineId::new(line as u32 + 1).expect("not zero");
    let request = |point| Request {
        target: Target::inclusive(point),
        timeline: TimelineChoice::Id(timeline),
        backup: None,
    };
    let to_end = plan_restore(&catalog, &source, &request(Point::End)).await;
    let Some(oldest) = leading.iter().map(|backup| backup.stop).min() else {
        return match to_end {
            Ok(plan) => Err(format!("{} leads nowhere and is planned", plan.backup.id)),
            Err(_) => Ok(()),
        };
    };
    let end = to_end.map_err(|error| format!("the end cannot be reached: {error}"))?;
    if end.stop.lsn < promised {
        let stop = end.stop.lsn;
        return Err(format!("{promised} was reported, planned is {stop}"));
    }
    if !leading.iter().any(|backup| backup.id == end.backup.id) {
        return Err(format!("{} does not lead there", end.backup.id));
    }
    // PostgreSQL stops after a record that begins at or after the target.
    if last_record >= oldest {
        let plan = plan_restore(&catalog, &source, &request(Point::Lsn(last_record))).await;
        let plan = plan.map_err(|error| format!("{last_record} cannot be reached: {error}"))?;
        if plan.backup.stop_lsn > last_record {
            return Err(format!("{} is after {last_record}", plan.backup.id));
        }
    }
    let before = Lsn(oldest.0 - 1);
    let refused = plan_restore(&catalog, &source, &request(Point::Lsn(before))).await;
    match refused {
        Ok(plan) => Err(format!("{before} is reached from {}", plan.backup.id)),
        Err(_) => Ok(()),
    }
}

fn record(backup: &Backup) -> BackupRecord {
    BackupRecord {
        version: 1,
        id: backup.id.clone(),
        kind: "full".to_owned(),
        label: String::new(),
        system_id: SYSTEM,
        server_version: ServerVersion(150_000),
        timeline: TimelineId::new(backup.line as u32 + 1).expect("not zero"),
        start_lsn: backup.start,
        stop_lsn: backup.stop,
        started_at: backup.stopped_at,
        stopped_at: backup.stopped_at,
        size: 1,
        stored_size: 1,
        file_count: 0,
        tablespaces: Vec::new(),
        part_count: 1,
        kept: false,
        warnings: Vec::new(),
    }
}
