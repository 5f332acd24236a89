//! `walvault prune`: removes what no rule keeps.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use walvault_config::{Config, parse_days};
use walvault_evidence::audit::{Action, Event};
use walvault_store::clock;
use walvault_upkeep::lock::Lock;
use walvault_upkeep::prune::{self, Asked, PrunePlan, PruneReport, WalReason};
use walvault_upkeep::retention::RetentionPolicy;

use crate::access;
use crate::exit::Failure;
use crate::noted::Said;
use crate::report::{self, Table, bytes, instant};

/// How long to wait for another prune.
const PATIENCE: Duration = Duration::from_secs(10);

/// Removes what neither retention nor anybody keeps.
#[derive(Debug, clap::Args)]
pub struct Prune {
    #[command(flatten)]
    policy: PolicyArguments,
    /// Say what would go and what stays, and why, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Go by this machine's clock though the archive or the store contradicts it
    #[arg(long)]
    ignore_clock: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    said: Said,
}

/// Each overrides the key of `[retention]` of the same name.
#[derive(Debug, clap::Args)]
struct PolicyArguments {
    /// Keep what restores every instant of this last stretch of time, such as 30d
    #[arg(long, value_name = "TIME", value_parser = parse_days)]
    window: Option<Duration>,
    /// Keep this many of the newest backups
    #[arg(long, value_name = "N")]
    keep_last: Option<u32>,
    /// Keep the newest backup of each of N days
    #[arg(long, value_name = "N")]
    daily: Option<u32>,
    /// Keep the newest backup of each of N weeks
    #[arg(long, value_name = "N")]
    weekly: Option<u32>,
    /// Keep the newest backup of each of N months
    #[arg(long, value_name = "N")]
    monthly: Option<u32>,
    /// Keep the newest backup of each of N years
    #[arg(long, value_name = "N")]
    yearly: Option<u32>,
    /// Restore older backups to their own end only
    #[arg(long, value_name = "TIME", value_parser = parse_days)]
    wal_window: Option<Duration>,
    /// How old leftovers must be
    #[arg(long, value_name = "TIME", value_parser = parse_days)]
    grace: Option<Duration>,
}

impl PolicyArguments {
    fn over(&self, configured: &RetentionPolicy) -> RetentionPolicy {
        RetentionPolicy {
            window: self.window.or(configured.window),
            keep_last: self.keep_last.or(configured.keep_last),
            daily: self.daily.or(configured.daily),
            weekly: self.weekly.or(configured.weekly),
            monthly: self.monthly.or(configured.monthly),
            yearly: self.yearly.or(configured.yearly),
            wal_window: self.wal_window.or(configured.wal_window),
            grace: self.grace.unwrap_or(configured.grace),
        }
    }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    #[serde(flatten)]
    plan: &'a PrunePlan,
    dry_run: bool,
    /// What was removed; `null` in a dry run.
    removed: Option<&'a PruneReport>,
}

impl Prune {
    /// Does it.
    ///
    /// # Errors
    /// When nothing can be planned, or the archive cannot be written.
    pub async fn run(&self, config: Option<&Path>) -> Result<(), Failure> {
        let config = Config::load(config)?;
        access::log_to_stderr(tracing::Level::WARN);
        let archive = access::open_to_change(&config).await?;
        let mut asked = Asked {
            policy: self.policy.over(&config.retention.policy),
            now: clock::now(),
            store_now: None,
            ignore_clock: self.ignore_clock,
            share: None,
        };
        if self.dry_run {
            let plan = prune::plan(&archive, &asked).await?;
            return self.tell(&plan, None);
        }
        let by = access::holder("walvault prune");
        let mut lock = Lock::take(&archive, &by, PATIENCE).await?;
        asked.store_now = lock.stored_at().await?;
        let done = async {
            let plan = prune::plan(&archive, &asked).await?;
            let tell = |event: Event| event.with_prune(&plan);
            let noted = self
                .said
                .begin(&config, &archive, Action::Prune, tell)
                .await?;
            let report = prune::apply(&archive, &plan, &mut lock, &by).await;
            let proved = match report {
                Ok(report) if !noted.is_kept() => Ok((report, None)),
                Ok(report) => match prune::certify(&archive, &plan).await {
                    Ok(certificate) => Ok((report, Some(certificate))),
                    Err(error) => Err(Failure::from(error)),
                },
                Err(error) => Err(Failure::from(error)),
            };
            let tell = |event: Event, (report, certificate): &(PruneReport, Option<_>)| {
                event
                    .with_prune(&plan)
                    .with("removed", report)
                    .with("certificate", certificate)
            };
            noted.end(&proved, tell).await;
            let (report, _) = proved?;
            Ok::<_, Failure>((plan, report))
        };
        let done = done.await;
        let released = lock.release().await;
        let (plan, report) = done?;
        released?;
        self.tell(&plan, Some(&report))
    }

    fn tell(&self, plan: &PrunePlan, removed: Option<&PruneReport>) -> Result<(), Failure> {
        if self.json {
            return report::print_json(&Outcome {
                plan,
                dry_run: self.dry_run,
                removed,
            });
        }
        report::print(format_args!("{}", describe(plan, removed)))
    }
}

fn describe(plan: &PrunePlan, removed: Option<&PruneReport>) -> String {
    let verdict = |goes| if goes { "goes" } else { "stays" }.to_owned();
    let mut backups = Table::new(&["BACKUP", "ENDED", "STORED", "", "BECAUSE"]);
    for fate in &plan.backups {
        let rules: Vec<String> = fate.kept_by.iter().map(ToString::to_string).collect();
        let because = fate.freed_by.clone().unwrap_or_else(|| rules.join(", "));
        backups.row(vec![
            fate.id.to_string(),
            instant(fate.stop_time),
            bytes(fate.stored_size),
            verdict(fate.goes),
            because,
        ]);
    }
    let mut wal = Table::new(&["WAL FROM", "TO", "TIMELINE", "STORED", "", "BECAUSE"]);
    for fate in &plan.wal {
        wal.row(vec![
            fate.start_lsn.to_string(),
            fate.end_lsn.to_string(),
            fate.timeline.get().to_string(),
            bytes(fate.stored_size),
            verdict(fate.goes),
            why(&fate.because),
        ]);
    }
    let mut text = format!("{backups}\n{wal}");
    // Writing to a string does not fail.
    if !plan.orphans.is_empty() {
        let _ = writeln!(text, "\nNobody's, and older than the grace time:");
        for orphan in &plan.orphans {
            let _ = writeln!(text, "  {}", orphan.key);
        }
    }
    let _ = match removed {
        None => writeln!(
            text,
            "\n{} objects of {} would be removed",
            plan.removals.count(),
            bytes(plan.removals.bytes())
        ),
        Some(report) => writeln!(
            text,
            "\nremoved {} backups, {} objects of {}",
            report.backups,
            report.objects,
            bytes(report.bytes)
        ),
    };
    if let Some(extended) = removed
        .map(|report| report.extended)
        .filter(|count| *count > 0)
    {
        let _ = writeln!(text, "{extended} objects that stay were locked for longer");
    }
    if let Some(locked) = removed
        .map(|report| report.locked)
        .filter(|count| *count > 0)
    {
        let _ = writeln!(
            text,
            "{locked} objects are locked and stay until their locks end"
        );
    }
    text
}

fn why(reason: &WalReason) -> String {
    match reason {
        WalReason::Needed { backup } => format!("needed by {backup}"),
        WalReason::NoBackup => "there is no complete backup".to_owned(),
        WalReason::NoPolicy => "no retention is set".to_owned(),
        WalReason::Unfounded => "no backup of its timeline is complete".to_owned(),
        WalReason::Recent => "stored within the grace time".to_owned(),
        WalReason::Foreign => "sealed by a writer that is not trusted here".to_owned(),
        WalReason::BackupUnderWay => "a backup under way may need it".to_owned(),
        WalReason::BeforeFirstBackup => "before the first backup that stays".to_owned(),
        WalReason::NoBackupLeadsHere => "no backup that stays leads there".to_owned(),
        WalReason::OutsideWalWindow => "outside wal_window".to_owned(),
    }
}
