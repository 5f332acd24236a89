//! What is known of drills, wherever they were run: from the names of their records, and from the records
//! where they are for this host to read.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
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

/// Looks at drills; records are read once.
#[derive(Default)]
pub struct Drills {
    trail: Option<Archive>,
    known: BTreeMap<DrillId, Option<DrillRecord>>,
}

impl Drills {
    /// The newest drill of each scenario.
    ///
    /// # Errors
    /// When the archive cannot be listed.
    pub async fn look(
        &mut self,
        archive: &Archive,
        config: &Config,
    ) -> Result<Vec<DrillSeen>, Error> {
        let mut newest: BTreeMap<String, (DrillId, Option<Timestamp>)> = BTreeMap::new();
        for id in drill::list(archive).await? {
            let before = newest.get(id.scenario()).and_then(|(_, passed)| *passed);
            let passed = if id.passed() { id.begun() } else { before };
            newest.insert(id.scenario().to_owned(), (id, passed));
        }
        let ids: Vec<&DrillId> = newest.values().map(|(id, _)| id).collect();
        self.known.retain(|id, _| ids.contains(&id));
        let mut seen = Vec::new();
        for (scenario, (id, last_passed)) in newest {
            let Some(begun) = id.begun() else { continue };
            let record = self.record(archive, config, &id).await;
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

    async fn record(
        &mut self,
        archive: &Archive,
        config: &Config,
        id: &DrillId,
    ) -> Option<&DrillRecord> {
        if !self.known.contains_key(id) {
            let record = match self.open(archive, config, id).await {
                Ok(record) => Some(record),
                Err(error) => {
                    tracing::debug!(%error, drill = %id, "of this drill only its name is known here");
                    None
                }
            };
            self.known.insert(id.clone(), record);
        }
        self.known.get(id)?.as_ref()
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
