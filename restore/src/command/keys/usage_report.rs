//! What is sealed under a data key, for people and programs.

use serde::Serialize;
use walvault_archive::key_usage::KeyUse;
use walvault_layout::{BackupId, KeyId};
use walvault_protocol::{Lsn, TimelineId};

use crate::report;

/// What needs a data key.
#[derive(Debug, Serialize)]
pub(super) struct Use {
    key: String,
    objects: u64,
    bytes: u64,
    wal: Vec<Span>,
    backups: Vec<BackupId>,
    histories: Vec<TimelineId>,
}

/// WAL without a hole.
#[derive(Debug, Serialize)]
struct Span {
    timeline: TimelineId,
    start_lsn: Lsn,
    end_lsn: Lsn,
}

impl Use {
    pub(super) fn of(id: KeyId, found: &KeyUse) -> Use {
        let spans = found.wal.iter().flat_map(|(timeline, coverage)| {
            coverage.ranges().iter().map(|range| Span {
                timeline: *timeline,
                start_lsn: range.start,
                end_lsn: range.end,
            })
        });
        Use {
            key: id.to_string(),
            objects: found.objects,
            bytes: found.bytes,
            wal: spans.collect(),
            backups: found.backups.iter().cloned().collect(),
            histories: found.histories.iter().copied().collect(),
        }
    }

    /// Lines for people.
    pub(super) fn describe(&self) -> String {
        let mut text = format!(
            "data key {}: {} objects, {}\n",
            self.key,
            self.objects,
            report::bytes(self.bytes)
        );
        for span in &self.wal {
            text.push_str(&format!(
                "  WAL of timeline {} from {} to {}\n",
                span.timeline.get(),
                span.start_lsn,
                span.end_lsn
            ));
        }
        for backup in &self.backups {
            text.push_str(&format!(
                "  backup {backup}, and backups that build on it\n"
            ));
        }
        for timeline in &self.histories {
            text.push_str(&format!("  the history of timeline {}\n", timeline.get()));
        }
        text
    }
}
