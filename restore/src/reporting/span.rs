//! What time a report is about.

use clap::ValueEnum;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};
use serde::Serialize;

use super::ReportError;
use crate::report::instant;
use crate::target::parse_instant;

/// A kind of report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A day: yesterday, if nothing else is said
    Daily,
    /// A month: the last one
    Monthly,
    /// A year: the last one
    Annual,
    /// A directory with all there is to prove it, signed: the last twelve months up to now
    Evidence,
}

impl Kind {
    /// As it is spelled.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Daily => "daily",
            Kind::Monthly => "monthly",
            Kind::Annual => "annual",
            Kind::Evidence => "evidence",
        }
    }

    fn length(self) -> jiff::Span {
        match self {
            Kind::Daily => 1.day(),
            Kind::Monthly => 1.month(),
            Kind::Annual | Kind::Evidence => 1.year(),
        }
    }

    /// Where the period that is over last ended.
    fn end(self, now: &Zoned) -> Result<Zoned, jiff::Error> {
        match self {
            Kind::Daily => now.start_of_day(),
            Kind::Monthly => now.first_of_month()?.start_of_day(),
            Kind::Annual => now.first_of_year()?.start_of_day(),
            Kind::Evidence => Ok(now.clone()),
        }
    }
}

/// A stretch of time.
#[derive(Debug, Clone, Serialize)]
pub struct Span {
    /// Its beginning.
    pub from: Timestamp,
    /// Its end, which is not in it.
    pub to: Timestamp,
    /// Whose days and months are meant.
    pub time_zone: String,
    /// The same.
    #[serde(skip)]
    pub zone: TimeZone,
}

/// A part of a span, as charts have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bucket {
    /// Its beginning.
    pub from: Timestamp,
    /// Its end.
    pub to: Timestamp,
    /// What it is called, such as `2026-11-21`.
    pub label: String,
}

/// What was asked for.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// `--from`
    pub from: Option<String>,
    /// `--to`
    pub to: Option<String>,
    /// `--timezone`
    pub time_zone: Option<String>,
}

impl Span {
    /// What `asked` means for a `kind` of report at `now`, on an archive that was begun at `began`; and
    /// what of it cannot be told, in words.
    ///
    /// # Errors
    /// When that is nothing of which anything could be told.
    pub fn choose(
        kind: Kind,
        asked: &Asked,
        now: Timestamp,
        began: Timestamp,
    ) -> Result<(Span, Vec<String>), ReportError> {
        let (zone, time_zone) = match &asked.time_zone {
            None => (TimeZone::UTC, "UTC".to_owned()),
            Some(name) => {
                let zone = TimeZone::get(name).map_err(|_| ReportError::Zone(name.clone()))?;
                (zone, name.clone())
            }
        };
        let parse = |text: &String| parse(text, &zone);
        let given = (
            asked.from.as_ref().map(parse).transpose()?,
            asked.to.as_ref().map(parse).transpose()?,
        );
        let later = |at: Timestamp, by: jiff::Span| {
            let moved = at.to_zoned(zone.clone()).checked_add(by)?;
            Ok::<_, jiff::Error>(moved.timestamp())
        };
        let (from, to) = match given {
            (Some(from), Some(to)) => (from, to),
            (Some(from), None) => (from, later(from, kind.length())?.min(now.max(from))),
            (None, Some(to)) => (later(to, -kind.length())?, to),
            (None, None) => {
                let end = kind.end(&now.to_zoned(zone.clone()))?.timestamp();
                (later(end, -kind.length())?, end)
            }
        };
        if from >= now {
            return Err(ReportError::Future(from));
        }
        if from >= to {
            return Err(ReportError::Empty { from, to });
        }
        if to <= began {
            return Err(ReportError::BeforeArchive { to, began });
        }
        let mut notices = Vec::new();
        if from < began {
            notices.push(format!(
                "The archive was begun at {}; of the time before it nothing is known.",
                instant(began)
            ));
        }
        if to > now {
            notices.push(format!(
                "The span goes on until {}; this report was made before, at {}.",
                instant(to),
                instant(now)
            ));
        }
        let span = Span {
            from,
            to: to.min(now),
            time_zone,
            zone,
        };
        Ok((span, notices))
    }

    /// Whether an instant is in it.
    #[must_use]
    pub fn holds(&self, at: Timestamp) -> bool {
        self.from <= at && at < self.to
    }

    /// How long it is.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.to.duration_since(self.from).as_secs_f64()
    }

    /// Its hours, days or months, by its length.
    ///
    /// # Errors
    /// When a calendar ends before it.
    pub fn buckets(&self) -> Result<Vec<Bucket>, ReportError> {
        const DAY: f64 = 86_400.0;
        let (step, form): (jiff::Span, &str) = match self.seconds() / DAY {
            days if days <= 2.0 => (1.hour(), "%m-%d %H:%M"),
            days if days <= 63.0 => (1.day(), "%Y-%m-%d"),
            _ => (1.month(), "%Y-%m"),
        };
        let begin = self.from.to_zoned(self.zone.clone());
        let mut at = match self.seconds() / DAY {
            days if days <= 2.0 => begin.round(
                jiff::ZonedRound::new()
                    .smallest(jiff::Unit::Hour)
                    .mode(jiff::RoundMode::Trunc),
            )?,
            days if days <= 63.0 => begin.start_of_day()?,
            _ => begin.first_of_month()?.start_of_day()?,
        };
        let mut buckets = Vec::new();
        while at.timestamp() < self.to {
            let next = at.checked_add(step)?;
            buckets.push(Bucket {
                from: at.timestamp().max(self.from),
                to: next.timestamp().min(self.to),
                label: at.strftime(form).to_string(),
            });
            at = next;
        }
        Ok(buckets)
    }
}

/// An instant, or the first of a date in `zone`.
fn parse(text: &str, zone: &TimeZone) -> Result<Timestamp, ReportError> {
    match text.trim().parse::<Date>() {
        Ok(date) if !text.contains(':') => Ok(date.to_zoned(zone.clone())?.timestamp()),
        // As a report's own JSON has it, to the nanosecond.
        _ => match text.trim().parse::<Timestamp>() {
            Ok(instant) => Ok(instant),
            Err(_) => Ok(parse_instant(text)?),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("an instant")
    }

    fn choose(kind: Kind, from: Option<&str>, to: Option<&str>) -> Result<Span, ReportError> {
        let asked = Asked {
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
            time_zone: Some("Europe/Berlin".to_owned()),
        };
        let began = at("2026-01-10T00:00:00Z");
        let now = at("2026-11-21T16:00:00Z");
        Span::choose(kind, &asked, now, began).map(|(span, _)| span)
    }

    fn ends(span: &Span) -> (String, String) {
        (span.from.to_string(), span.to.to_string())
    }

    #[test]
    fn is_the_last_whole_period_of_the_zone_unless_said() {
        let daily = choose(Kind::Daily, None, None).expect("a span");
        let expected = ("2026-11-19T23:00:00Z", "2026-11-20T23:00:00Z");
        assert_eq!(ends(&daily), (expected.0.to_owned(), expected.1.to_owned()));
        let monthly = choose(Kind::Monthly, None, None).expect("a span");
        // Summer time ended in between.
        let expected = ("2026-09-30T22:00:00Z", "2026-10-31T23:00:00Z");
        assert_eq!(
            ends(&monthly),
            (expected.0.to_owned(), expected.1.to_owned())
        );
        assert_eq!(monthly.buckets().expect("days").len(), 31);
        let evidence = choose(Kind::Evidence, None, None).expect("a span");
        assert_eq!(evidence.to, at("2026-11-21T16:00:00Z"));
        let day = choose(Kind::Daily, Some("2026-03-29"), None).expect("a span");
        assert_eq!(day.seconds(), 23.0 * 3600.0);
        assert_eq!(day.buckets().expect("hours").len(), 23);
        let year = choose(Kind::Annual, Some("2026-02-01"), Some("2026-11-20")).expect("a span");
        let months = year.buckets().expect("months");
        assert_eq!((months.len(), &months[0].label[..]), (10, "2026-02"));
    }

    #[test]
    fn what_the_archive_does_not_hold_is_refused_or_said() {
        let refused = |from, to| choose(Kind::Daily, from, to).expect_err("no span");
        assert!(matches!(
            refused(Some("2026-11-20"), Some("2026-11-20")),
            ReportError::Empty { .. }
        ));
        assert!(matches!(
            refused(Some("2026-12-01"), None),
            ReportError::Future(_)
        ));
        assert!(matches!(
            refused(Some("2025-12-01"), Some("2026-01-10 00:00:00+00")),
            ReportError::BeforeArchive { .. }
        ));
        assert!(matches!(
            refused(Some("yesterday"), None),
            ReportError::Instant(_)
        ));
        // The annual report of last year, of an archive of this year.
        assert!(matches!(
            choose(Kind::Annual, None, None),
            Err(ReportError::BeforeArchive { .. })
        ));
        let asked = Asked {
            from: Some("2026-01-01".to_owned()),
            to: Some("2027-01-01".to_owned()),
            time_zone: None,
        };
        let now = at("2026-11-21T16:00:00Z");
        let chosen = Span::choose(Kind::Annual, &asked, now, at("2026-01-10T00:00:00Z"));
        let (span, notices) = chosen.expect("a span");
        assert_eq!((span.to, notices.len()), (now, 2), "{notices:?}");
    }
}
