//! `walvault install`: this program, put where PostgreSQL's container can run it as `restore_command`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::exit::{CommandError, Failure, REFUSED};
use crate::report;

/// Copies this program into a directory.
#[derive(Debug, clap::Args)]
pub struct Install {
    /// An existing directory, such as a volume that PostgreSQL's container has as well
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// The program could not be copied.
#[derive(Debug, thiserror::Error)]
#[error("cannot install {path}: {source}; give a directory that is there and can be written to")]
struct InstallError {
    path: PathBuf,
    source: std::io::Error,
}

impl CommandError for InstallError {
    fn exit_code(&self) -> u8 {
        REFUSED
    }
}

impl Install {
    /// Copies the program, replacing an older one as a whole.
    ///
    /// # Errors
    /// When the directory is not there or cannot be written to.
    pub fn run(&self) -> Result<(), Failure> {
        let program = std::env::current_exe().map_err(Failure::start)?;
        let there = self.dir.join("walvault");
        copy(&program, &self.dir.join(".walvault.new"), &there).map_err(|source| InstallError {
            path: there.clone(),
            source,
        })?;
        report::print(format_args!("installed {}\n", there.display()))
    }
}

/// Renamed into place, so that who runs the old one at this moment keeps it whole.
fn copy(program: &Path, new: &Path, there: &Path) -> std::io::Result<()> {
    fs::copy(program, new)?;
    fs::set_permissions(new, Permissions::from_mode(0o755))?;
    fs::rename(new, there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_can_be_run_and_replaces_an_older_one() {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join("walvault");
        fs::write(&there, "older").unwrap();
        let install = Install {
            dir: folder.path().to_owned(),
        };
        install.run().unwrap();
        let program = std::env::current_exe().unwrap();
        assert_eq!(fs::read(&there).unwrap(), fs::read(program).unwrap());
        let mode = fs::metadata(&there).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let nowhere = Install {
            dir: folder.path().join("nowhere"),
        };
        let failure = nowhere.run().unwrap_err().to_string();
        assert!(failure.contains("nowhere/walvault"), "{failure}");
    }
}
