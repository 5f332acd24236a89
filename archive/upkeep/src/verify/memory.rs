//! What earlier verifications found sound, so that a repeat costs little, and so that what was
//! there and is gone, or is another, is noticed.
//!
//! Each run leaves one sealed object with what it read; when there are many, the next one holds
//! what all of them say, and they are removed. Who cannot open the archive cannot forge one; who can
//! delete objects can make walvault forget the newest, as everything else that is newest, unless the
//! bucket forbids it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use walvault_archive::archive::Archive;
use walvault_archive::catalog::Catalog;
use walvault_archive::damage::is_damage;
use walvault_archive::error::Error;
use walvault_archive::inventory::unpruned;
use walvault_archive::record::{Finding, FindingKind, PruneRecord, Seen, VerifiedRecord};
use walvault_layout::{KeyId, ObjectKey, PRUNED_PREFIX, VERIFIED_PREFIX, numbers};
use walvault_store::StoreError;
use walvault_store::clock;

use super::{Run, Scope, names};

/// How many records there may be before they become one.
const MOST_RECORDS: usize = 32;

/// How many of the newest records are looked at for one by somebody.
const RECENT: usize = 5;

/// Everything that is remembered.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// By name. What was seen first counts as what it is, and the newest look as the last.
    objects: BTreeMap<String, Seen>,
    /// The numbers of the records it was read from, in order.
    records: Vec<u32>,
    /// Records up to this number are replaced by others.
    replaces: u32,
    /// Those of them that are still there.
    replaced: Vec<u32>,
}

/// Reads all that is remembered, but for what is sealed under `damaged` data keys; anew where another verification
/// has just put a record together with others.
pub(super) async fn load(archive: &Archive, damaged: &BTreeSet<KeyId>) -> Result<Memory, Error> {
    unpruned(|| load_once(archive, damaged)).await
}

async fn load_once(archive: &Archive, damaged: &BTreeSet<KeyId>) -> Result<Memory, Error> {
    let mut memory = Memory::default();
    let mut records: Vec<VerifiedRecord> = Vec::new();
    for object in archive.list(VERIFIED_PREFIX).await?.into_iter().rev() {
        let ObjectKey::Verified(number) = object.key else {
            continue;
        };
        if number <= memory.replaces {
            memory.replaced.push(number);
            continue;
        }
        match archive.get_record::<VerifiedRecord>(&object.key).await {
            Ok(record) => {
                memory.replaces = memory.replaces.max(record.replaces.min(number - 1));
                memory.records.push(number);
                records.push(record);
            }
            // Found when it is read as an object.
            Err(error) if is_damage(&error, damaged) => {}
            Err(error) => return Err(error),
        }
    }
    memory.records.reverse();
    for record in records.into_iter().rev() {
        for (name, seen) in record.objects {
            let known = memory.objects.entry(name).or_insert_with(|| seen.clone());
            if known.sha256 == seen.sha256 && known.at < seen.at {
                *known = seen;
            }
        }
    }
    Ok(memory)
}

impl Memory {
    /// What is remembered of an object.
    pub(super) fn get(&self, name: &str) -> Option<&Seen> {
        self.objects.get(name)
    }

    /// Stores what was `seen`, and puts records together when there are many or `scope` accepts what
    /// is there. Of what is not listed any more, only what is `gone` unexplained stays known, so that
    /// it is found again until that is accepted. Whoever may not write there is not remembered, and
    /// that is no error.
    pub(super) async fn remember(
        mut self,
        archive: &Archive,
        scope: &Scope,
        by: &str,
        seen: BTreeMap<String, Seen>,
        findings: &[Finding],
        is_listed_or_gone: impl Fn(&str) -> bool,
    ) -> Result<(), Error> {
        let together = scope.accept || self.records.len() >= MOST_RECORDS;
        if seen.is_empty() && findings.is_empty() && !together {
            return Ok(());
        }
        let mut record = VerifiedRecord {
            version: 1,
            at: clock::now(),
            by: by.to_owned(),
            depth: scope.depth,
            replaces: 0,
            objects: seen,
            findings: findings.to_vec(),
        };
        if together {
            record.replaces = self.records.last().copied().unwrap_or(self.replaces);
            self.replaced.append(&mut self.records);
            for (name, seen) in self.objects {
                if is_listed_or_gone(&name) {
                    record.objects.entry(name).or_insert(seen);
                }
            }
            let size = archive.segment_size();
            record
                .objects
                .retain(|name, _| match ObjectKey::parse(name, size) {
                    Some(ObjectKey::Verified(number)) => number > record.replaces,
                    _ => true,
                });
        }
        match store(archive, &record).await {
            Ok(()) => {}
            Err(error) if error.is_withheld() => {
                tracing::warn!(%error, "what was verified could not be written down; the next run reads it again");
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        for number in self.replaced {
            match archive.erase(&ObjectKey::Verified(number)).await {
                // The store does not let it go yet. It says nothing any more.
                Ok(())
                | Err(Error::Store(StoreError::Locked { .. } | StoreError::Refused { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Run {
    /// Finds what was seen once, is not listed, and no prune removed.
    pub(super) fn vanished(
        &mut self,
        catalog: &Catalog,
        listed: &HashSet<String>,
        pruned: &[PruneRecord],
    ) {
        if self.scope.accept {
            return;
        }
        let size = self.archive.segment_size();
        let parsed = |name: &String| ObjectKey::parse(name, size);
        let rewrapped: HashSet<KeyId> = listed
            .iter()
            .filter_map(|name| match parsed(name)? {
                ObjectKey::Key(id, _) => Some(id),
                _ => None,
            })
            .collect();
        let replaces = self.memory.replaces;
        let explained = |key: &ObjectKey, name: &str| match key {
            // Changing who can open a data key leaves only its newest generation.
            ObjectKey::Key(id, _) => rewrapped.contains(id),
            ObjectKey::Verified(number) => *number <= replaces,
            // What chunks held is looked for by coverage.
            ObjectKey::Tail(..) | ObjectKey::Lock(_) | ObjectKey::Lease(..) => true,
            key => pruned.iter().any(|record| record.explains(key, name)),
        };
        for (name, seen) in &self.memory.objects {
            if listed.contains(name) {
                continue;
            }
            let Some(key) = parsed(name).filter(|key| !explained(key, name)) else {
                continue;
            };
            self.gone.insert(name.clone());
            let only = self.scope.backup.as_ref();
            if only.is_none_or(|id| names::belongs_to(catalog, id, &key)) {
                self.done.findings.push(Finding {
                    kind: FindingKind::Missing,
                    object: name.clone(),
                    detail: format!(
                        "it was verified at {}, is gone, and no prune removed it",
                        seen.at
                    ),
                });
            }
        }
    }
}

/// What the last verification by `who` left, if it is among the newest; `who` is how `by` begins.
///
/// # Errors
/// When the store cannot be read.
pub async fn last_by(archive: &Archive, who: &str) -> Result<Option<VerifiedRecord>, Error> {
    let records = archive.list(VERIFIED_PREFIX).await?;
    for object in records.iter().rev().take(RECENT) {
        match archive.get_record::<VerifiedRecord>(&object.key).await {
            Ok(record) if record.by.starts_with(who) => return Ok(Some(record)),
            Ok(_) => {}
            Err(error) if error.is_missing() || is_damage(&error, &BTreeSet::new()) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// What prunes removed; a record of one that is damaged is found when it is read as an object.
pub(super) async fn pruned(
    archive: &Archive,
    damaged: &BTreeSet<KeyId>,
) -> Result<Vec<PruneRecord>, Error> {
    let mut pruned = Vec::new();
    for object in archive.list(PRUNED_PREFIX).await? {
        match archive.get_record(&object.key).await {
            Ok(record) => pruned.push(record),
            Err(error) if is_damage(&error, damaged) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(pruned)
}

async fn store(archive: &Archive, record: &VerifiedRecord) -> Result<(), Error> {
    loop {
        let before = archive.list(VERIFIED_PREFIX).await?;
        let taken = before.iter().filter_map(|listed| match listed.key {
            ObjectKey::Verified(number) => Some(number),
            _ => None,
        });
        // Those that are replaced may be gone already.
        let taken = taken.chain((record.replaces > 0).then_some(record.replaces));
        let number = numbers::next(taken).ok_or_else(|| Error::NumbersUsedUp {
            url: archive.url().to_owned(),
            prefix: VERIFIED_PREFIX.to_owned(),
        })?;
        match archive
            .put_record(&ObjectKey::Verified(number), record)
            .await
        {
            Ok(_) => return Ok(()),
            Err(Error::Store(StoreError::Exists { .. })) => {}
            Err(error) => return Err(error),
        }
    }
}
