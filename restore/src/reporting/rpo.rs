//! How old commits became before they were archived, over a span.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use walvault_archive::record::{RpoBreach, RpoSample, RpoSeries};
use walvault_evidence::audit::{Action, Recorded};

use super::Span;
use super::span::Bucket;

/// Samples that are no further apart follow each other: clocks show whole milliseconds, and a sidecar looks
/// every second.
const APART: SignedDuration = SignedDuration::from_millis(2500);

/// What is known of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Rpo {
    /// The objectives that were in force, in the order in which they were seen.
    pub objectives_seconds: Vec<f64>,
    /// How much of the span was watched.
    pub watched_seconds: f64,
    /// The part of the span that was watched, from 0 to 1.
    pub watched: f64,
    /// The part of what was watched in which the objective was kept, from 0 to 1.
    pub kept: Option<f64>,
    /// The highest value.
    pub worst_seconds: Option<f64>,
    /// What the highest value of five minutes did not exceed in 99 of 100.
    pub p99_seconds: Option<f64>,
    /// The mean over time.
    pub mean_seconds: Option<f64>,
    /// When the objective was not kept.
    pub breaches: Vec<Breach>,
    /// When nobody watched, or nobody told yet.
    pub not_watched: Vec<Stretch>,
    /// When clocks were set, or machines suspended.
    pub clock_steps: Vec<Step>,
    /// The highest value in each part of the span; `None` where nobody watched.
    pub chart: Vec<Option<f64>>,
}

/// A stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stretch {
    /// Its beginning.
    pub from: Timestamp,
    /// Its end.
    pub to: Timestamp,
}

/// A stretch in which the objective was not kept.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Breach {
    /// When.
    #[serde(flatten)]
    pub stretch: Stretch,
    /// The highest value.
    pub worst_seconds: f64,
    /// Whether it went on when it was last told.
    pub open: bool,
    /// Where it was seen.
    pub host: String,
}

/// A clock that was set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// What it showed afterwards.
    pub at: Timestamp,
    /// By how much it was off.
    pub seconds: f64,
    /// Whose it is.
    pub host: String,
}

impl Stretch {
    /// How long it is.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.to.duration_since(self.from).as_secs_f64().max(0.0)
    }

    fn within(&self, from: Timestamp, to: Timestamp) -> Option<Stretch> {
        let cut = Stretch {
            from: self.from.max(from),
            to: self.to.min(to),
        };
        (cut.from < cut.to).then_some(cut)
    }
}

impl Rpo {
    /// What events tell of a span.
    #[must_use]
    pub fn of(events: &[Recorded], span: &Span, buckets: &[Bucket]) -> Rpo {
        let mut rpo = Rpo::default();
        let mut samples: Vec<(Stretch, RpoSample)> = Vec::new();
        for Recorded { event, .. } in events {
            let series = match (&event.action, event.details.get("series")) {
                (Action::Rpo, Some(series)) => serde_json::from_value::<RpoSeries>(series.clone()),
                _ => continue,
            };
            let Ok(series) = series else { continue };
            rpo.take(series, &event.host, span, &mut samples);
        }
        let (watched, not_watched) = cover(span, samples.iter().map(|(stretch, _)| *stretch));
        rpo.watched_seconds = watched;
        rpo.watched = (watched / span.seconds()).clamp(0.0, 1.0);
        rpo.not_watched = not_watched;
        let weighed: Vec<(f64, f64)> = samples
            .iter()
            .map(|(stretch, sample)| (sample.worst_seconds, stretch.seconds()))
            .collect();
        rpo.worst_seconds = percentile(&weighed, 1.0);
        rpo.p99_seconds = percentile(&weighed, 0.99);
        let weight: f64 = weighed.iter().map(|(_, weight)| weight).sum();
        if weight > 0.0 {
            let sum: f64 = samples
                .iter()
                .map(|(stretch, sample)| sample.mean_seconds * stretch.seconds())
                .sum();
            rpo.mean_seconds = Some(sum / weight);
            let broken = rpo.breaches.iter().map(|breach| breach.stretch);
            let (broken, _) = cover(span, broken);
            rpo.kept = Some((1.0 - broken / watched).clamp(0.0, 1.0));
        }
        let worst_in = |bucket: &Bucket| {
            let within = samples.iter().filter_map(|(stretch, sample)| {
                stretch.within(bucket.from, bucket.to)?;
                Some(sample.worst_seconds)
            });
            within.max_by(f64::total_cmp)
        };
        rpo.chart = buckets.iter().map(worst_in).collect();
        rpo
    }

    fn take(
        &mut self,
        series: RpoSeries,
        host: &str,
        span: &Span,
        samples: &mut Vec<(Stretch, RpoSample)>,
    ) {
        let before = samples.len();
        for sample in series.samples {
            let stretch = Stretch {
                from: sample.from,
                to: sample.to,
            };
            if let Some(cut) = stretch.within(span.from, span.to) {
                samples.push((cut, sample));
            }
        }
        let objective = series.objective_seconds;
        if samples.len() > before && self.objectives_seconds.last() != Some(&objective) {
            self.objectives_seconds.push(objective);
        }
        for breach in series.breaches {
            self.breach(breach, host, span);
        }
        let steps = series.clock_steps.into_iter();
        let steps = steps.filter(|step| span.holds(step.at));
        self.clock_steps.extend(steps.map(|step| Step {
            at: step.at,
            seconds: step.seconds,
            host: host.to_owned(),
        }));
    }

    /// Adds a breach, or makes one that went on longer.
    fn breach(&mut self, breach: RpoBreach, host: &str, span: &Span) {
        let stretch = Stretch {
            from: breach.from,
            to: breach.to,
        };
        if breach.from >= span.to {
            return;
        }
        let goes_on = self.breaches.iter_mut().rev().find(|earlier| {
            earlier.open && earlier.host == host && earlier.stretch.to == breach.from
        });
        if let Some(earlier) = goes_on {
            earlier.stretch.to = breach.to.min(span.to);
            earlier.worst_seconds = earlier.worst_seconds.max(breach.worst_seconds);
            earlier.open = breach.open;
        } else if let Some(cut) = stretch.within(span.from, span.to) {
            self.breaches.push(Breach {
                stretch: cut,
                worst_seconds: breach.worst_seconds,
                open: breach.open,
                host: host.to_owned(),
            });
        }
    }
}

/// How many seconds of a span some stretch covers, and what none does.
fn cover(span: &Span, stretches: impl Iterator<Item = Stretch>) -> (f64, Vec<Stretch>) {
    let mut sorted: Vec<Stretch> = stretches.collect();
    sorted.sort_by_key(|stretch| stretch.from);
    let (mut covered, mut rest, mut at) = (0.0, Vec::new(), span.from);
    for stretch in sorted {
        if stretch.from.duration_since(at) > APART {
            rest.push(Stretch {
                from: at,
                to: stretch.from,
            });
        }
        let new = Stretch {
            from: stretch.from.max(at),
            to: stretch.to,
        };
        covered += new.seconds();
        at = at.max(stretch.to);
    }
    if span.to.duration_since(at) > APART {
        rest.push(Stretch {
            from: at,
            to: span.to,
        });
    }
    (covered, rest)
}

/// The least value that this part of all weight does not exceed; `None` where there is no weight. Values come
/// with their weights.
#[must_use]
pub fn percentile(weighed: &[(f64, f64)], part: f64) -> Option<f64> {
    let mut sorted: Vec<(f64, f64)> = weighed.iter().copied().filter(|it| it.1 > 0.0).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let all: f64 = sorted.iter().map(|(_, weight)| weight).sum();
    let mut reached = 0.0;
    for (value, weight) in &sorted {
        reached += weight;
        // Sums of parts are off by the last bits.
        if reached >= part * all * (1.0 - 1e-12) {
            return Some(*value);
        }
    }
    sorted.last().map(|(value, _)| *value)
}

#[cfg(test)]
mod tests;
