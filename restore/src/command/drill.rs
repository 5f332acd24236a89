//! `walvault drill`: proves by a restore that is thrown away that the archive can be restored. Exits 0 when everything
//! was as it should be, and 1 when not.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use walvault_archive::keys::PublicKey;
use walvault_archive::record::{DrillOutcome, DrillRecord};
use walvault_archive::{Archive, Error};
use walvault_config::{ArchiveUrl, AuditSettings, Config};
use walvault_evidence::audit::{self, Action, Actor, Event};
use walvault_evidence::drill::{self, Stored};
use walvault_layout::DrillId;

use super::arguments::{PointArguments, parse_limit};
use super::audit::WrongTrail;
use crate::access;
use crate::drill::{Account, Choice, Drill as Work, Ending, Options, Scenario, Scratch, Source};
use crate::exit::{CommandError, Failure, REFUSED};
use crate::materialise::Owner;
use crate::noted::Said;
use crate::report::{self, Table, instant};
use crate::target::{Point, Target};

/// What this program is called in records.
const PROGRAM: &str = concat!("walvault ", env!("CARGO_PKG_VERSION"));

/// Restores to be thrown away, and says whether everything was as it should be.
#[derive(Debug, clap::Args)]
pub struct Drill {
    /// What is drilled [default: [drill] scenario]
    #[arg(value_enum)]
    scenario: Option<Scenario>,
    #[command(flatten)]
    point: PointArguments,
    /// Up to an instant that is chosen by chance; what data-corruption does without a target
    #[arg(long, conflicts_with = "PointArguments")]
    random: bool,
    /// The copy of the archive that is left, for site-loss [default: each, one after the other]
    #[arg(long, value_name = "URL", value_parser = ArchiveUrl::parse)]
    copy: Option<ArchiveUrl>,
    /// Show the drills there were
    #[arg(long, conflicts_with_all = ["scenario", "PointArguments", "random", "copy", "keep"])]
    list: bool,
    /// Where to restore to [default: [drill] scratch]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// The directory of PostgreSQL's programs [default: [drill] bin_dir]
    #[arg(long, value_name = "DIR")]
    pg_bindir: Option<PathBuf>,
    /// The user that PostgreSQL runs as, when root runs the drill [default: [drill] owner]
    #[arg(long, value_name = "USER")]
    owner: Option<String>,
    /// End it after this time, such as 90m [default: [drill] time_limit]
    #[arg(long, value_name = "TIME", value_parser = parse_limit)]
    time_limit: Option<Duration>,
    /// Leave the restored cluster where it is
    #[arg(long)]
    keep: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    said: Said,
}

/// What is printed of a drill that was run.
#[derive(Debug, Serialize)]
struct Run {
    #[serde(flatten)]
    record: DrillRecord,
    /// Where the record is; `null` when it could not be stored.
    stored: Option<Stored>,
}

/// What is printed of a drill that was listed.
#[derive(Debug, Serialize)]
struct Listed {
    id: DrillId,
    /// Who signed the record, where it could be opened.
    public_key: Option<String>,
    /// Why it is not to be believed.
    fault: Option<String>,
    /// The record; `null` where it is not for this host to read.
    record: Option<DrillRecord>,
}

/// Why a drill that was carried out is no success.
#[derive(Debug, thiserror::Error)]
enum DrillFailure {
    #[error("the drill failed: {0}; see docs/drill.md")]
    Failed(String),
    #[error(
        "the drill's record could not be stored: {0}; keep what was printed, and set [audit] local_dir where the archive may not be written"
    )]
    NotKept(Failure),
}

impl CommandError for DrillFailure {
    fn exit_code(&self) -> u8 {
        match self {
            DrillFailure::Failed(_) => REFUSED,
            DrillFailure::NotKept(failure) => failure.code(),
        }
    }
}

impl Drill {
    /// Does it.
    ///
    /// # Errors
    /// When it cannot be done, or did not go as it should.
    pub async fn run(&self, config: Option<&Path>) -> Result<(), Failure> {
        let config = Config::load(config)?;
        access::log_to_stderr(tracing::Level::WARN);
        if self.list {
            return self.list(&config).await;
        }
        let configured = Scenario::parse(config.drill.scenario);
        let scenario = self
            .scenario
            .or(configured)
            .unwrap_or(Scenario::SystemFailure);
        let sources = scenario.sources(&config, self.copy.as_ref())?;
        let choice = match self.point.point()? {
            Some(point) => Choice::At(Target::inclusive(point)),
            None if self.random || scenario == Scenario::DataCorruption => Choice::Random,
            None => Choice::At(Target::inclusive(Point::End)),
        };
        let options = Options {
            bin_dir: self.pg_bindir.clone().or(config.drill.bin_dir.clone()),
            owner: self.owner.clone().or(config.drill.owner.clone()),
            keep: self.keep,
            time_limit: self.time_limit.unwrap_or(config.drill.time_limit),
        };
        let owner = options.owner.as_deref().map(Owner::of).transpose()?;
        let archive = access::open(&config).await?;
        let dir = self.scratch.as_ref().unwrap_or(&config.drill.scratch);
        let scratch = Scratch::take(dir, owner).await?;
        let ending = Ending::after(options.time_limit).map_err(Failure::start)?;
        let mut runs = Vec::new();
        for source in &sources {
            let work = Work {
                config: &config,
                archive: &archive,
                source,
                choice: &choice,
                options: &options,
                ending: &ending,
            };
            runs.push(
                self.one(&config, &archive, scenario, work, &scratch)
                    .await?,
            );
        }
        if self.json {
            let printed: Vec<&Run> = runs.iter().map(|(run, _)| run).collect();
            report::print_json(&printed)?;
        } else {
            for (run, _) in &runs {
                report::print(format_args!("{}", describe(run)))?;
            }
        }
        let mut failed = None;
        for (run, not_stored) in runs {
            if let Some(failure) = not_stored {
                return Err(failure);
            }
            failed = failed.or(run.record.error);
        }
        failed.map_or(Ok(()), |error| Err(DrillFailure::Failed(error).into()))
    }

    /// Runs one drill and stores its record. What kept the record from being stored comes with it.
    async fn one(
        &self,
        config: &Config,
        archive: &Archive,
        scenario: Scenario,
        work: Work<'_>,
        scratch: &Scratch,
    ) -> Result<(Run, Option<Failure>), Failure> {
        let actor = Actor::of_this_process(self.said.operator.clone(), PROGRAM);
        let reason = self.said.reason.clone();
        let account = Account::begin(scenario, &actor, reason, &config.objectives);
        let Some(mut account) = account else {
            return Err(Failure::refused(format!(
                "'{}' is no scenario that a record can be named by",
                scenario.name()
            )));
        };
        let from = urls(work.source);
        let tell = |event: Event| event.with("scenario", scenario.name()).with("from", from);
        let noted = self
            .said
            .begin_anyway(config, archive, Action::Drill, tell)
            .await;
        let done = work.run(scratch, &mut account).await;
        let record = account.close(done);
        let stored = match noted.log() {
            Some(log) => drill::store(log, &record).await.map_err(Failure::from),
            None => match audit::log(&config.audit, &config.encryption, archive) {
                Ok(log) => drill::store(&log, &record).await.map_err(Failure::from),
                Err(error) => Err(error.into()),
            },
        };
        let (stored, failure) = match stored {
            Ok(stored) => (Some(stored), None),
            Err(error) => (None, Some(DrillFailure::NotKept(error).into())),
        };
        let complete = |mut event: Event| {
            event.backups.extend(record.backup.clone());
            if let Some(stored) = &stored {
                event.objects.push(stored.name.clone());
                event = event.with("sha256", &stored.sha256);
            }
            event
        };
        noted.end_as(record.error.clone(), complete).await;
        Ok((Run { record, stored }, failure))
    }

    async fn list(&self, config: &Config) -> Result<(), Failure> {
        let archive = access::open(config).await?;
        let home = AuditSettings {
            local_dir: None,
            ..config.audit.clone()
        };
        let mut listed: Vec<Listed> = Vec::new();
        let mut known = BTreeSet::new();
        let local = config.audit.local_dir.is_some().then_some(&config.audit);
        for settings in std::iter::once(&home).chain(local) {
            let trail = audit::trail(settings, &config.encryption, &archive)?;
            for id in drill::list(&trail).await? {
                if known.insert(id.clone()) {
                    listed.push(look_at(&trail, id, &config.audit.signers).await?);
                }
            }
        }
        listed.sort_by(|one, other| one.id.cmp(&other.id));
        if self.json {
            report::print_json(&listed)?;
        } else {
            report::print(format_args!("{}", table(&listed)))?;
        }
        match listed.iter().filter(|drill| drill.fault.is_some()).count() {
            0 => Ok(()),
            count => Err(WrongTrail(count).into()),
        }
    }
}

/// Opens a record, as far as that is for this host.
async fn look_at(trail: &Archive, id: DrillId, signers: &[PublicKey]) -> Result<Listed, Failure> {
    let mut listed = Listed {
        id,
        public_key: None,
        fault: None,
        record: None,
    };
    match drill::open(trail, &listed.id).await {
        Ok(signed) => {
            if !signers.is_empty() && !signers.contains(&signed.public_key) {
                listed.fault = Some(format!("{} may not sign", signed.public_key));
            }
            listed.public_key = Some(signed.public_key.to_string());
            listed.record = Some(signed.record);
        }
        Err(error) if error.is_withheld() => {}
        Err(error @ (Error::Corrupt { .. } | Error::Record { .. })) => {
            listed.fault = Some(error.to_string());
        }
        Err(error) => return Err(error.into()),
    }
    Ok(listed)
}

fn table(listed: &[Listed]) -> Table {
    let mut table = Table::new(&[
        "BEGUN", "SCENARIO", "OUTCOME", "TARGET", "RTO", "RPO", "TOOK", "WHY",
    ]);
    let seconds = |seconds: Option<f64>| {
        seconds.map_or_else(|| "–".to_owned(), |seconds| format!("{seconds:.1} s"))
    };
    for drill in listed {
        let record = drill.record.as_ref();
        let measured = record.map(|record| &record.measured);
        let target = record.map(|record| {
            let target = &record.target;
            target
                .chosen
                .clone()
                .unwrap_or_else(|| target.asked.clone())
        });
        let error = record.and_then(|record| record.error.clone());
        table.row(vec![
            drill.id.begun().map_or_else(|| "?".to_owned(), instant),
            drill.id.scenario().to_owned(),
            if drill.id.passed() {
                "passed"
            } else {
                "failed"
            }
            .to_owned(),
            target.unwrap_or_else(|| "–".to_owned()),
            seconds(measured.and_then(|measured| measured.rto_seconds)),
            seconds(measured.and_then(|measured| measured.rpo_seconds)),
            seconds(record.map(|record| record.seconds)),
            drill.fault.clone().or(error).unwrap_or_default(),
        ]);
    }
    table
}

fn describe(run: &Run) -> String {
    let record = &run.record;
    let mut text = format!(
        "Drill     {} of {}, {}\n",
        record.scenario,
        record.archive,
        record.outcome.name()
    );
    let target = &record.target;
    let chosen = target.chosen.as_deref().unwrap_or(&target.asked);
    text.push_str(&format!("Target    {chosen}\n"));
    if let Some(reached) = record.reached.as_ref().and_then(|reached| reached.lsn) {
        text.push_str(&format!("Reached   LSN {reached}\n"));
    }
    let measured = &record.measured;
    for (name, seconds) in [("RTO", measured.rto_seconds), ("RPO", measured.rpo_seconds)] {
        if let Some(seconds) = seconds {
            text.push_str(&format!("{name:<9} {seconds:.1} s\n"));
        }
    }
    let mut steps = Table::new(&["STEP", "SECONDS", "OUTCOME", "DETAIL"]);
    for step in &record.steps {
        let seconds = format!("{:.1}", step.seconds);
        let (outcome, detail) = (step.outcome.name().to_owned(), one_line(&step.detail));
        steps.row(vec![step.name.clone(), seconds, outcome, detail]);
    }
    let mut checks = Table::new(&["CHECK", "OUTCOME", "EXPECTED", "FOUND"]);
    for check in &record.checks {
        let found = match check.outcome {
            DrillOutcome::Passed if check.found == check.expected => String::new(),
            _ => one_line(&check.found),
        };
        checks.row(vec![
            check.name.clone(),
            check.outcome.name().to_owned(),
            one_line(&check.expected),
            found,
        ]);
    }
    text.push_str(&format!("\n{steps}\n"));
    if !record.checks.is_empty() {
        text.push_str(&format!("{checks}\n"));
    }
    match &run.stored {
        Some(stored) => text + &format!("Record    {}\n", stored.name),
        None => text,
    }
}

fn one_line(text: &str) -> String {
    text.lines().collect::<Vec<_>>().join(" / ")
}

fn urls(source: &Source) -> Vec<String> {
    let places = source.places.iter();
    places.map(|place| place.url.to_string()).collect()
}
