//! From a backup in the archive to a data directory on disk.
//!
//! Parts are fetched side by side within a bound of memory, verified, and written where the
//! backup's record says. Everything is on disk before `global/pg_control` is written, without which
//! no server starts: an interrupted restore is no data directory. What it wrote is not lost: the next
//! restore into the same directory keeps every file that has the right checksum, as a restore into an
//! existing cluster does.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use serde::Serialize;
use walvault_archive::Archive;
use walvault_archive::record::{BackupFiles, BackupRecord, PartRecord};
use walvault_layout::ObjectKey;

mod beyond;
mod durable;
mod error;
mod late;
mod marker;
mod owner;
mod parts;
mod reuse;
mod root;
mod servers;
mod site;
mod tablespaces;
mod tree;
mod waldir;

pub use beyond::wal_beyond;
pub use error::MaterialiseError;
pub use late::check_unused;
pub use owner::Owner;
pub use site::DiskSpace;
pub(crate) use site::{LOST_FOUND, MARKER};
pub use tablespaces::TablespaceMapping;
pub use tree::{Tree, safe_path};

use crate::plan::NewTablespace;
use crate::settings::RecoverySettings;
use parts::Writer;
use reuse::Found;
use site::Site;

/// The file whose absence keeps a server from starting.
const PG_CONTROL: &str = "global/pg_control";
pub(crate) const AUTO_CONF: &str = "postgresql.auto.conf";
pub(crate) const RECOVERY_SIGNAL: &str = "recovery.signal";
pub(crate) const STANDBY_SIGNAL: &str = "standby.signal";
pub(crate) const POSTGRESQL_CONF: &str = "postgresql.conf";
const TABLESPACE_MAP: &str = "tablespace_map";
pub(crate) const BACKUP_MANIFEST: &str = "backup_manifest";

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
    /// Tablespaces that replay will create, which the backup does not have.
    pub created: Vec<NewTablespace>,
    /// Where `pg_wal` leads, when it is to lie elsewhere than in the data directory.
    pub waldir: Option<PathBuf>,
    /// Whom it shall belong to, when not this process's user.
    pub owner: Option<Owner>,
    /// What recovery is told.
    pub settings: RecoverySettings,
    /// Whether the data directory may hold a cluster, of which what is right is kept.
    pub delta: bool,
}

/// A restore that nothing stands in the way of, before anything was touched.
pub struct Prepared<'a> {
    job: &'a Job<'a>,
    site: Site,
    tree: Arc<Tree>,
    found: Found,
    space: Vec<DiskSpace>,
}

/// What a restore is going to fetch and write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Work {
    /// Whether an unfinished restore is taken up.
    pub resumed: bool,
    /// Files that are there already.
    pub kept_files: u64,
    /// Their bytes.
    pub kept_bytes: u64,
    /// Bytes to be fetched, as they are stored.
    pub fetch_bytes: u64,
    /// Bytes to be written.
    pub write_bytes: u64,
    /// For each file system, what it has to hold.
    pub disk: Vec<DiskSpace>,
    /// Whether the backup has the cluster's `postgresql.conf`: it has not what lay elsewhere, or
    /// was a symbolic link.
    pub has_configuration: bool,
}

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// Files of the data directory.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those of them that had been there before.
    pub kept_files: u64,
    /// Their bytes.
    pub kept_bytes: u64,
    /// How long it took.
    pub took: Duration,
}

impl<'a> Job<'a> {
    /// Looks at everything that is in place for it: the directories and what they hold, the list of
    /// the backup's files, and the free space. Files that may stay are read.
    ///
    /// # Errors
    /// With what stands in the way.
    pub async fn prepare(
        &'a self,
        progress: &ProgressBar,
    ) -> Result<Prepared<'a>, MaterialiseError> {
        let site = Site::plan(self)?;
        let files: BackupFiles = self
            .archive
            .get_record(&ObjectKey::BackupFiles(self.backup.id.clone()))
            .await?;
        let tree = Arc::new(Tree::new(self.backup, files, site.is_remapped())?);
        let mut found = match site.is_reused() {
            true => Found::survey(&site, &tree, progress).await?,
            false => Found::nothing(&tree),
        };
        found.surplus.extend(site.late_surplus());
        let space = site.space(&tree, &found)?;
        Ok(Prepared {
            job: self,
            site,
            tree,
            found,
            space,
        })
    }
}

impl Prepared<'_> {
    /// What is to be done.
    #[must_use]
    pub fn work(&self) -> Work {
        let (kept_files, kept_bytes) = self.kept();
        Work {
            resumed: self.site.is_resumed(),
            kept_files,
            kept_bytes,
            fetch_bytes: self.needed_parts().map(|part| part.stored).sum(),
            write_bytes: self.tree.bytes() - kept_bytes,
            disk: self.space.clone(),
            has_configuration: self.tree.has_file(POSTGRESQL_CONF),
        }
    }

    /// The parts that anything is needed of.
    pub fn needed_parts(&self) -> impl Iterator<Item = &PartRecord> {
        self.tree.needed_parts(&self.found.kept)
    }

    /// Whether this user may write where everything goes.
    ///
    /// # Errors
    /// With the first directory that is not for this user to write.
    pub fn check_writable(&self) -> Result<(), MaterialiseError> {
        self.site.check_writable()
    }

    /// Whether none of `precious` lies where the restore removes what it does not know.
    ///
    /// # Errors
    /// With the first that does.
    pub fn check_apart(&self, precious: &[PathBuf]) -> Result<(), MaterialiseError> {
        self.site.check_apart(precious)
    }

    /// Whether every file system has room for what goes there.
    ///
    /// # Errors
    /// With the first that has not.
    pub fn check_space(&self) -> Result<(), MaterialiseError> {
        match self.space.iter().find(|disk| disk.free < disk.needed) {
            None => Ok(()),
            Some(full) => {
                let DiskSpace { dir, needed, free } = full.clone();
                Err(MaterialiseError::Space { dir, needed, free })
            }
        }
    }

    fn kept(&self) -> (u64, u64) {
        let files = self.tree.files.iter().zip(&self.found.kept);
        let kept = files.filter(|(_, kept)| **kept);
        kept.fold((0, 0), |(count, bytes), (file, _)| {
            (count + 1, bytes + file.size)
        })
    }

    /// Makes the data directory.
    ///
    /// # Errors
    /// With what stood in the way. [`MaterialiseError::Unfinished`] when something had been written
    /// by then; the next restore into the directory takes that up.
    pub async fn run(
        self,
        progress: &ProgressBar,
        interrupted: impl Future<Output = ()>,
    ) -> Result<Made, MaterialiseError> {
        let begun = Instant::now();
        progress.set_length(self.needed_parts().map(|part| part.length).sum());
        progress.set_position(0);
        let marker = self.site.begin()?;
        let writer = Writer::new(
            self.site.pgdata().to_owned(),
            self.tree.clone(),
            self.found.kept.clone(),
        );
        let outcome = tokio::select! {
            outcome = self.fill(&writer, progress) => outcome,
            () = interrupted => Err(MaterialiseError::Interrupted),
        };
        let (kept_files, kept_bytes) = self.kept();
        let ended = match outcome {
            Ok(()) => Ok(Made {
                files: self.tree.file_count(),
                bytes: self.tree.bytes(),
                kept_files,
                kept_bytes,
                took: begun.elapsed(),
            }),
            Err(error) => {
                writer.stop().await;
                Err(MaterialiseError::Unfinished {
                    dir: self.site.pgdata().to_owned(),
                    source: Box::new(error),
                })
            }
        };
        drop(marker);
        ended
    }

    async fn fill(&self, writer: &Writer, progress: &ProgressBar) -> Result<(), MaterialiseError> {
        let (job, site, tree) = (self.job, &self.site, &self.tree);
        self.found.clear()?;
        site.make_directories(tree, &self.found.kept)?;
        let held = writer.fetch_all(job.archive, job.backup, progress).await?;
        let manifest = ObjectKey::BackupManifest(job.backup.id.clone());
        let manifest = job.archive.get(&manifest).await?.payload;
        let content = |name: &str| held.get(name).map_or(&[][..], Vec::as_slice);
        site.write(BACKUP_MANIFEST, &manifest)?;
        // It is on disk by now; where it lies elsewhere, nothing is known of it.
        let conf = std::fs::read(site.pgdata().join(POSTGRESQL_CONF)).unwrap_or_default();
        let (auto_conf, control) = (content(AUTO_CONF), content(PG_CONTROL));
        let amended = job.settings.amend(auto_conf, &conf, control);
        site.write(AUTO_CONF, &amended)?;
        site.write(job.settings.signal_file(), b"")?;
        // One that was taken with links instead has none.
        if site.is_remapped() || site.has_tablespaces() && !tree.has_file(TABLESPACE_MAP) {
            site.write(TABLESPACE_MAP, &site.tablespace_map())?;
        }
        let control = held
            .get(PG_CONTROL)
            .ok_or_else(|| MaterialiseError::Record {
                backup: job.backup.id.clone(),
                path: PG_CONTROL.to_owned(),
                reason: "is not among its files",
            })?;
        progress.set_message("making it durable");
        durable::make_durable(site, tree, job.settings.signal_file(), job.owner).await?;
        site.finish(tree, control, job.owner)
    }
}

#[cfg(test)]
mod tests;
