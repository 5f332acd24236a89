//! Verifying by schedule, a share at a time.

use std::convert::Infallible;
use std::time::Instant;

use jiff::Timestamp;
use serde::Serialize;
use walvault_archive::{Archive, Error};
use walvault_config::VerifySettings;
use walvault_evidence::audit::{Action, Outcome};
use walvault_store::clock;
use walvault_upkeep::retention::before;
use walvault_upkeep::verify::{self, Choice, Finding, Scope, Verification};

use super::{Duty, HOLDER, Upkeep, UpkeepStatus, Work, holder};
use crate::journal::Journal;
use crate::schedule::Schedule;

/// Memory for objects under way: the stream has its own.
const MEMORY: u64 = 32 << 20;

/// How many findings are shown; all are counted and logged.
const SHOWN: usize = 20;

/// What a verification found.
#[derive(Debug, Clone, Serialize)]
pub struct Verified {
    /// When it ended.
    pub at: Timestamp,
    /// How long it took; `None` for one of another process.
    pub seconds: Option<f64>,
    /// Objects that were read.
    pub read: Option<u64>,
    /// How many findings there were.
    pub finding_count: usize,
    /// The first of them.
    pub findings: Vec<Finding>,
}

struct Verifying {
    upkeep: Upkeep,
    settings: VerifySettings,
    journal: Journal,
}

impl Upkeep {
    /// Verifies a share of the archive whenever it is due. Never returns.
    pub async fn keep_verifying(
        self,
        schedule: Schedule,
        settings: VerifySettings,
        journal: Journal,
    ) -> Infallible {
        let verifying = Verifying {
            upkeep: self.clone(),
            settings,
            journal,
        };
        self.keep(schedule, verifying).await
    }
}

impl Work for Verifying {
    type Done = Verified;
    type Failure = Error;

    fn duty(status: &mut UpkeepStatus) -> &mut Duty<Verified> {
        &mut status.verify
    }

    /// What was found stays known though the sidecar is started anew.
    async fn before(&self, archive: &Archive) -> Result<Option<Timestamp>, Error> {
        let Some(record) = verify::last_by(archive, HOLDER).await? else {
            return Ok(None);
        };
        self.upkeep.metrics.found(record.at, &record.findings);
        let seen = Verified::new(record.at, record.findings);
        self.upkeep.tell::<Verifying>(|duty| duty.last = Some(seen));
        Ok(Some(record.at))
    }

    async fn run(&self, archive: &Archive) -> Result<Verified, Error> {
        let begun = Instant::now();
        let done = verify_once(archive, &self.settings).await;
        self.upkeep.metrics.verified(done.as_ref().ok());
        self.note(&done, begun);
        match &done {
            Ok(done) => tell(done),
            Err(error) => {
                tracing::error!(%error, "the archive was not verified; it is tried again");
            }
        }
        let done = done?;
        Ok(Verified {
            seconds: Some(begun.elapsed().as_secs_f64()),
            read: Some(done.read),
            ..Verified::new(clock::now(), done.findings)
        })
    }
}

impl Verified {
    fn new(at: Timestamp, mut findings: Vec<Finding>) -> Verified {
        let finding_count = findings.len();
        findings.truncate(SHOWN);
        Verified {
            at,
            seconds: None,
            read: None,
            finding_count,
            findings,
        }
    }
}

impl Verifying {
    /// Tells the audit trail. That something is damaged is a failure of what was verified.
    fn note(&self, done: &Result<Verification, Error>, begun: Instant) {
        let failure = match done {
            Ok(done) if done.findings.is_empty() => None,
            Ok(done) => Some(format!("{} findings", done.findings.len())),
            Err(error) => Some(error.to_string()),
        };
        let outcome = match failure {
            None => Outcome::Succeeded,
            Some(_) => Outcome::Failed,
        };
        self.journal.note(Action::Verify, outcome, |mut event| {
            event.duration_ms = u64::try_from(begun.elapsed().as_millis()).ok();
            event.reason = Some("scheduled".to_owned());
            let event = event.with("depth", self.settings.depth);
            let event = match failure {
                None => event,
                Some(reason) => event.with("error", reason),
            };
            match done {
                Ok(done) => event
                    .with("listed", done.listed)
                    .with("read", done.read)
                    .with("bytes", done.bytes)
                    .with("finding_count", done.findings.len())
                    .with("findings", &done.findings[..done.findings.len().min(SHOWN)]),
                Err(_) => event,
            }
        });
    }
}

async fn verify_once(archive: &Archive, settings: &VerifySettings) -> Result<Verification, Error> {
    let scope = Scope {
        depth: settings.depth,
        choice: Choice::LongestUnread(settings.share),
        trust_since: Some(before(clock::now(), settings.again_after)),
        memory: MEMORY,
        ..Scope::default()
    };
    verify::verify(archive, &scope, &holder()).await
}

fn tell(done: &Verification) {
    for finding in &done.findings {
        tracing::error!(
            object = finding.object,
            kind = finding.kind.as_str(),
            "the archive is damaged: {}",
            finding.detail
        );
    }
    tracing::info!(
        read = done.read,
        bytes = done.bytes,
        findings = done.findings.len(),
        "verified"
    );
}
