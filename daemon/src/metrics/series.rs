//! What is remembered of the RPO until the audit trail is told.
//!
//! Owns the samples of one sidecar since it last told. Times are passed in, both the host's and those of
//! a clock that nobody sets, so that a clock that is set shows itself.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use walvault_archive::record::{ClockStep, RpoBreach, RpoSample, RpoSeries};
use walvault_protocol::Lsn;

/// How long a sample is at most, but where nothing happens; they end at multiples of it.
const SAMPLE: Duration = Duration::from_secs(300);
/// What was not looked at for longer was not watched.
const UNWATCHED: Duration = Duration::from_secs(10);
/// Clocks that are kept in step are never off by more.
const STEP: f64 = 2.0;

/// The samples since they were last taken.
#[derive(Debug)]
pub struct Series {
    objective: Duration,
    /// Of the sample that goes on.
    current: Option<Open>,
    breach: Option<RpoBreach>,
    /// When it was last looked, by both clocks.
    last: Option<(Timestamp, Instant)>,
    samples: Vec<RpoSample>,
    breaches: Vec<RpoBreach>,
    steps: Vec<ClockStep>,
    /// The watermark that the trail was last told.
    told: Lsn,
    /// The value that was last seen, in seconds.
    age: f64,
}

/// A sample that goes on.
#[derive(Debug)]
struct Open {
    from: Timestamp,
    worst: f64,
    /// Values times seconds.
    sum: f64,
    seconds: f64,
    archived_to: Lsn,
}

impl Series {
    /// Nothing was measured yet.
    #[must_use]
    pub fn new(objective: Duration) -> Series {
        Series {
            objective,
            current: None,
            breach: None,
            last: None,
            samples: Vec::new(),
            breaches: Vec::new(),
            steps: Vec::new(),
            told: Lsn::INVALID,
            age: 0.0,
        }
    }

    /// The oldest commit that may not be in the archive is `age` old, and everything before `archived_to`
    /// is there.
    pub fn observe(&mut self, now: Timestamp, at: Instant, age: Duration, archived_to: Lsn) {
        let now = whole_milliseconds(now);
        let passed = self.last.map(|(shown, last)| {
            let passed = at.duration_since(last);
            let step = now.duration_since(shown).as_secs_f64() - passed.as_secs_f64();
            if step.abs() > STEP {
                self.steps.push(ClockStep {
                    at: now,
                    seconds: step,
                });
            }
            (passed, step.abs() > STEP)
        });
        let age_seconds = age.as_secs_f64();
        match passed {
            Some((passed, false)) if passed <= UNWATCHED => {
                let open = self.current.get_or_insert_with(|| Open::at(now));
                open.worst = open.worst.max(age_seconds);
                open.sum += age_seconds * passed.as_secs_f64();
                open.seconds += passed.as_secs_f64();
                open.archived_to = archived_to;
                if beyond(open.from, now) {
                    self.close(now);
                    self.current = Some(Open::at(now));
                }
            }
            // Time that nobody saw belongs to no sample.
            _ => {
                let seen = self.last.map_or(now, |(shown, _)| shown);
                self.close(seen);
                self.end_breach(seen);
                self.current = Some(Open {
                    worst: age_seconds,
                    archived_to,
                    ..Open::at(now)
                });
            }
        }
        match age > self.objective {
            true => {
                let breach = self.breach.get_or_insert(RpoBreach {
                    from: now,
                    to: now,
                    worst_seconds: 0.0,
                    open: false,
                });
                breach.worst_seconds = breach.worst_seconds.max(age_seconds);
            }
            false => self.end_breach(now),
        }
        self.last = Some((now, at));
        self.age = age_seconds;
    }

    /// Nothing is there to measure: the server's commits are not ours to archive.
    pub fn pause(&mut self) {
        if let Some((seen, _)) = self.last.take() {
            self.close(seen);
            self.end_breach(seen);
        }
    }

    /// What was measured since this was last called; `None` where nothing was. Unless `even_if_idle`, what
    /// holds nothing but an idle server stays here, to be told with what follows.
    pub fn take(&mut self, even_if_idle: bool) -> Option<RpoSeries> {
        if let Some((seen, _)) = self.last {
            self.close(seen);
            self.current = Some(Open::at(seen));
        }
        let idle = self.steps.is_empty()
            && self.breaches.is_empty()
            && self.breach.is_none()
            && self
                .samples
                .iter()
                .all(|sample| sample.worst_seconds == 0.0 && sample.archived_to == self.told);
        if self.samples.is_empty() || (idle && !even_if_idle) {
            return None;
        }
        if let (Some(breach), Some((seen, _))) = (&mut self.breach, self.last) {
            self.breaches.push(RpoBreach {
                to: seen,
                open: true,
                ..breach.clone()
            });
            (breach.from, breach.worst_seconds) = (seen, self.age);
        }
        let samples = std::mem::take(&mut self.samples);
        self.told = samples.last().map_or(self.told, |last| last.archived_to);
        Some(RpoSeries {
            objective_seconds: self.objective.as_secs_f64(),
            samples,
            breaches: std::mem::take(&mut self.breaches),
            clock_steps: std::mem::take(&mut self.steps),
        })
    }

    /// When the oldest sample that was not taken began.
    #[must_use]
    pub fn begins(&self) -> Option<Timestamp> {
        let first = self.samples.first().map(|sample| sample.from);
        first.or(self.current.as_ref().map(|open| open.from))
    }

    fn close(&mut self, to: Timestamp) {
        let Some(open) = self.current.take().filter(|open| open.seconds > 0.0) else {
            return;
        };
        let sample = RpoSample {
            from: open.from,
            to,
            worst_seconds: open.worst,
            mean_seconds: open.sum / open.seconds,
            archived_to: open.archived_to,
        };
        match self.samples.last_mut() {
            // However long nothing happens, it is one sample.
            Some(last) if is_idle(last, &sample) => last.to = sample.to,
            _ => self.samples.push(sample),
        }
    }

    fn end_breach(&mut self, at: Timestamp) {
        if let Some(breach) = self.breach.take() {
            self.breaches.push(RpoBreach { to: at, ..breach });
        }
    }
}

impl Open {
    fn at(from: Timestamp) -> Open {
        Open {
            from,
            worst: 0.0,
            sum: 0.0,
            seconds: 0.0,
            archived_to: Lsn::INVALID,
        }
    }
}

fn is_idle(last: &RpoSample, next: &RpoSample) -> bool {
    let zero = last.worst_seconds == 0.0 && next.worst_seconds == 0.0;
    zero && last.archived_to == next.archived_to && last.to == next.from
}

/// Whether a multiple of [`SAMPLE`] lies between.
fn beyond(from: Timestamp, now: Timestamp) -> bool {
    let length = SAMPLE.as_secs() as i64;
    from.as_second().div_euclid(length) != now.as_second().div_euclid(length)
}

fn whole_milliseconds(at: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A sidecar whose two clocks go on together.
    struct Clocks {
        shown: Timestamp,
        at: Instant,
        series: Series,
    }

    impl Clocks {
        fn begin() -> Clocks {
            Clocks {
                shown: Timestamp::from_second(1_800_000_000).expect("a time"),
                at: Instant::now(),
                series: Series::new(60 * SECOND),
            }
        }

        fn pass(&mut self, seconds: u64, age: Duration, archived_to: u64) {
            for _ in 0..seconds {
                self.series
                    .observe(self.shown, self.at, age, Lsn(archived_to));
                self.shown += SECOND;
                self.at += SECOND;
            }
        }
    }

    #[test]
    fn samples_cover_what_was_watched_with_worst_and_mean() {
        let mut clocks = Clocks::begin();
        clocks.pass(200, SECOND, 7);
        clocks.pass(200, 3 * SECOND, 8);
        let series = clocks.series.take(false).expect("samples");
        let [first, second] = &series.samples[..] else {
            panic!("two: {series:?}")
        };
        assert_eq!((first.worst_seconds, second.worst_seconds), (3.0, 3.0));
        assert!((1.6..1.7).contains(&first.mean_seconds), "{first:?}");
        assert_eq!(second.mean_seconds, 3.0);
        assert_eq!(first.to, second.from);
        assert_eq!(first.to.as_second() % 300, 0);
        assert_eq!(second.archived_to, Lsn(8));
        assert!(series.breaches.is_empty());
        // What follows begins where this ended.
        clocks.pass(2, SECOND, 9);
        let next = clocks.series.take(false).expect("samples");
        assert_eq!(next.samples[0].from, second.to);
    }

    #[test]
    fn a_breach_is_told_with_its_worst_and_goes_on_from_series_to_series() {
        let mut clocks = Clocks::begin();
        let begun = clocks.shown;
        clocks.pass(10, SECOND, 1);
        clocks.pass(10, 61 * SECOND, 1);
        let series = clocks.series.take(false).expect("samples");
        let breach = RpoBreach {
            from: begun + 10 * SECOND,
            to: begun + 19 * SECOND,
            worst_seconds: 61.0,
            open: true,
        };
        assert_eq!(series.breaches, [breach]);
        clocks.pass(5, 90 * SECOND, 1);
        clocks.pass(5, SECOND, 2);
        let series = clocks.series.take(false).expect("samples");
        let breach = RpoBreach {
            from: begun + 19 * SECOND,
            to: begun + 25 * SECOND,
            worst_seconds: 90.0,
            open: false,
        };
        assert_eq!(series.breaches, [breach]);

        // One that ends right after it was told of does not go on for ever.
        clocks.pass(2, 70 * SECOND, 2);
        assert!(clocks.series.take(false).expect("samples").breaches[0].open);
        clocks.pass(1, SECOND, 2);
        let series = clocks.series.take(false).expect("samples");
        let [rest] = &series.breaches[..] else {
            panic!("one: {series:?}")
        };
        assert_eq!((rest.open, rest.worst_seconds), (false, 70.0));
    }

    #[test]
    fn idle_hours_are_told_together_and_as_one_sample() {
        let mut clocks = Clocks::begin();
        clocks.pass(10, SECOND, 5);
        assert!(clocks.series.take(false).is_some());
        let begun = clocks.series.begins();
        for _ in 0..3 {
            clocks.pass(3600, Duration::ZERO, 5);
            assert_eq!(clocks.series.take(false), None);
        }
        assert_eq!(clocks.series.begins(), begun);
        let series = clocks.series.take(true).expect("samples");
        let [only] = &series.samples[..] else {
            panic!("one: {series:?}")
        };
        assert_eq!(only.to.duration_since(only.from).as_secs(), 3 * 3600);
        // The watermark moved, though nothing was late.
        clocks.pass(10, Duration::ZERO, 6);
        assert!(clocks.series.take(false).is_some());
    }

    #[test]
    fn what_nobody_watched_and_a_clock_that_was_set_are_in_no_sample() {
        let mut clocks = Clocks::begin();
        clocks.pass(10, SECOND, 1);
        // The machine stood still, and both clocks went on.
        clocks.shown += 100 * SECOND;
        clocks.at += 100 * SECOND;
        clocks.pass(10, SECOND, 1);
        clocks.shown -= 3600 * SECOND;
        clocks.pass(10, SECOND, 1);
        let series = clocks.series.take(false).expect("samples");
        let length = |sample: &RpoSample| sample.to.duration_since(sample.from).as_secs();
        let lengths: Vec<i64> = series.samples.iter().map(length).collect();
        assert_eq!(lengths, [9, 9, 9]);
        let [step] = &series.clock_steps[..] else {
            panic!("one: {series:?}")
        };
        assert_eq!(step.seconds, -3600.0);
    }

    #[test]
    fn beside_a_standby_nothing_is_measured() {
        let mut clocks = Clocks::begin();
        assert_eq!(clocks.series.take(true), None);
        clocks.pass(10, 61 * SECOND, 1);
        clocks.series.pause();
        assert_eq!(clocks.series.begins(), Some(clocks.shown - 10 * SECOND));
        clocks.shown += 600 * SECOND;
        clocks.at += 600 * SECOND;
        clocks.pass(3, SECOND, 1);
        let series = clocks.series.take(true).expect("samples");
        assert_eq!(series.samples.len(), 2);
        assert!(!series.breaches[0].open);
    }
}
