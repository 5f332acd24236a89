//! Patroni with two members and an etcd of one node, from Debian's packages.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cache::{client_program, server_bin};
use crate::outcome::Outcome;
use crate::process::{Process, with_argument};
use crate::user::{give_to_server_user, server_command, server_dir, write_as_server_user};
use crate::{cache, http, wait};

/// What its members are called.
pub const MEMBERS: [&str; 2] = ["one", "two"];

/// A cluster that runs. Dropping it kills it and removes what it stored.
#[derive(Debug)]
pub struct Patroni {
    home: TempDir,
    etcd_port: u16,
    members: Vec<Member>,
    _etcd: Process,
}

#[derive(Debug)]
struct Member {
    rest_port: u16,
    port: u16,
    process: Option<Process>,
}

impl Patroni {
    /// Starts etcd, and prepares both members. `local` is a part of each member's configuration, in
    /// YAML, by its data directory.
    ///
    /// # Panics
    /// With what failed.
    #[must_use]
    pub fn prepare(local: impl Fn(&Path) -> String) -> Patroni {
        let home = server_dir();
        let (etcd_port, peer_port) = (wait::free_port(), wait::free_port());
        let (client, peer) = (
            format!("http://127.0.0.1:{etcd_port}"),
            format!("http://127.0.0.1:{peer_port}"),
        );
        let mut etcd = server_command(installed("/usr/bin/etcd"));
        etcd.arg("--data-dir")
            .arg(home.path().join("etcd"))
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .arg("--unsafe-no-fsync");
        let etcd = Process::spawn("etcd", etcd, &home.path().join("etcd.log"));
        let members = MEMBERS.map(|_| Member {
            rest_port: wait::free_port(),
            port: wait::free_port(),
            process: None,
        });
        let patroni = Patroni {
            home,
            etcd_port,
            members: members.into(),
            _etcd: etcd,
        };
        for member in 0..MEMBERS.len() {
            patroni.configure(member, &local(&patroni.data_directory(member)));
        }
        patroni
    }

    /// Starts a member.
    pub fn start(&mut self, member: usize) {
        let mut command = server_command(installed("/usr/bin/patroni"));
        command.arg(self.conf(member));
        let log = self.dir(member).join("patroni.log");
        self.members[member].process = Some(Process::spawn("patroni", command, &log));
    }

    /// Kills a member with its server, and removes its data directory: the machine is gone.
    ///
    /// # Panics
    /// When it cannot be removed.
    pub fn lose(&mut self, member: usize) {
        self.kill(member);
        fs::remove_dir_all(self.data_directory(member)).expect("the data directory is removed");
    }

    /// Kills a member, and its server, which Patroni starts so that it outlives it.
    fn kill(&mut self, member: usize) {
        self.members[member].process = None;
        let data = self.data_directory(member);
        let servers = || with_argument("-D", &data);
        wait::wait_for("the end of a member's server", || {
            for server in servers() {
                // One that ended in between is what was wanted.
                let _ = kill_process(server, Signal::KILL);
            }
            servers().is_empty()
        });
    }

    /// Waits until there is a leader, and tells which.
    ///
    /// # Panics
    /// With the members' logs, when there is none.
    #[must_use]
    pub fn wait_for_leader(&self) -> usize {
        let found = wait::poll(|| (0..MEMBERS.len()).find(|&member| self.is(member, "/leader")));
        found.unwrap_or_else(|| panic!("there is no leader\n{}", self.logs()))
    }

    /// Waits until a member is a replica that streams.
    ///
    /// # Panics
    /// With the members' logs, when it is not.
    pub fn wait_for_replica(&self, member: usize) {
        let leader = self.wait_for_leader();
        let streams = format!(
            "SELECT count(*) FROM pg_stat_replication \
             WHERE application_name = '{}' AND state = 'streaming'",
            MEMBERS[member]
        );
        let reached = wait::poll(|| {
            let is_it = self.is(member, "/replica") && self.query(leader, &streams) == "1";
            is_it.then_some(())
        });
        assert!(reached.is_some(), "no replica\n{}", self.logs());
    }

    /// Runs a command of patronictl's.
    #[must_use]
    pub fn ctl(&self, arguments: &[&str]) -> Outcome {
        let mut command = server_command(installed("/usr/bin/patronictl"));
        command.arg("-c").arg(self.conf(0)).args(arguments);
        Outcome::of(command)
    }

    /// The directory of a member's Unix socket, as libpq's `host`.
    #[must_use]
    pub fn host(&self, member: usize) -> String {
        self.dir(member).display().to_string()
    }

    /// As libpq's `port`.
    #[must_use]
    pub fn port(&self, member: usize) -> String {
        self.members[member].port.to_string()
    }

    /// Runs SQL on a member; what psql said where it fails.
    #[must_use]
    pub fn query(&self, member: usize, sql: &str) -> String {
        let mut psql = server_command(client_program("psql"));
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .env("PGHOST", self.host(member))
            .env("PGPORT", self.port(member))
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres");
        let outcome = Outcome::of(psql);
        match outcome.code {
            Some(0) => outcome.stdout.trim_end().to_owned(),
            _ => outcome.stderr,
        }
    }

    /// What the members said.
    #[must_use]
    pub fn logs(&self) -> String {
        let log = |member| {
            let log = fs::read_to_string(self.dir(member).join("patroni.log"));
            format!("--- {}\n{}\n", MEMBERS[member], log.unwrap_or_default())
        };
        (0..MEMBERS.len()).map(log).collect()
    }

    /// Whether a member's REST API answers that it is something (Patroni REST API).
    fn is(&self, member: usize, what: &str) -> bool {
        let address = ([127, 0, 0, 1], self.members[member].rest_port).into();
        let answer = http::request(address, "GET", what, &[], "");
        answer.is_ok_and(|answer| answer.status == 200)
    }

    fn configure(&self, member: usize, local: &str) {
        let dir = self.dir(member);
        for dir in [&dir, &self.conf(member)] {
            fs::create_dir(dir).expect("a directory");
            give_to_server_user(dir);
        }
        // JSON is YAML.
        let settings = self.settings(member).to_string();
        write_as_server_user(&self.conf(member).join("1-member.yml"), settings);
        write_as_server_user(&self.conf(member).join("2-local.yml"), local);
    }

    fn settings(&self, member: usize) -> Value {
        let Member {
            rest_port, port, ..
        } = &self.members[member];
        let (rest, postgres) = (
            format!("127.0.0.1:{rest_port}"),
            format!("127.0.0.1:{port}"),
        );
        json!({
            "scope": "walvault",
            "name": MEMBERS[member],
            "restapi": { "listen": rest, "connect_address": rest },
            "etcd3": { "host": format!("127.0.0.1:{}", self.etcd_port) },
            "bootstrap": {
                "dcs": {
                    // As short as Patroni allows.
                    "ttl": 20, "loop_wait": 1, "retry_timeout": 3,
                    "postgresql": { "use_pg_rewind": true },
                },
                "initdb": [
                    { "encoding": "UTF8" }, { "locale": "C" }, { "wal-segsize": "1" },
                    "data-checksums", "no-sync",
                ],
            },
            "postgresql": {
                "listen": postgres,
                "connect_address": postgres,
                "data_dir": self.data_directory(member),
                "bin_dir": server_bin(cache::DEBIAN_MAJOR),
                "pgpass": self.dir(member).join("pgpass"),
                "use_unix_socket": true,
                "use_unix_socket_repl": true,
                "authentication": {
                    "superuser": { "username": "postgres" },
                    "replication": { "username": "postgres" },
                },
                "parameters": {
                    "unix_socket_directories": self.dir(member),
                    "shared_buffers": "16MB",
                    "fsync": "off",
                    "dynamic_shared_memory_type": "mmap",
                    "timezone": "UTC",
                },
                "pg_hba": [
                    "local all all trust", "local replication all trust",
                    "host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust",
                ],
            },
            "watchdog": { "mode": "off" },
        })
    }

    fn data_directory(&self, member: usize) -> PathBuf {
        self.dir(member).join("data")
    }

    fn conf(&self, member: usize) -> PathBuf {
        self.dir(member).join("conf")
    }

    fn dir(&self, member: usize) -> PathBuf {
        self.home.path().join(MEMBERS[member])
    }
}

fn installed(program: &str) -> PathBuf {
    cache::installed(program.into(), program)
}

impl Drop for Patroni {
    fn drop(&mut self) {
        for member in 0..self.members.len() {
            self.kill(member);
        }
    }
}
