//! What a host that only seals sees of the archive: names, sizes and times.
//!
//! It asks for no object, since each denial is noted by the store.

use std::collections::BTreeMap;
use std::time::Instant;

use jiff::Timestamp;
use walvault_archive::archive::Listed;
use walvault_archive::catalog::seen::{backup_names, backup_stored_at};
use walvault_archive::{Archive, Catalog, Error};
use walvault_config::Config;
use walvault_layout::{BackupId, GAPS_PREFIX, ObjectKey, TAIL_PREFIX, WAL_PREFIX};
use walvault_store::clock;

use super::timelines;
use crate::drills::Drills;
use crate::observed::{Gap, Survey, WithheldBackup};

/// The backups that were found complete: each is looked for once.
#[derive(Default)]
pub(super) struct Names {
    complete: BTreeMap<BackupId, Timestamp>,
}

impl Names {
    /// Surveys an archive by its listings.
    pub(super) async fn survey(
        &mut self,
        archive: &Archive,
        drills: &mut Drills,
        config: &Config,
    ) -> Result<Survey, Error> {
        let begun = Instant::now();
        let mut listed = archive.list(TAIL_PREFIX).await?;
        listed.extend(archive.list(WAL_PREFIX).await?);
        let gaps = archive.list(GAPS_PREFIX).await?;
        let catalog = Catalog::from_listing(archive.segment_size(), &listed);
        let names = backup_names(archive).await?;
        self.complete.retain(|id, _| names.contains(id));
        for id in names {
            if !self.complete.contains_key(&id)
                && let Some(at) = backup_stored_at(archive, &id).await?
            {
                self.complete.insert(id, at);
            }
        }
        let complete = self.complete.iter();
        let backups = complete.map(|(id, stored_at)| WithheldBackup {
            id: id.clone(),
            stored_at: *stored_at,
        });
        Ok(Survey {
            at: clock::now(),
            seconds: begun.elapsed().as_secs_f64(),
            system_id: archive.record().system_id,
            windows: Vec::new(),
            backups: Vec::new(),
            withheld_backups: backups.collect(),
            // Which holes a prune left on purpose, its record tells.
            gaps: gaps.iter().filter_map(gap).collect(),
            timelines: timelines(&catalog),
            drills: drills.look(archive, config).await?,
        })
    }
}

fn gap(listed: &Listed) -> Option<Gap> {
    match listed.key {
        ObjectKey::Gap(timeline, range) => Some(Gap {
            timeline,
            start_lsn: range.start,
            end_lsn: range.end,
            cause: Some("its record, which this host may not open, has the cause".to_owned()),
            noticed_at: Some(listed.modified),
        }),
        _ => None,
    }
}
