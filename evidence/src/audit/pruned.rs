//! What the audit trail tells of a prune.

use walvault_upkeep::prune::PrunePlan;

use super::Event;

impl Event {
    /// The event with the whole plan: what goes, and which rule keeps or frees each thing.
    #[must_use]
    pub fn with_prune(mut self, plan: &PrunePlan) -> Event {
        let removals = &plan.removals;
        let goes = removals.records.iter().map(|(id, _)| id.clone());
        self.backups = goes.collect();
        self.objects = plan
            .orphans
            .iter()
            .map(|orphan| orphan.key.clone())
            .collect();
        self.with("policy", &plan.policy)
            .with("objects", removals.count())
            .with("bytes", removals.bytes())
            .with("backups", &plan.backups)
            .with("wal", &plan.wal)
    }
}
