//! Archives that do not keep up: left behind, so that they hold up neither memory nor the others,
//! and taken back once they were brought what they missed.

use std::time::Duration;

use tokio::time::Instant;
use walvault_config::Ack;

use super::super::catch_up::Brought;
use super::super::tail_ledger::TailLedger;
use super::Pump;

/// How long an archive may hold up one that has taken everything: where the first is enough, and
/// where all are waited for and one takes nothing at all.
const ENDURANCE_FIRST: Duration = Duration::from_secs(1);
const ENDURANCE_ALL: Duration = Duration::from_secs(10);

/// By how many objects an archive may be behind another, however small they are.
const MOST_BEHIND: usize = 1000;

impl Pump {
    pub(super) fn endurance(&self) -> Duration {
        match self.settings.ack {
            Ack::First => ENDURANCE_FIRST,
            Ack::All => ENDURANCE_ALL,
        }
    }

    /// Leaves archives behind that fill the memory while another waits for more, or for which ever
    /// more objects wait.
    pub(super) fn leave_behind(&mut self) {
        let most = self.uploader.under_way() + MOST_BEHIND;
        let far_behind: Vec<usize> = self
            .uploader
            .live()
            .filter(|place| self.uploader.under_way_to(*place) > most)
            .collect();
        for place in far_behind {
            self.leave(place);
        }
        let (idle, busy): (Vec<usize>, Vec<usize>) = self
            .uploader
            .live()
            .partition(|place| self.uploader.is_idle(*place));
        if self.has_room() || idle.is_empty() || busy.is_empty() {
            self.held_up_since = None;
            return;
        }
        let since = *self.held_up_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= self.endurance() {
            for place in busy {
                self.leave(place);
            }
            self.held_up_since = None;
        }
    }

    pub(super) fn leave(&mut self, place: usize) {
        tracing::warn!(
            place,
            at = %self.watermarks.of(place),
            "a copy of the archive does not keep up; it is brought what it misses later"
        );
        self.uploader.leave(place);
        self.removals.leave(place);
        if self.watermarks.set_counts(place, false) {
            self.moved();
        }
        self.copies.leave(place);
    }

    /// Leaves what is on its way behind another archive, when the stream ends without waiting for it, to
    /// whoever brings archives what they missed.
    pub(super) fn leave_unfinished(&self) {
        let places = 0..self.places.len();
        let furthest = places.clone().map(|place| self.watermarks.of(place)).max();
        for place in places {
            let behind = Some(self.watermarks.of(place)) < furthest;
            if behind && !self.uploader.is_idle(place) {
                self.copies.leave(place);
            }
        }
    }

    /// Takes back archives that were brought what they missed. One that was left behind is stored
    /// in again, and brought once more what was on its way at that moment; then it counts.
    pub(super) fn take_back(&mut self) {
        for place in 0..self.places.len() {
            let Some(Brought { catalog, units }) = self.copies.take(place) else {
                continue;
            };
            let mut moved = self.watermarks.learn(place, &catalog);
            let proven = self.proven.in_replica(&units, self.timeline);
            let (ledger, superfluous) = TailLedger::open(&catalog, self.timeline, &proven);
            self.places[place].ledger = ledger;
            let archive = &self.places[place].archive;
            self.removals
                .remove(place, archive, self.timeline, superfluous);
            if !self.uploader.is_live(place) {
                self.uploader.join(place);
                self.places[place].joined_at = self.chunker.cut_to();
                self.copies.leave(place);
            } else if self.watermarks.of(place) < self.places[place].joined_at {
                self.copies.leave(place);
            } else if !self.watermarks.counts(place) {
                tracing::info!(place, at = %self.watermarks.of(place), "a copy of the archive is whole again");
                moved |= self.watermarks.set_counts(place, true);
            }
            if moved {
                self.moved();
            }
        }
        self.publish();
    }

    /// What may be reported as flushed moved.
    pub(super) fn moved(&mut self) {
        self.group.durable(self.watermarks.durable().lsn());
        self.status_due = true;
    }
}
