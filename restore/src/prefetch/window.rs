//! Which segments are to be fetched ahead. No I/O.

use std::collections::BTreeMap;

use walvault_protocol::{SegmentNumber, TimelineId};

/// A segment of a timeline.
pub(super) type Position = (TimelineId, SegmentNumber);

/// What became of a segment that was fetched ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is there, complete.
    Ready,
    /// The archive does not hold it whole, or it could not be had.
    NotWhole,
}

/// The segments after the one that was asked for last, as many as are kept ahead. That one itself is
/// fetched by whoever asked, unless its fetch has begun already.
#[derive(Debug)]
pub(super) struct Window {
    ahead: u64,
    /// The segment that was asked for last.
    asked: Option<Position>,
    /// The first that was not stored whole when it was looked for.
    end: Option<Position>,
    slots: BTreeMap<Position, Slot>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    Fetching,
    Ready,
}

impl Window {
    pub(super) fn new(ahead: u64) -> Window {
        Window {
            ahead,
            asked: None,
            end: None,
            slots: BTreeMap::new(),
        }
    }

    /// A segment was asked for. Returns those that are not wanted any more.
    pub(super) fn ask(&mut self, position: Position) -> Vec<Position> {
        if self.end != Some(position) {
            // By now the archive may hold more.
            self.end = None;
        }
        self.asked = Some(position);
        let (timeline, from) = position;
        let last = from.0.saturating_add(self.ahead);
        let unwanted: Vec<Position> = self
            .slots
            .keys()
            .copied()
            .filter(|held| held.0 != timeline || !(from.0..=last).contains(&held.1.0))
            .collect();
        for position in &unwanted {
            self.slots.remove(position);
        }
        unwanted
    }

    /// The next segment to be fetched, which from now on counts as being fetched.
    pub(super) fn next(&mut self) -> Option<Position> {
        let (timeline, from) = self.asked?;
        let next = (1..=self.ahead)
            .map_while(|step| Some((timeline, SegmentNumber(from.0.checked_add(step)?))))
            .take_while(|position| self.end.is_none_or(|end| *position < end))
            .find(|position| !self.slots.contains_key(position))?;
        self.slots.insert(next, Slot::Fetching);
        Some(next)
    }

    /// What became of a segment. Returns whether it is still wanted.
    pub(super) fn fetched(&mut self, position: Position, outcome: Outcome) -> bool {
        let Some(slot) = self.slots.get_mut(&position) else {
            return false;
        };
        match outcome {
            Outcome::Ready => *slot = Slot::Ready,
            Outcome::NotWhole => {
                self.slots.remove(&position);
                self.end = Some(self.end.map_or(position, |end| end.min(position)));
            }
        }
        true
    }

    /// The segment that was asked for last, if it is there, or was until it was taken.
    pub(super) fn ready(&self) -> Option<Position> {
        self.asked
            .filter(|asked| self.slots.get(asked) == Some(&Slot::Ready))
    }

    /// A segment is not there any more.
    pub(super) fn taken(&mut self, position: Position) {
        self.slots.remove(&position);
    }

    /// Whether nothing waits or is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(timeline: u32, number: u64) -> Position {
        (
            TimelineId::new(timeline).expect("not zero"),
            SegmentNumber(number),
        )
    }

    fn all(window: &mut Window) -> Vec<Position> {
        std::iter::from_fn(|| window.next()).collect()
    }

    #[test]
    fn those_after_what_was_asked_for_are_fetched_in_order() {
        let mut window = Window::new(2);
        assert_eq!(window.next(), None);
        assert!(window.ask(at(1, 5)).is_empty());
        assert_eq!(all(&mut window), [at(1, 6), at(1, 7)]);
        assert!(window.fetched(at(1, 6), Outcome::Ready));
        assert_eq!(window.ready(), None);
        // What is there already when it is asked for stays until it is taken.
        assert!(window.ask(at(1, 6)).is_empty());
        assert_eq!(window.ready(), Some(at(1, 6)));
        window.taken(at(1, 6));
        assert_eq!(window.ready(), None);
        assert_eq!(all(&mut window), [at(1, 8)]);
        // What is under way as well.
        assert!(window.ask(at(1, 7)).is_empty());
        assert!(window.fetched(at(1, 7), Outcome::Ready));
        assert_eq!(window.ready(), Some(at(1, 7)));
    }

    #[test]
    fn what_is_behind_or_on_another_timeline_goes() {
        let mut window = Window::new(2);
        window.ask(at(1, 4));
        let _ = all(&mut window);
        assert_eq!(window.ask(at(1, 7)), [at(1, 5), at(1, 6)]);
        assert!(!window.fetched(at(1, 5), Outcome::Ready));
        assert_eq!(all(&mut window), [at(1, 8), at(1, 9)]);
        assert_eq!(window.ask(at(2, 8)).len(), 2);
        assert_eq!(all(&mut window), [at(2, 9), at(2, 10)]);
    }

    #[test]
    fn nothing_is_fetched_beyond_what_is_not_whole_until_another_is_asked_for() {
        let mut window = Window::new(3);
        window.ask(at(1, 4));
        let _ = all(&mut window);
        window.fetched(at(1, 5), Outcome::Ready);
        window.fetched(at(1, 7), Outcome::NotWhole);
        window.fetched(at(1, 6), Outcome::NotWhole);
        assert_eq!(all(&mut window), []);
        // A standby asks for the first that is missing again and again.
        for _ in 0..2 {
            window.ask(at(1, 6));
            assert_eq!(all(&mut window), []);
        }
        window.ask(at(1, 7));
        assert_eq!(all(&mut window).len(), 3);
    }
}
