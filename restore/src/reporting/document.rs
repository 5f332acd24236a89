//! A report in words: the one place where figures become text, for Markdown and HTML alike.

use jiff::Timestamp;

use super::acts::Act;
use super::{Kind, Report};
use crate::report::{instant, span as whole_lasting};

mod holdings;
mod keeping;
mod proof;
mod running;
mod summary;

use holdings::{coverage, keys, storage};
use keeping::{deletions, retention};
use proof::{configurations, trail, verifies};
use running::{backups, recovery, rpo};
use summary::{incidents, safeguards, summary};

/// What is rendered.
#[derive(Debug, Clone, Default)]
pub struct Document {
    /// Its title.
    pub title: String,
    /// On what, of when, made how.
    pub about: Vec<String>,
    /// What whoever reads it must know first.
    pub warnings: Vec<String>,
    /// What could not be known.
    pub notices: Vec<String>,
    /// The figures that matter most.
    pub summary: Vec<Fact>,
    /// The rest.
    pub sections: Vec<Section>,
}

/// A part under a heading.
#[derive(Debug, Clone)]
pub struct Section {
    /// The heading.
    pub title: String,
    /// What is under it, in order.
    pub blocks: Vec<Block>,
}

/// What a section is made of.
#[derive(Debug, Clone)]
pub enum Block {
    /// A paragraph.
    Text(String),
    /// Figures.
    Facts(Vec<Fact>),
    /// Several short texts.
    List(Vec<String>),
    /// A table.
    Table(Table),
    /// A chart.
    Bars(Bars),
    /// What the figures before were taken from.
    Source(String),
}

/// A figure.
#[derive(Debug, Clone)]
pub struct Fact {
    /// Of what.
    pub name: String,
    /// It.
    pub value: String,
    /// What there is to say of it.
    pub note: String,
    /// Whether it is as it should be.
    pub tone: Tone,
}

/// Whether something is as it should be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tone {
    /// It cannot be otherwise.
    #[default]
    Plain,
    /// It is.
    Good,
    /// It may not be.
    Warn,
    /// It is not.
    Bad,
}

/// Rows under headings.
#[derive(Debug, Clone)]
pub struct Table {
    /// What it is of.
    pub title: String,
    /// The headings.
    pub headings: Vec<&'static str>,
    /// A cell for each heading.
    pub rows: Vec<Vec<String>>,
    /// What is said when there are no rows.
    pub nothing: String,
}

/// Bars over the parts of the span, those of one part upon each other.
#[derive(Debug, Clone)]
pub struct Bars {
    /// What it is of.
    pub title: String,
    /// What it shows, in words.
    pub summary: String,
    /// What its values are.
    pub unit: Unit,
    /// What the parts are called.
    pub labels: Vec<String>,
    /// What the bars are called.
    pub series: Vec<String>,
    /// For each part a value of each series; `None` where it is not known, below zero for what went.
    pub parts: Vec<Vec<Option<f64>>>,
    /// A value to be compared with.
    pub line: Option<(String, f64)>,
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
}

impl Tone {
    /// The class that colours it.
    #[must_use]
    pub fn class(self) -> &'static str {
        match self {
            Tone::Plain => "plain",
            Tone::Good => "good",
            Tone::Warn => "warn",
            Tone::Bad => "bad",
        }
    }

    fn good(is: bool) -> Tone {
        match is {
            true => Tone::Good,
            false => Tone::Bad,
        }
    }
}

fn fact(name: &str, value: String, note: impl Into<String>, tone: Tone) -> Fact {
    Fact {
        name: name.to_owned(),
        value,
        note: note.into(),
        tone,
    }
}

fn table(title: &str, headings: &[&'static str], rows: Vec<Vec<String>>, nothing: &str) -> Block {
    Block::Table(Table {
        title: title.to_owned(),
        headings: headings.to_vec(),
        rows,
        nothing: nothing.to_owned(),
    })
}

fn source(text: &str) -> Block {
    Block::Source(format!("Taken from {text}."))
}

/// A length of time, such as `41 ms`, `1.3 s` or `3 min 20 s`.
#[must_use]
pub fn lasting(seconds: f64) -> String {
    match seconds {
        0.0 => "0 s".to_owned(),
        seconds if seconds < 1.0 => format!("{} ms", (seconds * 1000.0).ceil()),
        seconds if seconds < 10.0 => format!("{seconds:.1} s"),
        seconds => whole_lasting(seconds.round() as i64),
    }
}

/// A part of a whole, such as `99.9 %`; one that is not whole is not shown as if it were.
#[must_use]
pub fn part(part: f64) -> String {
    match part {
        1.0.. => "100 %".to_owned(),
        part => format!("{:.2} %", (part * 10_000.0).floor() / 100.0),
    }
}

/// A count.
#[must_use]
pub fn amount(count: usize) -> String {
    count.to_string()
}

const UNKNOWN: &str = "not known";

fn perhaps(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| UNKNOWN.to_owned(), lasting)
}

fn when(at: Option<Timestamp>) -> String {
    at.map_or_else(|| UNKNOWN.to_owned(), instant)
}

/// The headings of a table of acts, whose rows are [`act_row`]'s.
const ACT: [&str; 6] = ["Begun", "Backup", "Outcome", "Took", "By", "Why"];

fn act_row(act: &Act) -> Vec<String> {
    let backups: Vec<String> = act.backups.iter().map(ToString::to_string).collect();
    vec![
        instant(act.at),
        backups.join(" "),
        act.ended.name().to_owned(),
        act.seconds.map_or_else(String::new, lasting),
        act.who(),
        act.error.clone().or(act.reason.clone()).unwrap_or_default(),
    ]
}

impl Document {
    /// A report in words.
    #[must_use]
    pub fn of(report: &Report) -> Document {
        let span = &report.span;
        let kind = match report.kind {
            Kind::Daily => "Daily report",
            Kind::Monthly => "Monthly report",
            Kind::Annual => "Annual report",
            Kind::Evidence => "Evidence",
        };
        let mut document = Document {
            title: format!(
                "{kind} on the archive of PostgreSQL system {}",
                report.archive.system_id
            ),
            about: vec![
                format!(
                    "From {} to {}; times are UTC, days and months those of {}.",
                    instant(span.from),
                    instant(span.to),
                    span.time_zone
                ),
                format!(
                    "Archive {}, id {}, begun at {}.",
                    report.archive.url,
                    report.archive.archive_id,
                    instant(report.archive.begun_at)
                ),
                format!(
                    "Made at {} by {} from what the archive held at that time.",
                    instant(report.made_at),
                    report.made_by
                ),
            ],
            warnings: Vec::new(),
            notices: report.notices.clone(),
            summary: summary(report),
            sections: Vec::new(),
        };
        if !report.is_sound() {
            document.warnings.push(format!(
                "The audit trail is wrong in {} places, so that what this report takes from it cannot be relied upon. See Audit trail.",
                report.trail.verification.findings.len()
            ));
        }
        if !report.safeguards.is_empty() {
            document.sections.push(safeguards(report));
        }
        document.sections.extend([
            incidents(report),
            backups(report),
            rpo(report),
            recovery(report),
            coverage(report),
            storage(report),
            keys(report),
            retention(report),
            deletions(report),
            verifies(report),
            trail(report),
            configurations(report),
        ]);
        document
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_rounded_to_what_it_is_not() {
        assert_eq!(part(0.999_99), "99.99 %");
        assert_eq!(part(1.0), "100 %");
        assert_eq!(part(0.0), "0.00 %");
        assert_eq!(lasting(0.0), "0 s");
        assert_eq!(lasting(0.0401), "41 ms");
        assert_eq!(lasting(61.4), "1 min 1 s");
    }
}
