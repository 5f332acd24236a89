//! Everything a report is made of, read once.

use std::collections::BTreeMap;

use jiff::Timestamp;
use walvault_archive::archive::Listed;
use walvault_archive::inventory::Inventory;
use walvault_archive::keys::{KeyEpoch, PublicKey};
use walvault_archive::record::DrillRecord;
use walvault_archive::record::VerifiedRecord;
use walvault_archive::{Archive, Error};
use walvault_evidence::audit::{self, AuditReport, Recorded};
use walvault_evidence::drill;
use walvault_layout::{ObjectKey, VERIFIED_PREFIX};
use walvault_store::clock;

use super::ReportError;

/// What was read.
pub struct Sources {
    /// Whose archive it is.
    pub archive: Archive,
    /// When it was read.
    pub read_at: Timestamp,
    /// Every object.
    pub listing: Vec<Listed>,
    /// What verifying the trail found.
    pub trail: AuditReport,
    /// Every event that is to be believed, in order of time.
    pub events: Vec<Recorded>,
    /// Backups, WAL and gaps; where they are not for the identities given, what names tell.
    pub held: Inventory,
    /// What verifications noted; `Err` says why that could not be read.
    pub verified: Result<Vec<VerifiedRecord>, String>,
    /// The data keys of WAL and backups.
    pub data_keys: Vec<KeyEpoch>,
    /// The data keys of the trail.
    pub audit_keys: Vec<KeyEpoch>,
    /// The records of drills that could be read.
    pub drills: Vec<DrillRecord>,
    /// What was wrong with others.
    pub drills_unread: Vec<String>,
}

impl Sources {
    /// Reads everything. `trail` is the archive with the keys of the audit trail; `vouched` are the keys that may sign, if it is said.
    ///
    /// # Errors
    /// When the archive cannot be asked, or the trail is not for the identities given. What is damaged, or
    /// for others to open, is part of the answer.
    pub async fn read(
        archive: &Archive,
        trail: &Archive,
        vouched: &[PublicKey],
    ) -> Result<Sources, ReportError> {
        let verified = audit::read_verified(trail, &[], vouched).await;
        let (report, events) = verified.map_err(|error| match error.is_withheld() {
            true => ReportError::Trail(error),
            false => ReportError::Archive(error),
        })?;
        let (drills, drills_unread) = drills(trail, vouched).await?;
        Ok(Sources {
            archive: archive.clone(),
            read_at: clock::now(),
            listing: archive.list("").await?,
            trail: report,
            events,
            held: held(archive).await?,
            verified: verifications(archive).await?,
            data_keys: archive.keyring().epochs().await?,
            audit_keys: trail.keyring().epochs().await?,
            drills,
            drills_unread,
        })
    }

    /// When the archive was begun, by whichever clock says the earliest.
    #[must_use]
    pub fn began(&self) -> Timestamp {
        let begun = self.archive.record().created_at;
        let first = self.events.first().map(|recorded| recorded.event.at);
        first.map_or(begun, |first| first.min(begun))
    }
}

/// What the archive holds; where its records are sealed for others, what names tell.
async fn held(archive: &Archive) -> Result<Inventory, Error> {
    match Inventory::load(archive).await {
        Err(error) if error.is_withheld() => {
            Inventory::of_names(archive, &mut BTreeMap::new(), &error.to_string()).await
        }
        held => held,
    }
}

async fn verifications(archive: &Archive) -> Result<Result<Vec<VerifiedRecord>, String>, Error> {
    let mut records = Vec::new();
    for listed in archive.list(VERIFIED_PREFIX).await? {
        match archive.get_record::<VerifiedRecord>(&listed.key).await {
            Ok(record) => records.push(record),
            // Put together with others a moment ago.
            Err(error) if error.is_missing() => {}
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => return Ok(Err(error.to_string())),
        }
    }
    Ok(Ok(records))
}

async fn drills(
    trail: &Archive,
    vouched: &[PublicKey],
) -> Result<(Vec<DrillRecord>, Vec<String>), Error> {
    let (mut records, mut unread) = (Vec::new(), Vec::new());
    for id in drill::list(trail).await? {
        match drill::open(trail, &id).await {
            Ok(signed) if vouched.is_empty() || vouched.contains(&signed.public_key) => {
                records.push(signed.record);
            }
            Ok(signed) => {
                let (name, key) = (trail.name(&ObjectKey::Drill(id)), signed.public_key);
                unread.push(format!("{name}: {key} is not among the keys that may sign"));
            }
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                let name = trail.name(&ObjectKey::Drill(id));
                unread.push(format!("{name}: {error}"));
            }
        }
    }
    Ok((records, unread))
}
