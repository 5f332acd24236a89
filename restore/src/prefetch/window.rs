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

/// The segment that was asked for last and those after it, as many as are kept ahead.
#[derive(Debug)]
pub(super) struct Window {
    ahead: u64,
    /// The first segment that is wanted, and the number of the last.
    wanted: Option<(Position, u64)>,
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
            wanted: None,
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
        self.wanted = Some((position, position.1.0.saturating_add(self.ahead)));
        let unwanted: Vec<Position> = self
            .slots
            .keys()
            .copied()
            .filter(|held| !self.wants(*held))
            .collect();
        for position in &unwanted {
            self.slots.remove(position);
        }
        unwanted
    }

    /// The next segment to be fetched, which from now on counts as being fetched.
    pub(super) fn next(&mut self) -> Option<Position> {
        let ((timeline, from), last) = self.wanted?;
        let next = (from.0..=last)
            .map(|number| (timeline, SegmentNumber(number)))
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

    pub(super) fn slot(&self, position: Position) -> Option<Slot> {
        self.slots.get(&position).copied()
    }

    /// A segment was handed over.
    pub(super) fn taken(&mut self, position: Position) {
        self.slots.remove(&position);
        if let Some((from, _)) = &mut self.wanted
            && *from == position
        {
            from.1 = SegmentNumber(position.1.0.saturating_add(1));
        }
    }

    /// Whether nothing waits or is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    fn wants(&self, position: Position) -> bool {
        self.wanted.is_some_and(|((timeline, from), last)| {
            position.0 == timeline && (from.0..=last).contains(&position.1.0)
        })
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
    fn what_was_asked_for_comes_first_and_the_next_after_it() {
        let mut window = Window::new(2);
        assert_eq!(window.next(), None);
        assert!(window.ask(at(1, 5)).is_empty());
        assert_eq!(all(&mut window), [at(1, 5), at(1, 6), at(1, 7)]);
        assert!(window.fetched(at(1, 5), Outcome::Ready));
        assert_eq!(window.slot(at(1, 5)), Some(Slot::Ready));
        window.taken(at(1, 5));
        assert_eq!(all(&mut window), []);
        assert!(window.ask(at(1, 6)).is_empty());
        assert_eq!(all(&mut window), [at(1, 8)]);
    }

    #[test]
    fn what_is_behind_or_on_another_timeline_goes() {
        let mut window = Window::new(2);
        window.ask(at(1, 5));
        let _ = all(&mut window);
        assert_eq!(window.ask(at(1, 7)), [at(1, 5), at(1, 6)]);
        assert!(!window.fetched(at(1, 5), Outcome::Ready));
        assert_eq!(all(&mut window), [at(1, 8), at(1, 9)]);
        assert_eq!(window.ask(at(2, 8)).len(), 3);
        assert_eq!(all(&mut window).len(), 3);
    }

    #[test]
    fn nothing_is_fetched_beyond_what_is_not_whole_until_another_is_asked_for() {
        let mut window = Window::new(3);
        window.ask(at(1, 5));
        let _ = all(&mut window);
        window.fetched(at(1, 7), Outcome::NotWhole);
        window.fetched(at(1, 8), Outcome::NotWhole);
        window.fetched(at(1, 5), Outcome::Ready);
        window.taken(at(1, 5));
        assert_eq!(all(&mut window), []);
        // A standby asks for the first that is missing again and again.
        for _ in 0..2 {
            window.ask(at(1, 6));
            window.fetched(at(1, 6), Outcome::Ready);
            window.taken(at(1, 6));
            window.ask(at(1, 7));
            let asked = all(&mut window);
            for position in asked {
                window.fetched(position, Outcome::NotWhole);
            }
            window.ask(at(1, 7));
            assert_eq!(all(&mut window), []);
        }
        window.ask(at(1, 8));
        assert_eq!(all(&mut window).len(), 4);
    }
}
