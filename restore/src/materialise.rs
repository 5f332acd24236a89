//! From a backup in the archive to a data directory on disk.
//!
//! Parts are fetched side by side within a bound of memory, verified, and written where the
//! backup's record says. Everything is on disk before `global/pg_control` is written, without which
//! no server starts: an interrupted restore is no data directory.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use walvault_archive::Archive;
use walvault_archive::layout::ObjectKey;
use walvault_archive::record::{BackupFiles, BackupRecord};

mod durable;
mod error;
mod owner;
mod parts;
mod site;
mod tablespaces;
mod tree;

pub use error::MaterialiseError;
pub use owner::Owner;
pub use tablespaces::TablespaceMapping;
pub use tree::{Tree, safe_path};

use crate::settings::RecoverySettings;
use parts::Writer;
use site::Site;

/// The file whose absence keeps a server from starting.
const PG_CONTROL: &str = "global/pg_control";
const AUTO_CONF: &str = "postgresql.auto.conf";
const RECOVERY_SIGNAL: &str = "recovery.signal";
const TABLESPACE_MAP: &str = "tablespace_map";
const BACKUP_MANIFEST: &str = "backup_manifest";

/// What to make of a backup.
pub struct Job<'a> {
    /// Where it is.
    pub archive: &'a Archive,
    /// The backup.
    pub backup: &'a BackupRecord,
    /// The data directory to make.
    pub pgdata: PathBuf,
    /// Tablespaces that go elsewhere than they were.
    pub mappings: Vec<TablespaceMapping>,
    /// Whom it shall belong to, when not this process's user.
    pub owner: Option<Owner>,
    /// What recovery is told.
    pub settings: RecoverySettings,
}

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// Files written.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

impl Job<'_> {
    /// Whether everything is in place for it: the directories are free and hold enough.
    ///
    /// # Errors
    /// With what stands in the way.
    pub fn check(&self) -> Result<(), MaterialiseError> {
        Site::plan(&self.pgdata, self.backup, &self.mappings).map(drop)
    }

    /// Makes the data directory. When this fails, or `interrupted` completes first, what was
    /// written is removed again.
    ///
    /// # Errors
    /// With what stood in the way; nothing is left behind then.
    pub async fn run(
        &self,
        progress: &ProgressBar,
        interrupted: impl Future<Output = ()>,
    ) -> Result<Made, MaterialiseError> {
        let begun = Instant::now();
        let site = Site::plan(&self.pgdata, self.backup, &self.mappings)?;
        let files: BackupFiles = self
            .archive
            .get_record(&ObjectKey::BackupFiles(self.backup.id.clone()))
            .await?;
        let tree = Arc::new(Tree::new(self.backup, files, site.is_remapped())?);
        site.check_space(&tree)?;
        let writer = Arc::new(Writer::new(site.pgdata().to_owned(), tree.clone()));
        let outcome = tokio::select! {
            outcome = self.fill(&site, &tree, &writer, progress) => outcome,
            () = interrupted => Err(MaterialiseError::Interrupted),
        };
        match outcome {
            Ok(()) => Ok(Made {
                files: tree.file_count(),
                bytes: tree.bytes(),
                took: begun.elapsed(),
            }),
            Err(error) => {
                writer.stop().await;
                site.remove();
                Err(error)
            }
        }
    }

    async fn fill(
        &self,
        site: &Site,
        tree: &Arc<Tree>,
        writer: &Arc<Writer>,
        progress: &ProgressBar,
    ) -> Result<(), MaterialiseError> {
        site.make_directories(tree)?;
        let held = writer
            .fetch_all(self.archive, self.backup, progress)
            .await?;
        let manifest = ObjectKey::BackupManifest(self.backup.id.clone());
        let manifest = self.archive.get(&manifest).await?.payload;
        let content = |name: &str| held.get(name).map_or(&[][..], Vec::as_slice);
        site.write(BACKUP_MANIFEST, &manifest)?;
        site.write(AUTO_CONF, &self.settings.amend(content(AUTO_CONF)))?;
        site.write(RECOVERY_SIGNAL, b"")?;
        if site.is_remapped() {
            site.write(TABLESPACE_MAP, &site.tablespace_map())?;
        }
        let control = held
            .get(PG_CONTROL)
            .ok_or_else(|| MaterialiseError::Record {
                backup: self.backup.id.clone(),
                path: PG_CONTROL.to_owned(),
                reason: "is not among its files",
            })?;
        progress.set_message("making it durable");
        durable::make_durable(site, tree, self.owner).await?;
        site.finish(tree, control, self.owner)
    }
}

#[cfg(test)]
mod tests;
