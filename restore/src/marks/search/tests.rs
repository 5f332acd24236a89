use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use walvault_archive::catalog::WalHeld;
use walvault_protocol::wal::MarkKind;
use walvault_protocol::{LsnRange, TimelineId};

use super::*;
use crate::line::Line;
use crate::target::Point;

const SECOND: i64 = 1_000_000;

/// Objects of ten marks each, which remember which of them were read.
struct Objects {
    marks: Vec<Arc<[WalMark]>>,
    read: Mutex<HashSet<u64>>,
}

impl Objects {
    /// One object for each list of times in seconds.
    fn new(times: &[Vec<i64>]) -> Objects {
        let mark = |object: usize, index: usize, seconds: i64| WalMark {
            start: Lsn(object as u64 * 1000 + index as u64 * 10),
            end: Lsn(object as u64 * 1000 + index as u64 * 10 + 10),
            time: PgTimestamp(seconds * SECOND),
            kind: MarkKind::Commit { xid: 3 },
        };
        let object = |(object, times): (usize, &Vec<i64>)| {
            times
                .iter()
                .enumerate()
                .map(|(index, seconds)| mark(object, index, *seconds))
                .collect()
        };
        Objects {
            marks: times.iter().enumerate().map(object).collect(),
            read: Mutex::default(),
        }
    }

    fn pieces(&self) -> Vec<Piece> {
        let piece = |index: usize| {
            let range = LsnRange::new(Lsn(index as u64 * 1000), Lsn(index as u64 * 1000 + 1000));
            Piece {
                timeline: TimelineId::FIRST,
                held: WalHeld {
                    range,
                    whole: true,
                    size: 0,
                    modified: jiff::Timestamp::UNIX_EPOCH,
                },
                span: range,
            }
        };
        (0..self.marks.len()).map(piece).collect()
    }

    /// The place found by halving, and the place found by looking at all.
    fn find(&self, seconds: i64) -> (Option<Lsn>, Option<Lsn>) {
        let pieces = self.pieces();
        let time = jiff::Timestamp::from_microsecond(PgTimestamp(seconds * SECOND).unix_micros());
        let target = Target::inclusive(Point::Time(time.expect("in range")));
        let search = Search {
            exact_up_to: 0,
            ..Search::new(self, &pieces, Lsn(0))
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        let found = runtime.block_on(search.first_past(&target)).expect("found");
        let all = self.marks.iter().flat_map(|marks| marks.iter());
        let expected = all.clone().find(|mark| target.is_past(mark.time));
        (
            found.map(|mark| mark.start),
            expected.map(|mark| mark.start),
        )
    }
}

impl MarkSource for Objects {
    async fn marks(&self, _: TimelineId, held: &WalHeld) -> Result<Arc<[WalMark]>, Error> {
        let object = held.range.start.0 / 1000;
        self.read.lock().expect("no panic").insert(object);
        Ok(self.marks[object as usize].clone())
    }

    async fn holds_record(&self, _: &Line<'_>, _: Lsn, _: Lsn) -> Result<bool, Error> {
        Ok(false)
    }
}

#[test]
fn few_objects_are_read_of_a_long_line() {
    let times: Vec<Vec<i64>> = (0..20_000)
        .map(|object| vec![object * 30, object * 30 + 15])
        .collect();
    let objects = Objects::new(&times);
    let (found, expected) = objects.find(123_456);
    assert_eq!(found, expected);
    let read = objects.read.lock().expect("no panic").len();
    assert!(read < 100, "{read} objects were read");
}

#[test]
fn a_clock_that_was_set_back_is_noticed() {
    // It rises for 100 minutes, is set back by an hour, and rises again.
    let time = |object: i64| {
        if object < 1000 {
            object * 6
        } else {
            object * 6 - 3600
        }
    };
    let times: Vec<Vec<i64>> = (0..2000).map(|object| vec![time(object)]).collect();
    let objects = Objects::new(&times);
    for seconds in [0, 2300, 2500, 4200, 5990, 6100, 8000, 9000] {
        let (found, expected) = objects.find(seconds);
        assert_eq!(found, expected, "{seconds}");
    }
}

proptest! {
    /// Times rise, give or take less than the tolerance; some objects have none.
    #[test]
    fn halving_finds_what_reading_all_finds(
        steps in prop::collection::vec(prop::collection::vec((0i64..20, -25i64..25), 0..4), 1..300),
        seconds in -50i64..3000,
    ) {
        let mut clock = 0;
        let times: Vec<Vec<i64>> = steps
            .into_iter()
            .map(|steps| {
                steps
                    .into_iter()
                    .map(|(step, jitter)| {
                        clock += step;
                        clock + jitter
                    })
                    .collect()
            })
            .collect();
        let (found, expected) = Objects::new(&times).find(seconds);
        prop_assert_eq!(found, expected);
    }
}
