//! What starts a restored cluster.
//!
//! A base backup holds what lies in the data directory. Debian's packages keep the configuration
//! elsewhere, and `pg_ctl` alone does not find it there.

use std::fs;
use std::path::{Path, PathBuf};

use walvault_config::env_lookup;

use crate::materialise::POSTGRESQL_CONF;
use crate::settings::{includes, setting_in};
use crate::shell::{quoted, word};

/// What tells Debian's programs, and so these tests, where another directory is used.
const CONF_ROOT: &str = "PG_CLUSTER_CONF_ROOT";
/// Where Debian's packages keep configurations: `VERSION/NAME/postgresql.conf` (pg_createcluster(1)).
const DEBIAN: &str = "/etc/postgresql";

const DATA_DIRECTORY: &str = "data_directory";

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
        let dir = word(&pgdata.display().to_string());
        let within = format!("-c data_directory={dir}");
        match self {
            Configuration::Within => {
                let told = match other_directory(pgdata).is_some() || includes(&read_in(pgdata)) {
                    // What postgresql.conf says wins over -D.
                    true => format!(" -o {}", quoted(&within)),
                    false => String::new(),
                };
                format!("pg_ctl start -D {dir}{told}")
            }
            Configuration::OfDebian(name) => format!("pg_ctlcluster {major} {name} start"),
            // Such a file names the directory, and the PID file, of the server that it was made for.
            Configuration::Missing => {
                let told = quoted(&format!("{within} -c external_pid_file="));
                format!("pg_ctl start -D {dir} -o '-c config_file=FILE' -o {told}")
            }
        }
    }

    /// The data directory that a server would use in the place of `pgdata`, if it were started by
    /// `-D` alone.
    pub(super) fn other_directory(&self, pgdata: &Path) -> Option<String> {
        match self {
            Configuration::Within => other_directory(pgdata),
            _ => None,
        }
    }
}

/// What the `postgresql.conf` in `pgdata` names in the place of it.
fn other_directory(pgdata: &Path) -> Option<String> {
    let named = setting_in(&read_in(pgdata), DATA_DIRECTORY)?;
    (!is_same(Path::new(&named), pgdata)).then_some(named)
}

/// The `postgresql.conf` in `dir`; before it is restored there is none.
fn read_in(dir: &Path) -> Vec<u8> {
    fs::read(dir.join(POSTGRESQL_CONF)).unwrap_or_default()
}

/// The name of the cluster whose configuration below `root` names `pgdata`.
fn of_debian(root: &Path, pgdata: &Path, major: u32) -> Option<String> {
    let clusters = fs::read_dir(root.join(major.to_string())).ok()?;
    let names_it = |dir: &PathBuf| {
        let named = setting_in(&read_in(dir), DATA_DIRECTORY);
        named.is_some_and(|named| is_same(Path::new(&named), pgdata))
    };
    let mut found: Vec<PathBuf> = clusters.flatten().map(|entry| entry.path()).collect();
    found.sort();
    let found = found.into_iter().find(names_it)?;
    Some(found.file_name()?.to_str()?.to_owned())
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

    #[test]
    fn a_server_is_not_led_to_the_directory_that_its_configuration_names() {
        let dir = tempfile::tempdir().expect("a directory");
        let pgdata = dir.path();
        let path = pgdata.display();
        let command = |conf: &str| {
            fs::write(pgdata.join(POSTGRESQL_CONF), conf).expect("written");
            Configuration::Within.start_command(pgdata, 15)
        };
        let plain = format!("pg_ctl start -D {path}");
        let told = format!("pg_ctl start -D {path} -o '-c data_directory={path}'");
        assert_eq!(command("#data_directory = '/data'\n"), plain);
        assert_eq!(command(&format!("data_directory = '{path}'\n")), plain);
        assert_eq!(command("include_dir 'conf.d'\n"), told);
        assert_eq!(command("data_directory = '/data'\n"), told);
        let other = Configuration::Within.other_directory(pgdata);
        assert_eq!(other.as_deref(), Some("/data"));
    }

    #[test]
    fn paths_reach_the_server_through_two_shells() {
        let command = Configuration::Missing.start_command(Path::new("/it's here"), 15);
        let expected = r"pg_ctl start -D '/it'\''s here' -o '-c config_file=FILE' -o '-c data_directory='\''/it'\''\'\'''\''s here'\'' -c external_pid_file='";
        assert_eq!(command, expected);
    }
}
