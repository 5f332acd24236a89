use proptest::prelude::*;
use walvault_archive::record::ClockStep;
use walvault_evidence::audit::{Actor, Event, Outcome, Position};
use walvault_protocol::Lsn;

use super::*;
use crate::reporting::Kind;
use crate::reporting::span::Asked;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).expect("a time")
}

/// From 0 to 3600.
fn hour() -> Span {
    let asked = Asked {
        from: Some(at(0).to_string()),
        to: Some(at(3600).to_string()),
        time_zone: None,
    };
    let chosen = Span::choose(Kind::Daily, &asked, at(9000), at(-9000));
    chosen.expect("a span").0
}

fn sample(from: i64, to: i64, worst_seconds: f64) -> RpoSample {
    RpoSample {
        from: at(from),
        to: at(to),
        worst_seconds,
        mean_seconds: worst_seconds / 2.0,
        archived_to: Lsn(1),
    }
}

fn breach(from: i64, to: i64, worst_seconds: f64, open: bool) -> RpoBreach {
    RpoBreach {
        from: at(from),
        to: at(to),
        worst_seconds,
        open,
    }
}

fn told(samples: Vec<RpoSample>, breaches: Vec<RpoBreach>, steps: Vec<ClockStep>) -> Recorded {
    let actor = Actor {
        operator: "postgres".to_owned(),
        host: "db1".to_owned(),
        program: "walvaultd".to_owned(),
    };
    let series = RpoSeries {
        objective_seconds: 60.0,
        samples,
        breaches,
        clock_steps: steps,
    };
    Recorded {
        position: Position {
            writer: String::new(),
            number: 1,
        },
        event: Event::new(&actor, Action::Rpo, Outcome::Succeeded).with("series", series),
    }
}

fn rpo(events: &[Recorded]) -> Rpo {
    let span = hour();
    let buckets = span.buckets().expect("an hour");
    Rpo::of(events, &span, &buckets)
}

#[test]
fn figures_are_those_of_the_samples_and_what_nobody_watched_is_not_known() {
    let first = told(
        vec![sample(-300, 300, 1.0), sample(300, 600, 100.0)],
        vec![breach(500, 600, 100.0, true)],
        vec![ClockStep {
            at: at(400),
            seconds: -30.0,
        }],
    );
    let second = told(
        vec![sample(600, 900, 130.0)],
        vec![breach(600, 620, 130.0, false)],
        Vec::new(),
    );
    let later = told(vec![sample(1800, 3000, 2.0)], Vec::new(), Vec::new());
    let rpo = rpo(&[first, second, later]);
    assert_eq!(rpo.watched_seconds, 2100.0);
    let lacking: Vec<f64> = rpo.not_watched.iter().map(Stretch::seconds).collect();
    assert_eq!(lacking, [900.0, 600.0]);
    assert_eq!(
        (rpo.worst_seconds, rpo.p99_seconds),
        (Some(130.0), Some(130.0))
    );
    let [only] = &rpo.breaches[..] else {
        panic!("one that went on: {:?}", rpo.breaches)
    };
    assert_eq!((only.stretch.seconds(), only.worst_seconds), (120.0, 130.0));
    assert!(!only.open);
    assert_eq!(rpo.kept, Some(1.0 - 120.0 / 2100.0));
    assert_eq!(rpo.clock_steps[0].seconds, -30.0);
    assert_eq!(rpo.objectives_seconds, [60.0]);
    // Of the first sample only what lies within counts.
    let mean = (0.5 * 300.0 + 50.0 * 300.0 + 65.0 * 300.0 + 1.0 * 1200.0) / 2100.0;
    assert!((rpo.mean_seconds.expect("a mean") - mean).abs() < 1e-9);
}

#[test]
fn without_samples_nothing_is_known_and_nothing_kept() {
    let rpo = rpo(&[]);
    assert_eq!((rpo.watched, rpo.kept), (0.0, None));
    assert_eq!((rpo.worst_seconds, rpo.p99_seconds), (None, None));
    assert_eq!(rpo.not_watched.len(), 1);
    assert_eq!(rpo.chart, [None]);
}

#[test]
fn what_two_sidecars_watched_counts_once() {
    let one = told(vec![sample(0, 2000, 1.0)], Vec::new(), Vec::new());
    let other = told(vec![sample(1000, 3600, 1.0)], Vec::new(), Vec::new());
    let rpo = rpo(&[one, other]);
    assert_eq!((rpo.watched_seconds, rpo.watched), (3600.0, 1.0));
    assert!(rpo.not_watched.is_empty());
}

proptest! {
    /// The nearest rank (NIST, Engineering Statistics Handbook) among as many equal values as each weighs.
    #[test]
    fn percentiles_are_nearest_ranks(
        weighed in prop::collection::vec((0u32..50, 1usize..40), 1..40),
        part in 1u32..=100,
    ) {
        let mut all: Vec<u32> = Vec::new();
        for (value, weight) in &weighed {
            all.extend(std::iter::repeat_n(*value, *weight));
        }
        all.sort_unstable();
        let rank = (all.len() * part as usize).div_ceil(100);
        let weighed: Vec<(f64, f64)> = weighed
            .iter()
            .map(|(value, weight)| (f64::from(*value), *weight as f64))
            .collect();
        let found = percentile(&weighed, f64::from(part) / 100.0);
        prop_assert_eq!(found, Some(f64::from(all[rank - 1])));
    }

    /// What is covered and what is not make up the span, however stretches overlap.
    #[test]
    fn nothing_of_a_span_is_lost(stretches in prop::collection::vec((0i64..3600, 1i64..900), 0..20)) {
        let span = hour();
        let cut = stretches.iter().filter_map(|(from, length)| {
            let stretch = Stretch { from: at(*from), to: at(from + length) };
            stretch.within(span.from, span.to)
        });
        let (covered, rest) = cover(&span, cut);
        let rest: f64 = rest.iter().map(Stretch::seconds).sum();
        // Of what is no longer apart than two looks of a sidecar, each may be taken for either.
        let slack = 3.0 * (stretches.len() + 1) as f64;
        prop_assert!((covered + rest - 3600.0).abs() <= slack, "{} and {}", covered, rest);
        prop_assert!(covered <= 3600.0);
    }
}
