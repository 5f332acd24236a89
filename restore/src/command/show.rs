//! `walvault show`: everything that is known of one backup.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;
use walvault_archive::inventory::Backup;
use walvault_archive::record::{BackupFiles, BackupRecord, TablespaceRecord};
use walvault_archive::{Archive, Catalog};
use walvault_config::Config;
use walvault_layout::{BackupId, ObjectKey, backup_prefix};
use walvault_protocol::{Lsn, TimelineId};
use walvault_store::clock;

use super::arguments::parse_backup;
use super::keep::unknown_backup;
use super::list::{kept_word, server_version};
use crate::access;
use crate::exit::Failure;
use crate::place::Place;
use crate::report::{self, bytes, instant};

/// Shows everything about one backup.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// The backup's ID, as `walvault list` shows it
    #[arg(value_name = "ID", value_parser = parse_backup)]
    id: BackupId,
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is shown.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    backup: Backup,
    file_count: u64,
    tablespaces: Vec<TablespaceRecord>,
    /// Objects stored under its name.
    objects: usize,
    /// Parts that its files lie in, by the backup under whose name they are stored.
    parts: BTreeMap<String, usize>,
    /// Whether all the WAL is held that makes it consistent.
    restorable: bool,
    /// Where replay can get from it.
    reaches: Vec<Reach>,
}

/// How far replay gets on the way to a timeline.
#[derive(Debug, Serialize)]
struct Reach {
    timeline: TimelineId,
    end_lsn: Lsn,
}

impl Show {
    /// Shows it.
    ///
    /// # Errors
    /// When there is no such backup, or the archive cannot be read.
    pub async fn run(&self, config: Option<&Path>) -> Result<(), Failure> {
        let config = Config::load(self.place.source(config))?;
        access::log_to_stderr(tracing::Level::WARN);
        let archive = access::open(&config).await?;
        let catalog = Catalog::load(&archive).await?;
        let record = catalog
            .backups()
            .iter()
            .find(|record| record.id == self.id)
            .ok_or_else(|| unknown_backup(&self.id))?;
        let shown = Shown::read(&archive, &catalog, record).await?;
        match self.json {
            true => report::print_json(&shown),
            false => report::print(format_args!("{}", shown.describe())),
        }
    }
}

impl Shown {
    async fn read(
        archive: &Archive,
        catalog: &Catalog,
        record: &BackupRecord,
    ) -> Result<Shown, Failure> {
        let files: BackupFiles = archive
            .get_record(&ObjectKey::BackupFiles(record.id.clone()))
            .await?;
        let mut parts = BTreeMap::new();
        for part in &files.parts {
            let owner = part.backup.as_ref().unwrap_or(&record.id);
            *parts.entry(owner.to_string()).or_default() += 1;
        }
        let reaches: Vec<Reach> = catalog
            .tips_from(record.timeline, record.stop_lsn)
            .into_iter()
            .map(|timeline| Reach {
                timeline,
                end_lsn: catalog.reach_from(&catalog.history(timeline), record),
            })
            .collect();
        Ok(Shown {
            backup: Backup::of(catalog, record, clock::now()),
            file_count: record.file_count,
            tablespaces: record.tablespaces.clone(),
            objects: archive.list(&backup_prefix(&record.id)).await?.len(),
            parts,
            restorable: reaches.iter().any(|reach| reach.end_lsn >= record.stop_lsn),
            reaches,
        })
    }

    fn describe(&self) -> String {
        let backup = &self.backup;
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name:<12} {value}");
        };
        line("Backup", backup.id.to_string());
        line("Kind", backup.kind.clone());
        line("Label", backup.label.clone());
        line(
            "Server",
            format!("PostgreSQL {}", server_version(backup.server_version)),
        );
        line("Begun", instant(backup.start_time));
        line("Ended", instant(backup.stop_time));
        line("Timeline", backup.timeline.get().to_string());
        line(
            "WAL",
            format!("{} to {}", backup.start_lsn, backup.stop_lsn),
        );
        line(
            "Files",
            format!("{}, {}", self.file_count, bytes(backup.size)),
        );
        line(
            "Stored",
            format!("{} in {} objects", bytes(backup.stored_size), self.objects),
        );
        for (owner, parts) in &self.parts {
            let whose = match *owner == backup.id.to_string() {
                true => "its own".to_owned(),
                false => format!("of backup {owner}"),
            };
            line("Parts", format!("{parts}, {whose}"));
        }
        for tablespace in &self.tablespaces {
            line(
                "Tablespace",
                format!("{} at {}", tablespace.oid, tablespace.location),
            );
        }
        line("Key", backup.keys.join(" "));
        line("Kept", kept_word(backup, clock::now()).to_owned());
        for hold in &backup.holds {
            let until = hold.until.map_or_else(|| "released".to_owned(), instant);
            line(
                "Hold",
                format!(
                    "{}: {}, placed {} by {}, until {until}",
                    hold.number,
                    hold.reason,
                    instant(hold.placed_at),
                    hold.placed_by
                ),
            );
        }
        line(
            "Restorable",
            match self.restorable {
                true => "yes".to_owned(),
                false => "no: WAL is missing between its start and its end".to_owned(),
            },
        );
        for reach in &self.reaches {
            line(
                "Reaches",
                format!("{} on timeline {}", reach.end_lsn, reach.timeline.get()),
            );
        }
        text
    }
}
