//! `walvault list`: what an archive holds, and what can be restored from it.

use std::path::Path;

use jiff::Timestamp;
use walvault_archive::Archive;
use walvault_archive::catalog::Unreadable;
use walvault_archive::inventory::{Backup, Inventory};
use walvault_config::Config;
use walvault_protocol::Lsn;
use walvault_store::clock;

use crate::access;
use crate::exit::Failure;
use crate::place::Place;
use crate::report::{self, Table, bytes, exact_instant, instant, span};

/// Shows what the archive holds.
#[derive(Debug, clap::Args)]
pub struct List {
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
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
        let inventory = Inventory::load(&archive).await?;
        match self.json {
            true => report::print_json(&inventory),
            false => report::print(format_args!("{}", Listing(&inventory).describe(&archive))),
        }
    }
}

/// An inventory as text.
struct Listing<'a>(&'a Inventory);

impl Listing<'_> {
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
            self.0.backups.is_empty(),
            nothing,
        );
        let nothing = "none: nothing can be restored";
        section(
            "Recovery windows: every instant in them can be restored",
            self.window_table(),
            self.0.windows.is_empty(),
            nothing,
        );
        section("Gaps", self.gap_table(), self.0.gaps.is_empty(), "none");
        section(
            "Timelines",
            self.timeline_table(),
            self.0.timelines.is_empty(),
            "none",
        );
        if !self.0.unreadable.is_empty() {
            text.push_str("\nUnreadable: what these say is not shown\n");
            text.push_str(&self.unreadable_table().to_string());
        }
        if let Some(tail) = &self.0.tail {
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
        for backup in &self.0.backups {
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
                kept_word(backup, now).to_owned(),
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
        for window in &self.0.windows {
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
        for gap in &self.0.gaps {
            table.row(vec![
                gap.timeline.get().to_string(),
                gap.start_lsn.to_string(),
                gap.end_lsn.to_string(),
                bytes(gap.bytes),
                gap.noticed_at.map_or_else(|| "-".to_owned(), instant),
                gap.reason().to_owned(),
            ]);
        }
        table
    }

    fn unreadable_table(&self) -> Table {
        let mut table = Table::new(&["OBJECT", "REASON"]);
        for Unreadable { object, reason, .. } in &self.0.unreadable {
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
        for timeline in &self.0.timelines {
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

/// Why a backup is kept, in a word.
pub(super) fn kept_word(backup: &Backup, now: Timestamp) -> &'static str {
    match backup.holds.iter().any(|hold| hold.is_active(now)) {
        true => "hold",
        false if backup.kept => "yes",
        false => "no",
    }
}

/// A server's version as people say it: `15.18`.
pub(super) fn server_version(number: u32) -> String {
    // Since 10, the number is major * 10000 + minor.
    format!("{}.{}", number / 10_000, number % 10_000)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use walvault_protocol::SegmentSize;

    use super::*;
    use crate::testing;

    const SEGMENT: u64 = 1 << 20;

    async fn put(archive: &walvault_archive::Archive, number: u64) {
        let range = testing::range(number * SEGMENT, (number + 1) * SEGMENT);
        let wal = vec![7; 1 << 20];
        testing::put_wal(archive, testing::tli(1), range, true, &wal, &[]).await;
    }

    #[tokio::test]
    async fn an_upload_that_its_successors_overtook_is_no_gap() {
        let size = SegmentSize::new(SEGMENT).expect("a size");
        let archive = testing::archive(size).await;
        for number in [3, 5] {
            put(&archive, number).await;
        }
        let arrives = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            put(&archive, 4).await;
        };
        let (inventory, ()) = tokio::join!(Inventory::load(&archive), arrives);
        let gaps = inventory.expect("an inventory").gaps;
        assert!(gaps.is_empty(), "{gaps:?}");
        put(&archive, 7).await;
        let gaps = Inventory::load(&archive).await.expect("an inventory").gaps;
        assert_eq!(gaps.len(), 1, "{gaps:?}");
    }
}
