//! A report as figures: what is rendered, and what `--format json` prints.

use jiff::Timestamp;
use serde::Serialize;
use walvault_archive::inventory::Inventory;
use walvault_evidence::audit::{Action, AuditReport, Recorded};
use walvault_upkeep::verify::{Depth, Finding};

use super::acts::{Act, Tally, acts};
use super::deletions::{Deletion, InForce, deletions, in_force};
use super::incidents::{Incident, incidents};
use super::keys::Keys;
use super::objectives::Recovery;
use super::rpo::Rpo;
use super::safeguards::{Safeguard, safeguards};
use super::span::Bucket;
use super::storage::Storage;
use super::{Kind, ReportError, Sources, Span};
use crate::report::instant;

/// The version of what `--format json` prints.
const VERSION: u32 = 1;

/// A report.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The version of this structure.
    pub version: u32,
    /// What kind.
    pub kind: Kind,
    /// On what.
    pub archive: Subject,
    /// When the archive was read for it.
    pub made_at: Timestamp,
    /// With what.
    pub made_by: String,
    /// What time it is about.
    pub span: Span,
    /// The parts of the span that charts have.
    pub buckets: Vec<Bucket>,
    /// What could not be known, in words.
    pub notices: Vec<String>,
    /// The audit trail that it was made from.
    pub trail: Trail,
    /// Base backups that were taken, or tried.
    pub backups: Tally,
    /// How old commits became before they were archived.
    pub rpo: Rpo,
    /// Restores and drills.
    pub recovery: Recovery,
    /// What can be restored.
    pub coverage: Inventory,
    /// What is stored.
    pub storage: Storage,
    /// Data keys.
    pub keys: Keys,
    /// What `[retention]` said.
    pub retention: Vec<InForce>,
    /// Keeps and legal holds that were placed and ended.
    pub holds: Vec<Act>,
    /// What was deleted.
    pub deletions: Vec<Deletion>,
    /// Verifications.
    pub verifies: Verifies,
    /// What went otherwise than it should.
    pub incidents: Vec<Incident>,
    /// The configurations that were in force, without secrets.
    pub configurations: Vec<InForce>,
    /// What it shows of the HIPAA Security Rule; in evidence alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub safeguards: Vec<Safeguard>,
}

/// Whose archive it is.
#[derive(Debug, Clone, Serialize)]
pub struct Subject {
    /// Where it is.
    pub url: String,
    /// Its id.
    pub archive_id: String,
    /// The PostgreSQL system that it is of.
    pub system_id: String,
    /// When it was begun.
    pub begun_at: Timestamp,
}

/// The audit trail.
#[derive(Debug, Clone, Serialize)]
pub struct Trail {
    /// The time of its first event.
    pub begins: Option<Timestamp>,
    /// How many events of the span it holds.
    pub events: usize,
    /// What verifying it found.
    pub verification: AuditReport,
}

/// What was verified within the span.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verifies {
    /// Those that noted something, oldest first.
    pub records: Vec<VerifyRun>,
    /// Those that the trail tells of.
    pub acts: Vec<Act>,
    /// Why what they noted could not be read.
    pub withheld: Option<String>,
}

/// What a verification noted.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyRun {
    /// When it ended.
    pub at: Timestamp,
    /// Who looked.
    pub by: String,
    /// How closely.
    pub depth: Depth,
    /// How many objects it noted as sound.
    pub sound: usize,
    /// What it found.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Of what was read.
    ///
    /// # Errors
    /// When a calendar ends within the span.
    pub fn of(
        sources: &Sources,
        kind: Kind,
        span: Span,
        notices: Vec<String>,
    ) -> Result<Report, ReportError> {
        let events = &sources.events;
        let buckets = span.buckets()?;
        let rpo = Rpo::of(events, &span, &buckets);
        let restores = Tally::of(acts(events, &[Action::Restore], &span));
        let recovery = Recovery::of(&sources.drills, &sources.drills_unread, restores, &span);
        let prunes = acts(events, &[Action::Prune], &span);
        let holding = [Action::Keep, Action::Unkeep, Action::Hold, Action::Release];
        let mut report = Report {
            version: VERSION,
            kind,
            archive: Subject::of(sources),
            made_at: sources.read_at,
            made_by: concat!("walvault ", env!("CARGO_PKG_VERSION")).to_owned(),
            notices,
            trail: Trail::of(sources, &span),
            backups: Tally::of(acts(events, &[Action::Backup], &span)),
            storage: Storage::of(sources, &prunes, &span, &buckets),
            keys: Keys::of(sources, &span),
            retention: in_force(events, "/retention", &span),
            holds: acts(events, &holding, &span),
            deletions: deletions(events, &sources.trail, &span),
            verifies: Verifies::of(sources, &span),
            incidents: incidents(sources, (&rpo, &recovery), &span),
            configurations: in_force(events, "", &span),
            safeguards: Vec::new(),
            buckets,
            rpo,
            recovery,
            coverage: sources.held.clone(),
            span,
        };
        report.notice();
        if kind == Kind::Evidence {
            report.safeguards = safeguards(&report);
        }
        Ok(report)
    }

    /// Whether the trail it was made from can be believed.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.trail.verification.findings.is_empty()
    }

    /// Says what could not be known.
    fn notice(&mut self) {
        let mut say = |text: String| self.notices.push(text);
        match self.trail.begins {
            None => {
                say(
                    "The audit trail holds no event: of what was done nothing is known.".to_owned(),
                );
            }
            Some(begins) if begins > self.span.from => say(format!(
                "The audit trail begins at {}; of what was done before nothing is known.",
                instant(begins)
            )),
            Some(_) => {}
        }
        if let Some(why) = &self.coverage.withheld {
            say(format!(
                "Backups could not be opened, so that what can be restored is told by names alone: {why}"
            ));
        }
        if !self.coverage.unreadable.is_empty() {
            say(format!(
                "{} objects could not be opened, and what they say is left out.",
                self.coverage.unreadable.len()
            ));
        }
        if let Some(why) = &self.verifies.withheld {
            say(format!("What verifications noted could not be read: {why}"));
        }
        if !self.recovery.unread.is_empty() {
            say(format!(
                "{} records of drills could not be read.",
                self.recovery.unread.len()
            ));
        }
    }
}

impl Subject {
    fn of(sources: &Sources) -> Subject {
        let record = sources.archive.record();
        Subject {
            url: sources.archive.url().to_owned(),
            archive_id: record.archive_id.clone(),
            system_id: record.system_id.to_string(),
            begun_at: record.created_at,
        }
    }
}

impl Trail {
    fn of(sources: &Sources, span: &Span) -> Trail {
        let within = |recorded: &&Recorded| span.holds(recorded.event.at);
        Trail {
            begins: sources.events.first().map(|recorded| recorded.event.at),
            events: sources.events.iter().filter(within).count(),
            verification: sources.trail.clone(),
        }
    }
}

impl Verifies {
    fn of(sources: &Sources, span: &Span) -> Verifies {
        let mut verifies = Verifies {
            acts: acts(&sources.events, &[Action::Verify], span),
            ..Verifies::default()
        };
        match &sources.verified {
            Err(why) => verifies.withheld = Some(why.clone()),
            Ok(records) => {
                let within = records.iter().filter(|record| span.holds(record.at));
                verifies.records.extend(within.map(|record| VerifyRun {
                    at: record.at,
                    by: record.by.clone(),
                    depth: record.depth,
                    sound: record.objects.len(),
                    findings: record.findings.clone(),
                }));
            }
        }
        verifies
    }
}
