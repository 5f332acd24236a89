//! Making a new cluster.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use super::{Postgres, SOCKET_PORT};
use crate::outcome::Outcome;
use crate::user::{server_command, server_dir, write_as_server_user};
use crate::{cache, wait};

/// What a new cluster is to be like. Data checksums are on.
#[derive(Debug, Clone)]
pub struct Builder {
    major: u32,
    segment_size: Option<u32>,
    password: Option<String>,
    tcp: bool,
    hba: Option<String>,
    settings: Vec<(String, String)>,
    environment: Vec<(String, String)>,
}

/// Small, in UTC, telling when each transaction was committed, as `pg_xact_commit_timestamp`
/// gives it. Its shared memory is in the data directory, and goes with that when it is killed.
const SETTINGS: [(&str, &str); 7] = [
    ("track_commit_timestamp", "on"),
    ("shared_buffers", "16MB"),
    ("max_connections", "40"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("jit", "off"),
    ("dynamic_shared_memory_type", "mmap"),
];

impl Builder {
    pub(super) fn new() -> Builder {
        Builder {
            major: cache::DEBIAN_MAJOR,
            segment_size: None,
            password: None,
            tcp: false,
            hba: None,
            settings: SETTINGS
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            environment: Vec::new(),
        }
    }

    /// One of [`cache::MAJORS`].
    #[must_use]
    pub fn major(mut self, major: u32) -> Builder {
        self.major = major;
        self
    }

    /// The size of WAL segments in MiB, a power of two.
    #[must_use]
    pub fn segment_size(mut self, mebibytes: u32) -> Builder {
        self.segment_size = Some(mebibytes);
        self
    }

    /// Everybody must give a SCRAM password; this one is the superuser's.
    #[must_use]
    pub fn password(mut self, password: &str) -> Builder {
        self.password = Some(password.to_owned());
        self
    }

    /// Listens on a free port of 127.0.0.1 too.
    #[must_use]
    pub fn tcp(mut self) -> Builder {
        self.tcp = true;
        self
    }

    /// The whole `pg_hba.conf`, in place of what initdb writes.
    #[must_use]
    pub fn hba(mut self, rules: &str) -> Builder {
        self.hba = Some(rules.to_owned());
        self
    }

    /// A line of `postgresql.conf`, replacing the harness's own of that name.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Builder {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Variables that the server finds in its environment.
    #[must_use]
    pub fn environment(mut self, environment: Vec<(String, String)>) -> Builder {
        self.environment = environment;
        self
    }

    /// Makes the cluster and starts a server on it.
    ///
    /// # Panics
    /// With what failed.
    #[must_use]
    pub fn start(self) -> Postgres {
        let home = server_dir();
        let data = home.path().join("data");
        self.initdb(home.path(), &data);
        let mut server = Postgres {
            major: self.major,
            data,
            home,
            port: if self.tcp {
                wait::free_port()
            } else {
                SOCKET_PORT
            },
            tcp: self.tcp,
            password: self.password,
            environment: self.environment,
            process: None,
        };
        server.start();
        server
    }

    fn initdb(&self, home: &Path, data: &Path) {
        let mut command = server_command(cache::server_bin(self.major).join("initdb"));
        command
            .arg("--pgdata")
            .arg(data)
            .args(["--username=postgres", "--encoding=UTF8", "--locale=C"])
            .args(["--data-checksums", "--no-sync"]);
        if let Some(mebibytes) = self.segment_size {
            command.arg(format!("--wal-segsize={mebibytes}"));
        }
        match &self.password {
            None => command.arg("--auth=trust"),
            Some(password) => {
                let file = home.join("password");
                write_as_server_user(&file, password);
                command
                    .arg("--auth=scram-sha-256")
                    .arg("--pwfile")
                    .arg(file)
            }
        };
        let _ = Outcome::of(command).succeeded();

        let path = data.join("postgresql.conf");
        let mut conf = OpenOptions::new()
            .append(true)
            .open(path)
            .expect("postgresql.conf");
        for (name, value) in &self.settings {
            let value = value.replace('\'', "''");
            writeln!(conf, "{name} = '{value}'").expect("postgresql.conf is written");
        }
        if let Some(rules) = &self.hba {
            write_as_server_user(&data.join("pg_hba.conf"), rules);
        }
    }
}
