//! `walvault list`: what an archive holds, and what can be restored from it.

use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;
use walvault_archive::catalog::{Catalog, Hole, RecoveryWindow, Unreadable};
use walvault_archive::{Archive, Error};
use walvault_config::Config;
use walvault_protocol::{Lsn, LsnRange, TimelineId};
use walvault_store::clock;

use crate::access;
use crate::exit::Failure;
use crate::place::Place;
use crate::report::{self, Table, bytes, exact_instant, instant, span};

pub mod backup;

use backup::{Backup, server_version};

/// Shows what the archive holds.
#[derive(Debug, clap::Args)]
pub struct List {
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Everything that is shown.
#[derive(Debug, Serialize)]
struct Listing {
    backups: Vec<Backup>,
    windows: Vec<RecoveryWindow>,
    gaps: Vec<Gap>,
    timelines: Vec<Timeline>,
    tail: Option<Tail>,
    /// Objects that do not open: what they say is not shown.
    unreadable: Vec<Unreadable>,
}

/// WAL that is missing between what is held.
#[derive(Debug, Serialize)]
struct Gap {
    timeline: TimelineId,
    start_lsn: Lsn,
    end_lsn: Lsn,
    bytes: u64,
    /// Why, where it was noticed when it came about.
    cause: Option<String>,
    noticed_at: Option<Timestamp>,
}

/// How often the archive is read when something of it is removed meanwhile.
const ATTEMPTS: u32 = 5;

/// The WAL held of a timeline.
#[derive(Debug, Serialize)]
struct Timeline {
    timeline: TimelineId,
    /// The timeline it came from, and where.
    parent: Option<TimelineId>,
    begins_at: Option<Lsn>,
    start_lsn: Option<Lsn>,
    end_lsn: Option<Lsn>,
    objects: usize,
    stored_size: u64,
}

/// The newest WAL held.
#[derive(Debug, Serialize)]
struct Tail {
    timeline: TimelineId,
    end_lsn: Lsn,
    /// When the newest object of WAL was stored, by the store's clock.
    stored_at: Timestamp,
    age_seconds: i64,
}

impl List {
    /// Shows it.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub async fn run(&self, config: Option<&Path>) -> Result<(), Failure> {
        let config = Config::load(self.place.source(config))?;
        access::log_to_stderr(tracing::Level::WARN);
        let archive = access::open(&config).await?;
        let listing = Listing::read(&archive).await?;
        if self.json {
            report::print_json(&listing)
        } else {
            report::print(format_args!("{}", listing.describe(&archive)))
        }
    }
}

impl Listing {
    async fn read(archive: &Archive) -> Result<Listing, Error> {
        let mut again = 1..ATTEMPTS;
        loop {
            match Listing::read_once(archive).await {
                // A prune removed what was listed a moment ago.
                Err(error) if error.is_missing() && again.next().is_some() => {}
                read => return read,
            }
        }
    }

    async fn read_once(archive: &Archive) -> Result<Listing, Error> {
        let catalog = Catalog::load(archive).await?;
        let now = clock::now();
        Ok(Listing {
            backups: catalog
                .backups()
                .iter()
                .map(|record| Backup::of(&catalog, record, now))
                .collect(),
            windows: catalog.windows(archive).await?,
            gaps: gaps(&catalog, &catalog.unrecorded_holes(archive).await?),
            timelines: timelines(&catalog),
            tail: tail(&catalog, now),
            unreadable: catalog.unreadable().to_vec(),
        })
    }

    fn describe(&self, archive: &Archive) -> String {
        let mut text = format!(
            "Archive {}, system {}\n",
            archive.url(),
            archive.record().system_id
        );
        let mut section = |title: &str, table: Table, is_empty: bool, nothing: &str| {
            text.push_str(&format!("\n{title}\n"));
            match is_empty {
                true => text.push_str(&format!("  {nothing}\n")),
                false => text.push_str(&table.to_string()),
            }
        };
        let nothing = "none; take one with 'walvaultd backup'";
        section(
            "Backups",
            self.backup_table(),
            self.backups.is_empty(),
            nothing,
        );
        let nothing = "none: nothing can be restored";
        section(
            "Recovery windows: every instant in them can be restored",
            self.window_table(),
            self.windows.is_empty(),
            nothing,
        );
        section("Gaps", self.gap_table(), self.gaps.is_empty(), "none");
        section(
            "Timelines",
            self.timeline_table(),
            self.timelines.is_empty(),
            "none",
        );
        if !self.unreadable.is_empty() {
            text.push_str("\nUnreadable: what these say is not shown\n");
            text.push_str(&self.unreadable_table().to_string());
        }
        if let Some(tail) = &self.tail {
            text.push_str(&format!(
                "\nNewest WAL: LSN {} on timeline {}, stored {} ago\n",
                tail.end_lsn,
                tail.timeline.get(),
                span(tail.age_seconds)
            ));
        }
        text
    }

    fn backup_table(&self) -> Table {
        let mut table = Table::new(&[
            "ID", "KIND", "LABEL", "ENDED", "TIMELINE", "FROM LSN", "TO LSN", "SIZE", "STORED",
            "SERVER", "KEY", "KEPT",
        ]);
        let now = clock::now();
        for backup in &self.backups {
            table.row(vec![
                backup.id.to_string(),
                backup.kind.clone(),
                backup.label.clone(),
                instant(backup.stop_time),
                backup.timeline.get().to_string(),
                backup.start_lsn.to_string(),
                backup.stop_lsn.to_string(),
                bytes(backup.size),
                bytes(backup.stored_size),
                server_version(backup.server_version),
                short(&backup.keys),
                backup.kept_word(now).to_owned(),
            ]);
        }
        table
    }

    fn window_table(&self) -> Table {
        let mut table = Table::new(&[
            "FROM",
            "LAST COMMIT",
            "TIMELINE",
            "FROM LSN",
            "TO LSN",
            "BACKUP",
        ]);
        for window in &self.windows {
            table.row(vec![
                exact_instant(window.start_time),
                window
                    .end_time
                    .map_or_else(|| "none since".to_owned(), exact_instant),
                window.timeline.get().to_string(),
                window.start_lsn.to_string(),
                window.end_lsn.to_string(),
                window.backup.to_string(),
            ]);
        }
        table
    }

    fn gap_table(&self) -> Table {
        let mut table = Table::new(&["TIMELINE", "FROM LSN", "TO LSN", "SIZE", "NOTICED", "CAUSE"]);
        for gap in &self.gaps {
            table.row(vec![
                gap.timeline.get().to_string(),
                gap.start_lsn.to_string(),
                gap.end_lsn.to_string(),
                bytes(gap.bytes),
                gap.noticed_at.map_or_else(|| "-".to_owned(), instant),
                gap.cause
                    .clone()
                    .unwrap_or_else(|| "objects are missing from the archive".to_owned()),
            ]);
        }
        table
    }

    fn unreadable_table(&self) -> Table {
        let mut table = Table::new(&["OBJECT", "REASON"]);
        for Unreadable { object, reason, .. } in &self.unreadable {
            table.row(vec![object.clone(), reason.clone()]);
        }
        table
    }

    fn timeline_table(&self) -> Table {
        let lsn = |lsn: Option<Lsn>| lsn.map_or_else(|| "-".to_owned(), |lsn| lsn.to_string());
        let mut table = Table::new(&[
            "TIMELINE",
            "PARENT",
            "LEFT IT AT",
            "FROM LSN",
            "TO LSN",
            "OBJECTS",
            "STORED",
        ]);
        for timeline in &self.timelines {
            table.row(vec![
                timeline.timeline.get().to_string(),
                timeline
                    .parent
                    .map_or_else(|| "-".to_owned(), |parent| parent.get().to_string()),
                lsn(timeline.begins_at),
                lsn(timeline.start_lsn),
                lsn(timeline.end_lsn),
                timeline.objects.to_string(),
                bytes(timeline.stored_size),
            ]);
        }
        table
    }
}

/// Enough of keys' names to tell them apart.
fn short(keys: &[String]) -> String {
    let short: Vec<&str> = keys.iter().filter_map(|key| key.get(..8)).collect();
    short.join(" ")
}

/// The gaps that were recorded, and the holes in what is held that nobody recorded.
fn gaps(catalog: &Catalog, holes: &[Hole]) -> Vec<Gap> {
    let mut gaps: Vec<Gap> = catalog
        .gaps()
        .iter()
        .map(|record| Gap {
            cause: Some(record.cause.clone()),
            noticed_at: Some(record.noticed_at),
            ..Gap::unexplained(record.timeline, record.range)
        })
        .collect();
    gaps.extend(holes.iter().map(|hole| Gap {
        cause: hole.pruned.then(|| "removed by a prune".to_owned()),
        ..Gap::unexplained(hole.timeline, hole.range)
    }));
    gaps.sort_by_key(|gap| (gap.timeline, gap.start_lsn));
    gaps
}

impl Gap {
    fn unexplained(timeline: TimelineId, range: LsnRange) -> Gap {
        Gap {
            timeline,
            start_lsn: range.start,
            end_lsn: range.end,
            bytes: range.len(),
            cause: None,
            noticed_at: None,
        }
    }
}

fn timelines(catalog: &Catalog) -> Vec<Timeline> {
    let held = catalog.timelines().map(|(timeline, _)| timeline);
    let mut known: Vec<TimelineId> = held.chain(catalog.histories().keys().copied()).collect();
    known.sort_unstable();
    known.dedup();
    let describe = |timeline: TimelineId| {
        let history = catalog.history(timeline);
        let wal = catalog.wal(timeline);
        let switch = history.switches().last();
        Timeline {
            timeline,
            parent: switch.map(|switch| switch.timeline),
            begins_at: switch.map(|switch| switch.at),
            start_lsn: wal.and_then(|wal| wal.coverage.ranges().first().map(|range| range.start)),
            end_lsn: wal.and_then(|wal| wal.coverage.end()),
            objects: wal.map_or(0, |wal| wal.objects.len()),
            stored_size: wal.map_or(0, |wal| wal.objects.iter().map(|object| object.size).sum()),
        }
    };
    known.into_iter().map(describe).collect()
}

fn tail(catalog: &Catalog, now: Timestamp) -> Option<Tail> {
    let latest = catalog.latest_timeline()?;
    let real = |(timeline, _): &(TimelineId, _)| *timeline <= latest;
    let (timeline, wal) = catalog.timelines().rfind(real)?;
    let stored_at = wal.objects.iter().map(|object| object.modified).max()?;
    Some(Tail {
        timeline,
        end_lsn: wal.coverage.end()?,
        stored_at,
        age_seconds: now.duration_since(stored_at).as_secs().max(0),
    })
}
