//! What starts a restored cluster.
//!
//! A base backup holds what lies in the data directory. Debian's packages keep the configuration
//! elsewhere, and `pg_ctl` alone does not find it there.

use std::fs;
use std::path::{Path, PathBuf};

use walvault_config::env_lookup;

use crate::settings::unquoted;

/// What tells Debian's programs, and so these tests, where another directory is used.
const CONF_ROOT: &str = "PG_CLUSTER_CONF_ROOT";
/// Where Debian's packages keep configurations: `VERSION/NAME/postgresql.conf` (pg_createcluster(1)).
const DEBIAN: &str = "/etc/postgresql";

/// Where the configuration of a restored cluster is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Configuration {
    /// In the data directory.
    Within,
    /// Where Debian keeps that of a cluster of this name.
    OfDebian(String),
    /// Nowhere that is known.
    Missing,
}

impl Configuration {
    /// Of the cluster in `pgdata`; `is_in_backup` says whether the backup has it.
    pub(super) fn of(pgdata: &Path, major: u32, is_in_backup: bool) -> Configuration {
        let root = env_lookup(CONF_ROOT).unwrap_or_else(|| DEBIAN.to_owned());
        match is_in_backup {
            true => Configuration::Within,
            false => of_debian(Path::new(&root), pgdata, major)
                .map_or(Configuration::Missing, Configuration::OfDebian),
        }
    }

    /// The command that starts the cluster in `pgdata`.
    pub(super) fn start_command(&self, pgdata: &Path, major: u32) -> String {
        let pgdata = pgdata.display();
        match self {
            Configuration::Within => format!("pg_ctl start -D {pgdata}"),
            Configuration::OfDebian(name) => format!("pg_ctlcluster {major} {name} start"),
            Configuration::Missing => {
                format!("pg_ctl start -D {pgdata} -o '-c config_file=FILE'")
            }
        }
    }
}

/// The name of the cluster whose configuration below `root` names `pgdata`.
fn of_debian(root: &Path, pgdata: &Path, major: u32) -> Option<String> {
    let clusters = fs::read_dir(root.join(major.to_string())).ok()?;
    let names_it = |dir: &PathBuf| {
        let content = fs::read_to_string(dir.join("postgresql.conf")).unwrap_or_default();
        let named = content.lines().rev().find_map(data_directory);
        named.is_some_and(|named| is_same(Path::new(&named), pgdata))
    };
    let mut found: Vec<PathBuf> = clusters.flatten().map(|entry| entry.path()).collect();
    found.sort();
    let found = found.into_iter().find(names_it)?;
    Some(found.file_name()?.to_str()?.to_owned())
}

/// The value of a line that sets `data_directory`.
fn data_directory(line: &str) -> Option<String> {
    let (name, value) = line.trim().split_once(['=', ' ', '\t'])?;
    let value = value.trim_start_matches([' ', '\t', '=']);
    (name.trim() == "data_directory").then(|| unquoted(value))
}

/// Whether two paths lead to one directory, which need not be there yet.
fn is_same(one: &Path, other: &Path) -> bool {
    one == other
        || matches!((fs::canonicalize(one), fs::canonicalize(other)), (Ok(one), Ok(other)) if one == other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debians_cluster_is_known_by_its_data_directory() {
        let root = tempfile::tempdir().expect("a directory");
        for (name, data) in [
            ("main", "data_directory = '/data/it''s'\t# its place"),
            (
                "other",
                "#data_directory = '/data/b'\ndata_directory='/data/b' ",
            ),
        ] {
            let dir = root.path().join("15").join(name);
            fs::create_dir_all(&dir).expect("made");
            fs::write(dir.join("postgresql.conf"), data).expect("written");
        }
        let name = |pgdata: &str, major| of_debian(root.path(), Path::new(pgdata), major);
        assert_eq!(name("/data/it's", 15).as_deref(), Some("main"));
        assert_eq!(name("/data/b", 15).as_deref(), Some("other"));
        assert_eq!(name("/data/c", 15), None);
        assert_eq!(name("/data/b", 16), None);
    }
}
