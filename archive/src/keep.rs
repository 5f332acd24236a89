//! Keeps and legal holds: what an operator said about a backup, against all retention.
//!
//! Each change is an object of its own with the next number, written once; the newest counts. An
//! object that is gone from the middle cannot have been removed by walvault: then the backup is
//! kept, whatever the others say.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::archive::Archive;
use crate::error::Error;
use crate::layout::{BackupId, ObjectKey, keep_prefix};
use crate::record::{KeepChange, KeepRecord};
use crate::store::StoreError;

/// What keeps one backup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keeps {
    /// Whether it was kept and not let go since.
    pub kept: bool,
    /// Holds that were not released, ended or not, oldest first.
    pub holds: Vec<Hold>,
    /// Numbers that are missing: somebody removed what was said.
    pub missing: Vec<u32>,
    /// The highest number.
    pub newest: u32,
}

/// A legal hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hold {
    /// Its number, by which it is released.
    pub number: u32,
    /// Why.
    pub reason: String,
    /// When it ends by itself.
    pub until: Option<jiff::Timestamp>,
    /// When it was placed.
    pub placed_at: jiff::Timestamp,
    /// By whom.
    pub placed_by: String,
}

impl Hold {
    /// Whether it still holds.
    #[must_use]
    pub fn is_active(&self, now: jiff::Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

impl Keeps {
    /// What follows from everything said about a backup that was taken with `kept`.
    #[must_use]
    pub fn of(kept: bool, said: &BTreeMap<u32, KeepRecord>) -> Keeps {
        let newest = said.keys().next_back().copied().unwrap_or(0);
        let mut keeps = Keeps {
            kept,
            holds: Vec::new(),
            missing: (1..newest).filter(|n| !said.contains_key(n)).collect(),
            newest,
        };
        for (number, record) in said {
            match &record.change {
                KeepChange::Keep => keeps.kept = true,
                KeepChange::Unkeep => keeps.kept = false,
                KeepChange::Hold { reason, until } => keeps.holds.push(Hold {
                    number: *number,
                    reason: reason.clone(),
                    until: *until,
                    placed_at: record.at,
                    placed_by: record.by.clone(),
                }),
                KeepChange::Release { hold } => keeps.holds.retain(|held| held.number != *hold),
            }
        }
        keeps
    }

    /// The holds that still hold.
    pub fn active(&self, now: jiff::Timestamp) -> impl Iterator<Item = &Hold> {
        self.holds.iter().filter(move |hold| hold.is_active(now))
    }

    /// Whether anything keeps it.
    #[must_use]
    pub fn keeps(&self, now: jiff::Timestamp) -> bool {
        self.kept || !self.missing.is_empty() || self.active(now).next().is_some()
    }

    /// Reads what was said about a backup that was taken with `kept`.
    ///
    /// # Errors
    /// When the store cannot be read, or a record does not open.
    pub async fn load(archive: &Archive, id: &BackupId, kept: bool) -> Result<Keeps, Error> {
        let mut said = BTreeMap::new();
        for object in archive.list(&keep_prefix(id)).await? {
            if let ObjectKey::Keep(_, number) = object.key {
                said.insert(number, archive.get_record(&object.key).await?);
            }
        }
        Ok(Keeps::of(kept, &said))
    }
}

/// Says something about a backup; returns its number. The caller holds the upkeep lock, so that
/// no prune removes the backup meanwhile.
///
/// # Errors
/// When the archive cannot be read or written.
pub async fn say(
    archive: &Archive,
    id: &BackupId,
    by: &str,
    change: KeepChange,
) -> Result<u32, Error> {
    let record = KeepRecord {
        version: 1,
        at: jiff::Timestamp::now(),
        by: by.to_owned(),
        change,
    };
    loop {
        let said = archive.list(&keep_prefix(id)).await?;
        let newest = said.iter().filter_map(|object| match object.key {
            ObjectKey::Keep(_, number) => Some(number),
            _ => None,
        });
        let number = newest.max().unwrap_or(0) + 1;
        match archive
            .put_record(&ObjectKey::Keep(id.clone(), number), &record)
            .await
        {
            Ok(_) => return Ok(number),
            Err(Error::Store(StoreError::Exists { .. })) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> jiff::Timestamp {
        jiff::Timestamp::from_second(second).expect("a time")
    }

    fn said(changes: &[(u32, KeepChange)]) -> BTreeMap<u32, KeepRecord> {
        let record = |change: &KeepChange| KeepRecord {
            version: 1,
            at: at(0),
            by: "somebody".to_owned(),
            change: change.clone(),
        };
        changes
            .iter()
            .map(|(number, change)| (*number, record(change)))
            .collect()
    }

    fn hold(until: Option<i64>) -> KeepChange {
        KeepChange::Hold {
            reason: "case 7".to_owned(),
            until: until.map(at),
        }
    }

    #[test]
    fn what_was_said_last_counts() {
        use KeepChange::{Keep, Release, Unkeep};
        let keeps = |kept, changes: &[_]| Keeps::of(kept, &said(changes)).keeps(at(100));
        assert!(keeps(true, &[]));
        assert!(!keeps(false, &[]));
        assert!(!keeps(true, &[(1, Unkeep)]));
        assert!(keeps(true, &[(1, Unkeep), (2, Keep)]));
        assert!(keeps(false, &[(1, hold(None)), (2, Unkeep)]));
        assert!(!keeps(false, &[(1, hold(None)), (2, Release { hold: 1 })]));
        assert!(keeps(
            false,
            &[(1, hold(None)), (2, hold(None)), (3, Release { hold: 1 })]
        ));
        assert!(keeps(false, &[(1, hold(Some(101)))]));
        assert!(!keeps(false, &[(1, hold(Some(100)))]));
    }

    #[test]
    fn a_record_that_was_removed_keeps_the_backup() {
        let keeps = Keeps::of(false, &said(&[(2, KeepChange::Unkeep)]));
        assert_eq!(keeps.missing, [1]);
        assert!(keeps.keeps(at(0)));
    }

    #[test]
    fn records_are_stored_as_documented() {
        let (_, record) = said(&[(1, hold(Some(0)))]).pop_first().expect("one");
        let json = serde_json::to_value(&record).expect("JSON");
        assert_eq!(
            json,
            serde_json::json!({
                "version": 1, "at": "1970-01-01T00:00:00Z", "by": "somebody",
                "change": "hold", "reason": "case 7", "until": "1970-01-01T00:00:00Z",
            })
        );
    }
}
