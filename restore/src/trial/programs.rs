//! Where PostgreSQL's programs of a major version are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use walvault_config::env_lookup;

use super::TrialError;

/// PostgreSQL's programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// The server, its path absolute and free of links.
    postgres: PathBuf,
    /// The server's path before its links were followed.
    found: PathBuf,
    major: u32,
}

impl Programs {
    /// Finds those of `major`: in `named` if it is given, else where the search path, `pg_config` and the
    /// usual packages have them.
    pub(super) fn find(named: Option<PathBuf>, major: u32) -> Result<Programs, TrialError> {
        match named {
            Some(dir) => Programs::first_of(vec![dir.join("postgres")], major),
            None => {
                let path = env_lookup("PATH").unwrap_or_default();
                Programs::first_of(usual(&path, major), major)
            }
        }
    }

    fn first_of(candidates: Vec<PathBuf>, major: u32) -> Result<Programs, TrialError> {
        let mut looked = Vec::new();
        for found in candidates {
            // Programs run in the root directory, and others are looked for beside the server: a bare
            // name or a relative path would lead nowhere.
            let Ok(postgres) = fs::canonicalize(&found) else {
                looked.push(format!("no {}", found.display()));
                continue;
            };
            match version_of(&postgres) {
                Some(version) if version == major => {
                    let found = std::path::absolute(&found).unwrap_or(found);
                    return Ok(Programs {
                        postgres,
                        found,
                        major,
                    });
                }
                Some(version) => looked.push(format!("{} is {version}", found.display())),
                None => looked.push(format!("{} tells no version", found.display())),
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

    /// One of the programs that lie beside the server. PostgreSQL follows the links of its own path
    /// before it looks for its other files (`find_my_exec` in `src/common/exec.c`).
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        let beside_link = self.found.with_file_name(name);
        let beside_server = self.postgres.with_file_name(name);
        match !beside_server.exists() && beside_link.exists() {
            true => beside_link,
            false => beside_server,
        }
    }
}

/// The places where a server may lie; `path` is the search path, as the shell has it.
fn usual(path: &str, major: u32) -> Vec<PathBuf> {
    let on_path = std::env::split_paths(path).map(|dir| dir.join("postgres"));
    let mut candidates: Vec<PathBuf> = on_path.filter(|postgres| postgres.exists()).collect();
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

    /// A directory with a server of version 15 and `pg_amcheck` that are but scripts.
    fn installation() -> tempfile::TempDir {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        for (name, script) in [
            ("postgres", "#!/bin/sh\necho 'postgres (PostgreSQL) 15.4'\n"),
            ("pg_amcheck", "#!/bin/sh\n"),
        ] {
            let path = dir.path().join(name);
            fs::write(&path, script).expect("a script");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        }
        dir
    }

    #[test]
    fn programs_beside_a_server_of_the_search_path_are_found() {
        let dir = installation();
        let path = format!("/nowhere:{}", dir.path().display());
        let programs = Programs::first_of(usual(&path, 15), 15).expect("a server");
        let amcheck = programs.beside("pg_amcheck");
        assert!(amcheck.is_absolute() && amcheck.exists(), "{amcheck:?}");
        assert_eq!(programs.release().as_deref(), Some("15.4"));
    }

    #[test]
    fn a_link_to_the_server_alone_leads_to_the_programs_beside_it() {
        let dir = installation();
        let links = tempfile::tempdir().expect("a directory");
        let link = links.path().join("postgres");
        std::os::unix::fs::symlink(dir.path().join("postgres"), &link).expect("a link");
        let path = links.path().display().to_string();
        let programs = Programs::first_of(usual(&path, 15), 15).expect("a server");
        assert!(programs.beside("pg_amcheck").exists());
        // A program that only the directory of links has is found there.
        let other = links.path().join("pg_checksums");
        fs::write(&other, "").expect("a file");
        assert_eq!(programs.beside("pg_checksums"), other);
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
