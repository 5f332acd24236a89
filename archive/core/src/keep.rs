//! Keeps and legal holds: what an operator said about a backup, against all retention.
//!
//! Each change is an object of its own with the next number, written once; the newest counts. An
//! object that is gone from the middle cannot have been removed by walvault: then the backup is
//! kept, whatever the others say.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use serde::Serialize;
use walvault_layout::{BackupId, ObjectKey, keep_prefix, numbers};
use walvault_store::StoreError;
use walvault_store::clock;

use crate::archive::Archive;
use crate::damage::{Damage, left_out};
use crate::error::Error;
use crate::record::{KeepChange, KeepRecord};

/// What keeps one backup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keeps {
    /// Whether it was kept and not let go since.
    pub kept: bool,
    /// Holds that were not released, ended or not, oldest first.
    pub holds: Vec<Hold>,
    /// Runs of numbers that are missing: somebody removed what was said.
    pub missing: Vec<RangeInclusive<u32>>,
    /// Numbers of records that do not open: what was said is not known.
    pub unreadable: Vec<u32>,
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
    /// What follows from everything said about a backup that was taken with `kept`; `unreadable` are
    /// the numbers of records that are there and do not open.
    #[must_use]
    pub fn of(kept: bool, said: &BTreeMap<u32, KeepRecord>, unreadable: Vec<u32>) -> Keeps {
        let newest = said.keys().next_back().copied().unwrap_or(0);
        let mut keeps = Keeps {
            kept,
            holds: Vec::new(),
            missing: holes(said.keys().copied().chain(unreadable.iter().copied())),
            unreadable,
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

    /// Whether something was said that cannot be read any more, and may have been a hold.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        !self.missing.is_empty() || !self.unreadable.is_empty()
    }

    /// Whether anything keeps it.
    #[must_use]
    pub fn keeps(&self, now: jiff::Timestamp) -> bool {
        self.kept || self.is_in_doubt() || self.active(now).next().is_some()
    }

    /// Reads what was said about a backup that was taken with `kept`. A record that does not open is
    /// warned of, and the backup counts as kept: it can be held and released all the same.
    ///
    /// # Errors
    /// When the store cannot be read, or this host may not open a record.
    pub async fn load(archive: &Archive, id: &BackupId, kept: bool) -> Result<Keeps, Error> {
        let damage = Damage::collected(BTreeSet::new());
        let keeps = Keeps::list(archive, id, kept, &damage).await?;
        for (object, error) in damage.into_found() {
            left_out(&object, &error);
        }
        Ok(keeps)
    }

    /// As [`Keeps::load`]; `damage` may collect the records that do not open.
    ///
    /// # Errors
    /// As [`Keeps::load`], but for what was collected.
    pub(crate) async fn list(
        archive: &Archive,
        id: &BackupId,
        kept: bool,
        damage: &Damage,
    ) -> Result<Keeps, Error> {
        let listed = archive.list(&keep_prefix(id)).await?;
        let numbers = listed.into_iter().filter_map(|object| match object.key {
            ObjectKey::Keep(_, number) => Some(number),
            _ => None,
        });
        Keeps::read(archive, id, kept, numbers.collect(), damage).await
    }

    /// As [`Keeps::list`], of records whose numbers are known.
    ///
    /// # Errors
    /// As [`Keeps::load`], but for what was collected.
    pub(crate) async fn read(
        archive: &Archive,
        id: &BackupId,
        kept: bool,
        numbers: Vec<u32>,
        damage: &Damage,
    ) -> Result<Keeps, Error> {
        let (mut said, mut unreadable) = (BTreeMap::new(), Vec::new());
        for number in numbers {
            let key = ObjectKey::Keep(id.clone(), number);
            match archive.get_record(&key).await {
                Ok(record) => {
                    said.insert(number, record);
                }
                Err(error) => {
                    damage.collect(archive.name(&key), error)?;
                    unreadable.push(number);
                }
            }
        }
        Ok(Keeps::of(kept, &said, unreadable))
    }
}

/// The runs of numbers from 1 that are not there below the highest.
fn holes(numbers: impl IntoIterator<Item = u32>) -> Vec<RangeInclusive<u32>> {
    let numbers: BTreeSet<u32> = numbers.into_iter().collect();
    let (mut holes, mut next) = (Vec::new(), 1);
    for number in numbers {
        if number > next {
            holes.push(next..=number - 1);
        }
        next = number.saturating_add(1);
    }
    holes
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
        at: clock::now(),
        by: by.to_owned(),
        change,
    };
    loop {
        let said = archive.list(&keep_prefix(id)).await?;
        let taken = said.iter().filter_map(|object| match object.key {
            ObjectKey::Keep(_, number) => Some(number),
            _ => None,
        });
        let number = numbers::next(taken).ok_or_else(|| Error::NumbersUsedUp {
            url: archive.url().to_owned(),
            prefix: keep_prefix(id),
        })?;
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
        let keeps = |kept, changes: &[_]| Keeps::of(kept, &said(changes), vec![]).keeps(at(100));
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
        let keeps = Keeps::of(false, &said(&[(2, KeepChange::Unkeep)]), vec![]);
        assert_eq!(keeps.missing, [1..=1]);
        assert!(keeps.keeps(at(0)));
    }

    #[test]
    fn a_record_that_does_not_open_keeps_the_backup() {
        let said = said(&[(1, KeepChange::Keep), (2, KeepChange::Unkeep)]);
        let keeps = Keeps::of(false, &said, vec![3]);
        assert_eq!((keeps.missing.len(), keeps.keeps(at(0))), (0, true));
        let far = Keeps::of(false, &said, vec![99_999_999]);
        assert_eq!(far.missing, [3..=99_999_998]);
        assert!(far.keeps(at(0)));
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
