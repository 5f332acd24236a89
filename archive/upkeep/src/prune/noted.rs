//! What the audit trail tells of a prune.

use super::PrunePlan;
use crate::audit::Event;

impl PrunePlan {
    /// An event with the whole plan: what goes, and which rule keeps or frees each thing.
    #[must_use]
    pub fn noted_in(&self, mut event: Event) -> Event {
        let removals = &self.removals;
        let goes = removals.records.iter().map(|(id, _)| id.clone());
        event.backups = goes.collect();
        event.objects = self
            .orphans
            .iter()
            .map(|orphan| orphan.key.clone())
            .collect();
        event
            .with("policy", &self.policy)
            .with("objects", removals.count())
            .with("bytes", removals.bytes())
            .with("backups", &self.backups)
            .with("wal", &self.wal)
    }
}
