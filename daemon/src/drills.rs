//! What is known of drills, wherever they were run: from the names of their records, and from the records
//! where they are for this host to read.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;
use walvault_archive::damage::is_damage;
use walvault_archive::record::DrillRecord;
use walvault_archive::{Archive, Error};
use walvault_config::{AuditSettings, Config};
use walvault_evidence::audit;
use walvault_evidence::drill;
use walvault_layout::DrillId;

/// The newest drill of a scenario.
#[derive(Debug, Clone, Serialize)]
pub struct DrillSeen {
    /// Its name.
    pub id: DrillId,
    /// What was drilled.
    pub scenario: String,
    /// When it was begun.
    pub begun: Timestamp,
    /// Whether everything was as it should be.
    pub passed: bool,
    /// When the newest one was begun that passed.
    pub last_passed: Option<Timestamp>,
    /// How long it took; this and what follows are `null` where the record is not for this host to read.
    pub seconds: Option<f64>,
    /// How long it took until the cluster was at the target.
    pub rto_seconds: Option<f64>,
    /// The most that would have been lost.
    pub rpo_seconds: Option<f64>,
    /// Why it failed.
    pub error: Option<String>,
}

/// What is known of a drill beyond its name.
enum Known {
    /// Its record.
    Read(Box<DrillRecord>),
    /// Nothing: the record is not for this host to read, or was not read yet.
    Named,
    /// What lies under its name is no record of it.
    Forged,
}

/// Looks at drills; records are read once.
#[derive(Default)]
pub struct Drills {
    trail: Option<Archive>,
    known: BTreeMap<DrillId, Known>,
}

impl Drills {
    /// The newest drill of each scenario. Whoever may write to the store can put a name: one whose record
    /// this host may read and that is none counts for nothing.
    ///
    /// # Errors
    /// When the archive cannot be listed.
    pub async fn look(
        &mut self,
        archive: &Archive,
        config: &Config,
    ) -> Result<Vec<DrillSeen>, Error> {
        let mut drilled: BTreeMap<String, Vec<DrillId>> = BTreeMap::new();
        for id in drill::list(archive).await? {
            drilled
                .entry(id.scenario().to_owned())
                .or_default()
                .push(id);
        }
        self.known.retain(|id, _| {
            drilled
                .get(id.scenario())
                .is_some_and(|ids| ids.contains(id))
        });
        let mut seen = Vec::new();
        for (scenario, ids) in drilled {
            let (mut newest, mut last_passed) = (None, None);
            for id in ids.into_iter().rev() {
                let wanted = newest.is_none() || id.passed();
                let Some(begun) = id.begun().filter(|_| wanted) else {
                    continue;
                };
                self.learn(archive, config, &id).await;
                if matches!(self.known.get(&id), Some(Known::Forged)) {
                    continue;
                }
                let passed = id.passed();
                newest = newest.or(Some((id, begun)));
                if passed {
                    last_passed = Some(begun);
                    break;
                }
            }
            let Some((id, begun)) = newest else { continue };
            let record = match self.known.get(&id) {
                Some(Known::Read(record)) => Some(record),
                _ => None,
            };
            let measured = record.map(|record| &record.measured);
            seen.push(DrillSeen {
                begun,
                scenario,
                passed: id.passed(),
                last_passed,
                seconds: record.map(|record| record.seconds),
                rto_seconds: measured.and_then(|measured| measured.rto_seconds),
                rpo_seconds: measured.and_then(|measured| measured.rpo_seconds),
                error: record.and_then(|record| record.error.clone()),
                id,
            });
        }
        Ok(seen)
    }

    /// Reads the record of a drill, unless it was read before.
    async fn learn(&mut self, archive: &Archive, config: &Config, id: &DrillId) {
        if self.known.contains_key(id) {
            return;
        }
        let known = match self.open(archive, config, id).await {
            Ok(record) => Known::Read(Box::new(record)),
            Err(audit::AuditError::Archive(error)) if is_damage(&error, &BTreeSet::new()) => {
                tracing::warn!(%error, drill = %id, "what lies under the name of a drill is no record of one, and does not count");
                Known::Forged
            }
            Err(error) => {
                tracing::debug!(%error, drill = %id, "of this drill only its name is known here");
                Known::Named
            }
        };
        self.known.insert(id.clone(), known);
    }

    async fn open(
        &mut self,
        archive: &Archive,
        config: &Config,
        id: &DrillId,
    ) -> Result<DrillRecord, audit::AuditError> {
        let trail = match &self.trail {
            Some(trail) => trail,
            None => {
                let home = AuditSettings {
                    local_dir: None,
                    ..config.audit.clone()
                };
                let trail = audit::trail(&home, &config.encryption, archive)?;
                self.trail.insert(trail)
            }
        };
        Ok(drill::open(trail, id).await?.record)
    }
}
