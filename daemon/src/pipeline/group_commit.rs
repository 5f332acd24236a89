//! Group commit: how many waiting commits share a PUT.
//!
//! One commit alone is never held back. When many wait, each chunk takes its share of them, so
//! that as many chunks are on their way as may be, and no PUT is spent on a few commits while the
//! rest arrive.

use std::collections::VecDeque;
use std::time::Duration;

use walvault_protocol::Lsn;
use walvault_protocol::wal::{MarkKind, WalMark};

/// The longest that a commit waits for others, should fewer come than came before.
pub const GATHER_LIMIT: Duration = Duration::from_millis(10);

/// How fast the memory of many commits fades, with each cut.
const FADE: f64 = 0.95;

/// The commits between the socket and the archive.
#[derive(Debug, Default)]
pub struct GroupCommit {
    /// In no chunk yet.
    uncut: usize,
    /// Cut, with the end of their chunk.
    under_way: VecDeque<(Lsn, usize)>,
    /// How many there were at once, lately.
    lately: f64,
}

impl GroupCommit {
    /// Notes what was received.
    pub fn received(&mut self, marks: &[WalMark]) {
        let commits = marks
            .iter()
            .filter(|mark| matches!(mark.kind, MarkKind::Commit { .. }));
        self.uncut += commits.count();
    }

    /// Notes that everything received up to `end` is on its way.
    pub fn cut(&mut self, end: Lsn) {
        let unanswered = self.uncut
            + self
                .under_way
                .iter()
                .map(|(_, commits)| commits)
                .sum::<usize>();
        self.lately = (self.lately * FADE).max(unanswered as f64);
        if self.uncut > 0 {
            self.under_way.push_back((end, self.uncut));
            self.uncut = 0;
        }
    }

    /// Notes how far the archive holds the WAL.
    pub fn durable(&mut self, durable: Lsn) {
        while self
            .under_way
            .front()
            .is_some_and(|(end, _)| *end <= durable)
        {
            self.under_way.pop_front();
        }
    }

    /// Whether those that wait are their share, when `chunks` may be on their way at once.
    #[must_use]
    pub fn is_gathered(&self, chunks: usize) -> bool {
        (self.uncut * chunks.max(1)) as f64 >= self.lately.floor()
    }
}

#[cfg(test)]
mod tests {
    use walvault_protocol::PgTimestamp;

    use super::*;

    fn commits(count: usize) -> Vec<WalMark> {
        let mark = WalMark {
            start: Lsn(0),
            end: Lsn(8),
            time: PgTimestamp(0),
            kind: MarkKind::Commit { xid: 3 },
        };
        vec![mark; count]
    }

    #[test]
    fn one_client_never_waits_for_others() {
        let mut group = GroupCommit::default();
        for lsn in 1..100 {
            group.received(&commits(1));
            assert!(group.is_gathered(4));
            group.cut(Lsn(lsn));
            group.durable(Lsn(lsn));
        }
    }

    #[test]
    fn many_clients_share() {
        let mut group = GroupCommit::default();
        group.received(&commits(64));
        group.cut(Lsn(1));
        group.durable(Lsn(1));
        group.received(&commits(15));
        assert!(!group.is_gathered(4));
        group.received(&commits(1));
        assert!(group.is_gathered(4));
    }

    #[test]
    fn clients_that_left_are_forgotten() {
        let mut group = GroupCommit::default();
        group.received(&commits(64));
        group.cut(Lsn(1));
        let mut waited = 0;
        for lsn in 2..200 {
            group.durable(Lsn(lsn - 1));
            group.received(&commits(1));
            waited += usize::from(!group.is_gathered(4));
            group.cut(Lsn(lsn));
        }
        assert!(waited < 60, "{waited} cuts waited in vain");
    }
}
