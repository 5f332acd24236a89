//! When something that recurs is due: cron expressions in a time zone.
//!
//! Owns no memory of what ran. Whoever asks says when the last run was, usually by the archive's newest
//! record of it; so a run that was missed while nobody was there is due at once, and only once,
//! however many were missed.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use chrono::{DateTime, TimeZone, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use walvault_store::clock;

/// The longest sleep before the clock is read again: a clock that is set, or a machine that was
/// suspended, is noticed after that long.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// A cron expression, a time zone and a jitter.
///
/// Expressions have five fields (minute, hour, day of the month, month, day of the week), or six with seconds
/// before them, or are one of `@hourly`, `@daily`, `@weekly`, `@monthly` and `@yearly`. As in Vixie cron a
/// day matches when either of its two fields does. When clocks are set forward, a run whose time does not exist
/// comes right after; when they are set back, a run whose time exists twice comes once.
#[derive(Debug, Clone)]
pub struct Schedule {
    cron: Cron,
    zone: Tz,
    jitter: Duration,
    seed: RandomState,
}

/// Why there is no such schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not a cron expression.
    #[error(
        "'{expression}' is not a cron expression ({reason}); write it as \"minute hour day month weekday\", such as \"0 2 * * *\" for 02:00 every day"
    )]
    Expression {
        /// As written.
        expression: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A cron expression of a day that never comes.
    #[error("'{expression}' never comes to pass; correct the day or the month")]
    Never {
        /// As written.
        expression: String,
    },
    /// Not a time zone.
    #[error(
        "'{0}' is not a time zone; use a name of the IANA database, such as \"UTC\" or \"Europe/Berlin\""
    )]
    Zone(String),
}

impl Schedule {
    /// Reads `expression` in the time zone `zone`. Each run comes later by a random part of `jitter`,
    /// so that many clusters with one schedule do not all begin at once.
    ///
    /// # Errors
    /// When either does not read, or the expression never comes to pass.
    pub fn new(expression: &str, zone: &str, jitter: Duration) -> Result<Schedule, ScheduleError> {
        let zone: Tz = zone
            .parse()
            .map_err(|_| ScheduleError::Zone(zone.to_owned()))?;
        let parser = CronParser::builder()
            .seconds(Seconds::Optional)
            .year(Year::Disallowed)
            .build();
        let cron = parser
            .parse(expression)
            .map_err(|error| ScheduleError::Expression {
                expression: expression.to_owned(),
                reason: error.to_string().trim_end_matches('.').to_owned(),
            })?;
        let schedule = Schedule {
            cron,
            zone,
            jitter,
            seed: RandomState::new(),
        };
        match schedule.due_after(clock::now()) {
            Some(_) => Ok(schedule),
            None => Err(ScheduleError::Never {
                expression: expression.to_owned(),
            }),
        }
    }

    /// When the run is due that follows one at `last`. It lies in the past when runs were missed. The
    /// same answer every time. `None` when there is no further run, which takes centuries.
    #[must_use]
    pub fn due_after(&self, last: Timestamp) -> Option<Timestamp> {
        let last = DateTime::<Utc>::from_timestamp(last.as_second(), 0)?;
        let next = self
            .cron
            .find_next_occurrence(&self.zone.from_utc_datetime(&last.naive_utc()), false)
            .ok()?
            .timestamp();
        let later = Duration::from_millis(match self.jitter.as_millis() as u64 {
            0 => 0,
            jitter => self.seed.hash_one(next) % jitter,
        });
        Timestamp::from_second(next).ok()?.checked_add(later).ok()
    }
}

/// Sleeps until the clock shows `at`, however the clock is set meanwhile.
pub async fn sleep_until(at: Timestamp) {
    while let Ok(left) = Duration::try_from(at.duration_since(clock::now()))
        && !left.is_zero()
    {
        tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn due(expression: &str, zone: &str, last: &str) -> String {
        let schedule = Schedule::new(expression, zone, Duration::ZERO).unwrap();
        schedule.due_after(at(last)).unwrap().to_string()
    }

    #[test]
    fn the_next_run_is_reckoned_in_the_time_zone() {
        let last = "2026-11-21T06:30:00.25Z";
        assert_eq!(due("0 2 * * *", "UTC", last), "2026-11-22T02:00:00Z");
        assert_eq!(
            due("0 2 * * *", "America/New_York", last),
            "2026-11-21T07:00:00Z"
        );
        assert_eq!(due("@weekly", "UTC", last), "2026-11-22T00:00:00Z");
        assert_eq!(due("*/10 * * * * *", "UTC", last), "2026-11-21T06:30:10Z");
        assert_eq!(due("30 6 * * *", "UTC", last), "2026-11-22T06:30:00Z");
    }

    /// Berlin: 02:00 to 03:00 does not exist on 2027-03-28, and exists twice on 2026-10-25.
    #[test]
    fn clocks_that_are_set_lose_no_run_and_double_none() {
        let daily = |last| due("30 2 * * *", "Europe/Berlin", last);
        let spring = daily("2027-03-27T12:00:00Z");
        assert!(
            at(&spring) >= at("2027-03-28T01:00:00Z") && at(&spring) < at("2027-03-28T02:00:00Z"),
            "{spring}"
        );
        assert_eq!(daily(&spring), "2027-03-29T00:30:00Z");
        let autumn = daily("2026-10-24T12:00:00Z");
        assert_eq!(autumn, "2026-10-25T00:30:00Z");
        assert_eq!(daily(&autumn), "2026-10-26T01:30:00Z");
    }

    #[test]
    fn what_was_missed_is_due_once() {
        let schedule = Schedule::new("0 * * * *", "UTC", Duration::ZERO).unwrap();
        let now = at("2026-11-21T06:30:00Z");
        assert!(schedule.due_after(at("2026-11-01T00:00:00Z")).unwrap() < now);
        // The one that is taken now stands for them all.
        assert!(schedule.due_after(now).unwrap() > now);
    }

    proptest! {
        /// Jitter shifts a run by less than itself, and always by the same.
        #[test]
        fn jitter_is_bounded_and_steady(second in 1_700_000_000i64..1_900_000_000, jitter in 1u64..600) {
            let exact = Schedule::new("17 * * * *", "UTC", Duration::ZERO).unwrap();
            let shifted = Schedule::new("17 * * * *", "UTC", Duration::from_secs(jitter)).unwrap();
            let last = Timestamp::from_second(second).unwrap();
            let (run, later) = (exact.due_after(last).unwrap(), shifted.due_after(last).unwrap());
            let by = later.duration_since(run);
            prop_assert!(!by.is_negative() && by < jiff::SignedDuration::from_secs(jitter as i64));
            prop_assert_eq!(shifted.due_after(last), Some(later));
        }
    }

    #[test]
    fn says_what_does_not_read() {
        let error = |expression, zone| {
            Schedule::new(expression, zone, Duration::ZERO)
                .unwrap_err()
                .to_string()
        };
        for expression in [
            "",
            "daily",
            "0 2 * *",
            "61 * * * *",
            "0 2 * * * * 2027",
            "@never",
        ] {
            let said = error(expression, "UTC");
            assert!(said.contains("is not a cron expression"), "{said}");
        }
        assert!(error("0 0 30 2 *", "UTC").contains("never comes to pass"));
        assert!(error("0 2 * * *", "Berlin").contains("'Berlin' is not a time zone"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_past_is_not_waited_for() {
        sleep_until(at("2020-01-01T00:00:00Z")).await;
        sleep_until(Timestamp::now() + Duration::from_millis(1)).await;
    }
}
