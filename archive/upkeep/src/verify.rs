//! Verification: whether an archive is sound, in depths.
//!
//! It owns what counts as damage and what is remembered of earlier looks. It repairs nothing, and
//! an object that cannot be read because the store is away is an error, never a finding.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use jiff::Timestamp;
use serde::Serialize;
use walvault_archive::archive::Archive;
use walvault_archive::catalog::Catalog;
use walvault_archive::damage::{Damage, is_damage};
use walvault_archive::error::Error;
use walvault_archive::record::Seen;
use walvault_layout::{BackupId, KeyId, ObjectKey};
use walvault_store::clock;

mod backup;
mod choice;
mod finding;
mod keys;
mod memory;
mod names;
mod objects;
mod pages;
mod wal;

pub use choice::Choice;
pub use memory::last_by;

pub use walvault_archive::record::{Depth, Digest, Finding, FindingKind};

use memory::Memory;

/// What to look at; by default at everything as it is stored.
#[derive(Debug, Clone)]
pub struct Scope {
    /// How closely.
    pub depth: Depth,
    /// Only this backup, and the WAL that makes it consistent.
    pub backup: Option<BackupId>,
    /// Only what was stored since.
    pub since: Option<Timestamp>,
    /// Which of the objects in question are read.
    pub choice: Choice,
    /// What was found sound since then is not read again; `None` reads everything.
    pub trust_since: Option<Timestamp>,
    /// Take what is there for what should be: forget what is gone and what was replaced.
    pub accept: bool,
    /// Bytes of memory for objects under way, about; at least one is.
    pub memory: u64,
}

impl Default for Scope {
    fn default() -> Scope {
        Scope {
            depth: Depth::Stored,
            backup: None,
            since: None,
            choice: Choice::All,
            trust_since: None,
            accept: false,
            memory: 128 << 20,
        }
    }
}

/// What was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verification {
    /// Objects listed.
    pub listed: u64,
    /// Objects that were read.
    pub read: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects not read because they were found sound before.
    pub remembered: u64,
    /// Data pages whose checksums were checked.
    pub pages: u64,
    /// What is wrong, in order of the objects' names.
    pub findings: Vec<Finding>,
}

/// Looks at the archive.
///
/// # Errors
/// When the store cannot be asked, no identity opens what is stored, or it is of a newer format.
pub async fn verify(archive: &Archive, scope: &Scope, by: &str) -> Result<Verification, Error> {
    // What is listed before the catalog is read is in it, unless it was removed.
    let listing = archive.list("").await?;
    let keys = keys::check(archive).await?;
    let mut run = Run {
        archive: archive.clone(),
        scope: scope.clone(),
        memory: memory::load(archive, &keys.damaged).await?,
        done: Verification {
            listed: listing.len() as u64,
            findings: keys.findings,
            ..Verification::default()
        },
        damaged_keys: keys.damaged,
        seen: BTreeMap::new(),
        gone: HashSet::new(),
        wanted: HashSet::new(),
        parts: HashMap::new(),
        covered: BTreeSet::new(),
        deferred: Vec::new(),
    };
    let damage = Damage::collected(run.damaged_keys.clone());
    let catalog = Catalog::load_leaving_out(archive, &damage).await?;
    run.deferred = damage.into_found();
    let pruned = memory::pruned(archive, &run.damaged_keys).await?;
    let listed: HashSet<String> = listing
        .iter()
        .map(|object| archive.name(&object.key))
        .collect();
    run.vanished(&catalog, &listed, &pruned);
    names::check(&mut run, &catalog, &listing, &pruned).await?;
    run.choose(&catalog, &listing);
    if scope.depth == Depth::Deep {
        wal::check(&mut run, &catalog).await?;
        for record in catalog.backups() {
            backup::check(&mut run, record).await?;
        }
    }
    run.objects(&listing).await?;
    run.find_deferred()?;
    let Run {
        mut seen,
        mut done,
        memory,
        gone,
        ..
    } = run;
    done.findings
        .sort_by(|a, b| (&a.object, a.kind, &a.detail).cmp(&(&b.object, b.kind, &b.detail)));
    done.findings.dedup();
    // What is sound on the way to one timeline need not be on the way to another.
    for finding in &done.findings {
        seen.remove(&finding.object);
    }
    let stays = |name: &str| listed.contains(name) || gone.contains(name);
    memory
        .remember(archive, scope, by, seen, &done.findings, stays)
        .await?;
    Ok(done)
}

/// A verification under way.
struct Run {
    archive: Archive,
    scope: Scope,
    memory: Memory,
    done: Verification,
    damaged_keys: BTreeSet<KeyId>,
    /// What was found sound in this run.
    seen: BTreeMap<String, Seen>,
    /// What was found sound before, and is gone without an explanation.
    gone: HashSet<String>,
    /// Names of the objects to read.
    wanted: HashSet<String>,
    /// The SHA-256 of parts, by the lists of the backups that are made of them.
    parts: HashMap<String, Digest>,
    /// Names of the objects that were read already.
    covered: BTreeSet<String>,
    /// What was wrong with records that were read for what they say.
    deferred: Vec<(String, Error)>,
}

impl Run {
    /// How many objects of `size` bytes may be under way, opened and not yet, but no more than `most`.
    fn at_once(&self, size: u64, most: usize) -> usize {
        let many = self.scope.memory / (2 * size.max(1));
        usize::try_from(many).unwrap_or(most).clamp(1, most)
    }

    /// Whether a backup is to be looked at.
    fn includes(&self, id: &BackupId) -> bool {
        self.scope.backup.as_ref().is_none_or(|only| only == id)
    }

    fn find(&mut self, kind: FindingKind, object: String, detail: String) {
        self.done.findings.push(Finding {
            kind,
            object,
            detail,
        });
    }

    /// Turns what an error says about the object of this name into a finding.
    fn finding_of(&self, name: &str, error: Error) -> Result<Finding, Error> {
        finding::finding(name, &error, &self.damaged_keys).ok_or(error)
    }

    /// What a record says, or `None` for one that is damaged: that is noted.
    fn unless_damaged<T>(
        &mut self,
        key: &ObjectKey,
        got: Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        match got {
            Ok(got) => Ok(Some(got)),
            Err(error) if is_damage(&error, &self.damaged_keys) => {
                self.deferred.push((self.archive.name(key), error));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Finds the damaged records that were not read as objects, a look that says more exactly what
    /// is wrong with them.
    fn find_deferred(&mut self) -> Result<(), Error> {
        for (name, error) in std::mem::take(&mut self.deferred) {
            if !self.covered.contains(&name) {
                let finding = self.finding_of(&name, error)?;
                self.done.findings.push(finding);
            }
        }
        Ok(())
    }

    /// Notes an object that was read.
    fn note(&mut self, name: String, size: u64, outcome: Result<Digest, Finding>) {
        self.covered.insert(name.clone());
        self.done.read += 1;
        self.done.bytes += size;
        let sha256 = match outcome {
            Ok(sha256) => sha256,
            Err(finding) => {
                self.done.findings.push(finding);
                return;
            }
        };
        let other = |than: String| Finding {
            kind: FindingKind::Replayed,
            object: name.clone(),
            detail: format!("it opens, but is not the object that {than}"),
        };
        let before = self.memory.get(&name);
        let before = before.filter(|before| before.sha256 != sha256 && !self.scope.accept);
        if self.parts.get(&name).is_some_and(|part| *part != sha256) {
            let finding = other("its backup's list of parts names".to_owned());
            self.done.findings.push(finding);
        } else if let Some(before) = before {
            let finding = other(format!("was verified under this name at {}", before.at));
            self.done.findings.push(finding);
        } else {
            let seen = Seen {
                size,
                sha256,
                at: clock::now(),
                depth: self.scope.depth,
            };
            self.seen.insert(name, seen);
        }
    }
}

/// Whether an object can be looked at by itself: all but locks and leases, which come and go.
fn is_lasting(key: &ObjectKey) -> bool {
    !matches!(key, ObjectKey::Lock(_) | ObjectKey::Lease(..))
}

#[cfg(test)]
mod tests;
