//! Where PostgreSQL's programs of a major version are.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::TrialError;

/// PostgreSQL's programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    postgres: PathBuf,
    major: u32,
}

impl Programs {
    /// Finds those of `major`: in `named` if it is given, else where the search path, `pg_config` and the
    /// usual packages have them.
    pub(super) fn find(named: Option<PathBuf>, major: u32) -> Result<Programs, TrialError> {
        let candidates = match named {
            Some(dir) => vec![dir.join("postgres")],
            None => usual(major),
        };
        let mut looked = Vec::new();
        for postgres in candidates {
            match version_of(&postgres) {
                Some(found) if found == major => return Ok(Programs { postgres, major }),
                Some(found) => looked.push(format!("{} is {found}", postgres.display())),
                None => looked.push(format!("no {}", postgres.display())),
            }
        }
        Err(TrialError::NoPrograms {
            major,
            looked: looked.join(", "),
        })
    }

    /// The release, such as `15.18`.
    #[must_use]
    pub fn release(&self) -> Option<String> {
        let output = Command::new(&self.postgres)
            .arg("--version")
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let (_, version) = text.split_once("(PostgreSQL) ")?;
        Some(version.split_whitespace().next()?.to_owned())
    }

    /// The major version.
    pub(super) fn major(&self) -> u32 {
        self.major
    }

    /// The server.
    pub(super) fn postgres(&self) -> &Path {
        &self.postgres
    }

    /// One of the programs that lie beside the server.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.postgres.with_file_name(name)
    }
}

fn usual(major: u32) -> Vec<PathBuf> {
    let mut candidates = vec![PathBuf::from("postgres")];
    let config = Command::new("pg_config").arg("--bindir").output();
    if let Ok(output) = config
        && let Ok(dir) = String::from_utf8(output.stdout)
        && !dir.trim().is_empty()
    {
        candidates.push(Path::new(dir.trim()).join("postgres"));
    }
    // Debian's packages, PGDG's for Red Hat, and those of the container images.
    candidates.push(PathBuf::from(format!(
        "/usr/lib/postgresql/{major}/bin/postgres"
    )));
    candidates.push(PathBuf::from(format!("/usr/pgsql-{major}/bin/postgres")));
    candidates.push(PathBuf::from("/usr/local/bin/postgres"));
    candidates
}

/// The major version that `postgres --version` tells: `postgres (PostgreSQL) 15.4 (Debian …)`.
fn version_of(postgres: &Path) -> Option<u32> {
    let output = Command::new(postgres).arg("--version").output().ok()?;
    major(std::str::from_utf8(&output.stdout).ok()?)
}

fn major(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("(PostgreSQL) ")?;
    let digits = version.find(|character: char| !character.is_ascii_digit());
    version[..digits.unwrap_or(version.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_postgresql_prints_them() {
        assert_eq!(
            major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(major("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major("something else"), None);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let error = Programs::find(Some(PathBuf::from("/nowhere")), 15).expect_err("nothing there");
        let text = error.to_string();
        assert!(
            text.contains("PostgreSQL 15") && text.contains("/nowhere/postgres"),
            "{text}"
        );
    }
}
