//! What several replicas of an archive hold together.

use walvault_protocol::Lsn;

use super::{Catalog, WalHeld};

impl WalHeld {
    /// What objects of a timeline are sorted by.
    pub(super) fn order(&self) -> (Lsn, bool, Lsn) {
        (self.range.start, !self.whole, self.range.end)
    }
}

impl Catalog {
    /// Takes in the WAL, histories and gaps that another replica of the same archive holds.
    pub fn join(&mut self, other: &Catalog) {
        for (timeline, theirs) in &other.timelines {
            let ours = self.timelines.entry(*timeline).or_default();
            for range in theirs.coverage.ranges() {
                ours.coverage.insert(*range);
            }
            ours.objects.extend(theirs.objects.iter().cloned());
            ours.objects.sort_by_key(WalHeld::order);
            ours.objects.dedup_by_key(|held| held.order());
        }
        let histories = other.histories.iter();
        self.histories
            .extend(histories.map(|(timeline, history)| (*timeline, history.clone())));
        self.unread_histories.extend(&other.unread_histories);
        let read = &self.histories;
        self.unread_histories
            .retain(|timeline| !read.contains_key(timeline));
        self.named_gaps.extend(&other.named_gaps);
    }
}
