//! The archives that tests run against.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config_file::ConfigFile;
use crate::garage::Garage;
use crate::moto::Moto;
use crate::user::give_to_server_user;

/// Which kind of archive a test runs against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveKind {
    /// `file://…`
    Directory,
    /// `s3://…`
    Garage,
    /// `s3://…`, on a server that has versions, Object Lock, policies and KMS.
    Moto,
}

/// A new, empty archive.
#[derive(Debug)]
pub enum ArchiveUnderTest {
    /// A local directory.
    Directory(PathBuf),
    /// A bucket of an S3 server of its own.
    Garage(Box<Garage>),
    /// A bucket of a server of AWS's interfaces of its own.
    Moto(Box<Moto>),
}

impl ArchiveUnderTest {
    /// Makes one; a directory is put under `home`.
    ///
    /// # Panics
    /// With what failed.
    #[must_use]
    pub fn new(kind: ArchiveKind, home: &Path) -> ArchiveUnderTest {
        match kind {
            ArchiveKind::Directory => {
                let path = home.join("archive");
                fs::create_dir(&path).expect("a directory for the archive");
                give_to_server_user(&path);
                ArchiveUnderTest::Directory(path)
            }
            ArchiveKind::Garage => ArchiveUnderTest::Garage(Box::new(Garage::start_new())),
            ArchiveKind::Moto => ArchiveUnderTest::Moto(Box::new(Moto::start_new())),
        }
    }

    /// Says in `config` where it is.
    pub fn configure(&self, config: &mut ConfigFile) {
        match self {
            ArchiveUnderTest::Directory(path) => {
                config.set("archive", "url", format!("file://{}", path.display()));
            }
            ArchiveUnderTest::Garage(garage) => {
                config
                    .set("archive", "url", format!("s3://{}/prefix", Garage::BUCKET))
                    .set("archive.s3", "endpoint", garage.endpoint())
                    .set("archive.s3", "region", Garage::REGION)
                    .set_raw("archive.s3", "path_style", "true");
            }
            ArchiveUnderTest::Moto(moto) => {
                config
                    .set("archive", "url", format!("s3://{}/prefix", Moto::BUCKET))
                    .set("archive.s3", "endpoint", moto.endpoint())
                    .set("archive.s3", "region", Moto::REGION)
                    .set_raw("archive.s3", "path_style", "true");
            }
        }
    }

    /// The variables that give access to it.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        match self {
            ArchiveUnderTest::Directory(_) => Vec::new(),
            ArchiveUnderTest::Garage(garage) => garage.environment(),
            ArchiveUnderTest::Moto(moto) => moto.environment(),
        }
    }

    /// The Garage that it is on.
    ///
    /// # Panics
    /// When it is on none.
    pub fn garage(&mut self) -> &mut Garage {
        match self {
            ArchiveUnderTest::Garage(garage) => garage,
            _ => panic!("not Garage"),
        }
    }

    /// The server of AWS's interfaces that it is on.
    ///
    /// # Panics
    /// When it is on none.
    pub fn moto(&mut self) -> &mut Moto {
        match self {
            ArchiveUnderTest::Moto(moto) => moto,
            _ => panic!("not moto"),
        }
    }

    /// The files of a directory's objects whose keys begin with `prefix`, in order.
    ///
    /// # Panics
    /// When it is not a directory.
    #[must_use]
    pub fn files(&self, prefix: &str) -> Vec<PathBuf> {
        let ArchiveUnderTest::Directory(root) = self else {
            panic!("only the objects of a directory are files");
        };
        let mut files = Vec::new();
        let mut directories = vec![root.clone()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    files.push(path);
                }
            }
        }
        files.retain(|file| {
            let key = file.strip_prefix(root).expect("a file under the root");
            key.to_string_lossy().starts_with(prefix)
        });
        files.sort();
        files
    }
}
