//! How much would be lost if the node went now: the age of the oldest commit that may not be in the archive.
//!
//! Two things make a commit missing. It was received and is not durable yet: its age is known, from the time in its
//! commit record to the server's time when it was sent, both by the server's own clock, and from then on by ours. So
//! clocks that differ change nothing. Or it may not have been received: then nobody knows of it, and the time since
//! everything the server had was last received counts. That is pessimistic while the server is away, when nothing may
//! have been committed, and right to be: it cannot be ruled out.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use walvault_protocol::wal::{MarkKind, WalMark};
use walvault_protocol::{Lsn, PgTimestamp};

/// Commits that came within this time of each other are counted as one, as old as the first.
const GRAIN: Duration = Duration::from_millis(10);
/// Beyond so many entries neighbours are joined.
const MOST_ENTRIES: usize = 1024;

/// Commits that are not durable, as one.
#[derive(Debug, Clone, Copy)]
struct Pending {
    /// When the oldest was committed.
    committed: Instant,
    /// When the first was received.
    received: Instant,
    /// Where the last one's record ends.
    end: Lsn,
    /// The newest one's time, by the server's clock.
    newest: PgTimestamp,
}

/// What is known of commits that may not be in the archive. Times are passed in.
#[derive(Debug)]
pub struct Rpo {
    pending: VecDeque<Pending>,
    received: Lsn,
    durable: Lsn,
    /// Where the server's WAL ends; `None` until it said so on this connection.
    server_end: Option<Lsn>,
    /// When everything that the server had was last received.
    current_at: Instant,
    connected: bool,
    /// Whether the server's commits are ours to archive.
    ours: bool,
    /// The time of the newest commit that is durable.
    newest_durable: Option<PgTimestamp>,
}

/// Commits that were received together.
#[derive(Debug, Clone, Copy)]
pub struct Commits {
    /// How old the oldest was when the server sent it.
    pub age: Duration,
    /// Where the record of the last one ends.
    pub end: Lsn,
    /// The time of the newest, by the server's clock.
    pub newest: PgTimestamp,
}

impl Commits {
    /// The commits among `marks`, which are in order and were sent at `sent_at`.
    #[must_use]
    pub fn of(marks: &[WalMark], sent_at: PgTimestamp) -> Option<Commits> {
        let is_commit = |mark: &&WalMark| matches!(mark.kind, MarkKind::Commit { .. });
        let commits = || marks.iter().filter(is_commit);
        let oldest = commits().map(|mark| mark.time).min()?;
        let age = sent_at.0.saturating_sub(oldest.0);
        Some(Commits {
            age: Duration::from_micros(u64::try_from(age).unwrap_or(0)),
            end: commits().next_back()?.end,
            newest: commits().map(|mark| mark.time).max()?,
        })
    }
}

impl Rpo {
    /// Nothing is known before `now`.
    #[must_use]
    pub fn new(now: Instant) -> Rpo {
        Rpo {
            pending: VecDeque::new(),
            received: Lsn::INVALID,
            durable: Lsn::INVALID,
            server_end: None,
            current_at: now,
            connected: false,
            ours: true,
            newest_durable: None,
        }
    }

    /// Streaming begins at `start`, with everything before `durable` in the archive.
    pub fn connected(&mut self, start: Lsn, durable: Lsn) {
        self.pending.clear();
        self.connected = true;
        self.ours = true;
        self.received = start;
        self.durable = durable;
        self.server_end = None;
    }

    /// The connection is lost; whatever was not stored will come again.
    pub fn disconnected(&mut self, now: Instant) {
        if self.is_current() {
            self.current_at = now;
        }
        let known = self.pending.iter().map(|pending| pending.committed).min();
        if let Some(oldest) = known {
            self.current_at = self.current_at.min(oldest);
        }
        self.pending.clear();
        self.connected = false;
    }

    /// Nothing that happens on this server is ours to archive: it is a standby.
    pub fn not_ours(&mut self, now: Instant) {
        self.pending.clear();
        self.connected = false;
        self.ours = false;
        self.current_at = now;
    }

    /// The server's WAL reaches `end`.
    pub fn heard(&mut self, end: Lsn, now: Instant) {
        if self.is_current() {
            self.current_at = now;
        }
        self.server_end = self.server_end.max(Some(end));
    }

    /// WAL up to `position` was received, with these commits in it.
    pub fn received(&mut self, position: Lsn, commits: Option<Commits>, now: Instant) {
        self.received = position;
        if self.is_current() {
            self.current_at = now;
        }
        let Some(Commits { age, end, newest }) =
            commits.filter(|commits| commits.end > self.durable)
        else {
            return;
        };
        let committed = now.checked_sub(age).unwrap_or(now);
        match self.pending.back_mut() {
            Some(last) if now.duration_since(last.received) < GRAIN => {
                last.committed = last.committed.min(committed);
                last.end = end;
                last.newest = last.newest.max(newest);
            }
            _ => self.pending.push_back(Pending {
                committed,
                received: now,
                end,
                newest,
            }),
        }
        if self.pending.len() > MOST_ENTRIES {
            self.join_neighbours();
        }
    }

    /// Everything before `durable` is in the archive. Returns how long ago those that became durable were received.
    pub fn durable(&mut self, durable: Lsn, now: Instant) -> Vec<Duration> {
        self.durable = self.durable.max(durable);
        let mut waited = Vec::new();
        while let Some(first) = self.pending.front().filter(|first| first.end <= durable) {
            waited.push(now.duration_since(first.received));
            self.newest_durable = self.newest_durable.max(Some(first.newest));
            self.pending.pop_front();
        }
        waited
    }

    /// The time of the newest commit that became durable, by the server's clock.
    #[must_use]
    pub fn newest_durable(&self) -> Option<PgTimestamp> {
        self.newest_durable
    }

    /// The age of the oldest commit that may not be in the archive; zero when there is none.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        let unknown = match !self.ours || self.is_current() {
            true => Duration::ZERO,
            false => now.duration_since(self.current_at),
        };
        let known = self.pending.iter().map(|pending| pending.committed).min();
        let known = known.map_or(Duration::ZERO, |at| now.duration_since(at));
        known.max(unknown)
    }

    /// Whether everything that the server is known to have was received.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.connected && self.server_end.is_some_and(|end| self.received >= end)
    }

    /// Halves the entries; what is joined is as old as its oldest, and durable with its last.
    fn join_neighbours(&mut self) {
        let entries = std::mem::take(&mut self.pending);
        let mut entries = entries.into_iter();
        while let Some(first) = entries.next() {
            let last = entries.next();
            self.pending.push_back(Pending {
                committed: last.map_or(first.committed, |last| last.committed.min(first.committed)),
                received: first.received,
                end: last.map_or(first.end, |last| last.end),
                newest: last.map_or(first.newest, |last| last.newest.max(first.newest)),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn commits(age: Duration, end: u64) -> Option<Commits> {
        Some(Commits {
            age,
            end: Lsn(end),
            newest: PgTimestamp(0),
        })
    }

    #[test]
    fn is_the_age_of_the_oldest_commit_that_is_not_durable() {
        let begun = Instant::now();
        let mut rpo = Rpo::new(begun);
        rpo.connected(Lsn(100), Lsn(100));
        rpo.heard(Lsn(100), begun);
        assert_eq!(rpo.age(begun), Duration::ZERO);
        rpo.received(Lsn(200), commits(SECOND, 200), begun);
        assert_eq!(rpo.age(begun), SECOND);
        rpo.received(Lsn(300), commits(Duration::ZERO, 290), begun + SECOND);
        assert_eq!(rpo.age(begun + SECOND), 2 * SECOND);
        // Of the first nothing is missing, of the second its last byte.
        let waited = rpo.durable(Lsn(289), begun + 2 * SECOND);
        assert_eq!(waited, [2 * SECOND]);
        assert_eq!(rpo.age(begun + 2 * SECOND), SECOND);
        rpo.durable(Lsn(290), begun + 2 * SECOND);
        assert_eq!(rpo.age(begun + 2 * SECOND), Duration::ZERO);
    }

    #[test]
    fn wal_without_commits_makes_no_age() {
        let begun = Instant::now();
        let mut rpo = Rpo::new(begun);
        rpo.connected(Lsn(100), Lsn(100));
        rpo.heard(Lsn(200), begun);
        rpo.received(Lsn(200), None, begun);
        assert_eq!(rpo.age(begun + 60 * SECOND), Duration::ZERO);
    }

    #[test]
    fn what_may_have_been_committed_unseen_counts() {
        let begun = Instant::now();
        let mut rpo = Rpo::new(begun);
        assert_eq!(rpo.age(begun + SECOND), SECOND);
        rpo.connected(Lsn(100), Lsn(100));
        rpo.heard(Lsn(200), begun + SECOND);
        rpo.received(Lsn(200), commits(Duration::ZERO, 200), begun + SECOND);
        rpo.disconnected(begun + 2 * SECOND);
        // The commit that was received is not known to be durable.
        assert_eq!(rpo.age(begun + 5 * SECOND), 4 * SECOND);
        rpo.connected(Lsn(100), Lsn(200));
        rpo.heard(Lsn(400), begun + 6 * SECOND);
        assert_eq!(rpo.age(begun + 6 * SECOND), 5 * SECOND);
        rpo.received(Lsn(200), commits(7 * SECOND, 200), begun + 6 * SECOND);
        rpo.received(Lsn(400), None, begun + 7 * SECOND);
        assert_eq!(rpo.age(begun + 7 * SECOND), Duration::ZERO);
    }

    #[test]
    fn a_backlog_is_as_old_as_its_commits() {
        let begun = Instant::now() + 7200 * SECOND;
        let mut rpo = Rpo::new(begun);
        rpo.connected(Lsn(0), Lsn(0));
        rpo.heard(Lsn(1000), begun);
        rpo.received(Lsn(100), commits(3600 * SECOND, 100), begun);
        assert_eq!(rpo.age(begun), 3600 * SECOND);
    }

    #[test]
    fn a_standby_has_nothing_to_lose() {
        let begun = Instant::now();
        let mut rpo = Rpo::new(begun);
        rpo.not_ours(begun + 60 * SECOND);
        assert_eq!(rpo.age(begun + 60 * SECOND), Duration::ZERO);
    }

    /// However many commits wait, few entries do, and none looks younger than it is.
    #[test]
    fn memory_is_bounded_and_age_never_understated() {
        let begun = Instant::now();
        let mut rpo = Rpo::new(begun);
        rpo.connected(Lsn(0), Lsn(0));
        rpo.heard(Lsn(1), begun);
        for step in 1..20_000_u32 {
            rpo.received(
                Lsn(step.into()),
                commits(Duration::ZERO, step.into()),
                begun + GRAIN * step,
            );
            assert!(rpo.pending.len() <= MOST_ENTRIES);
        }
        let now = begun + GRAIN * 20_000;
        for durable in [1, 777, 10_000, 19_998] {
            rpo.durable(Lsn(durable), now);
            let oldest = begun + GRAIN * (durable as u32 + 1);
            assert!(rpo.age(now) >= now - oldest, "{durable}");
        }
        rpo.durable(Lsn(19_999), now);
        assert_eq!(rpo.age(now), Duration::ZERO);
    }
}
