//! Clients that outlive the servers they write to, and what these acknowledged to them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tempfile::TempDir;

use crate::cache::client_program;
use crate::postgres::Postgres;
use crate::process::Process;
use crate::scenario::Scenario;
use crate::user::{server_command, server_dir, write_as_server_user};
use crate::{cache, wait};

/// Rows of the table `commits`: their ids, and a digest of all that is in them.
pub type Rows = BTreeMap<i64, String>;

/// Clients that commit a row at a time to the table of a [`CommitLog`](crate::CommitLog), until they
/// are stopped. One whose connection breaks looks for a server that takes writes, again and again.
#[derive(Debug)]
pub struct Clients {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    logs: Vec<PathBuf>,
    _home: TempDir,
}

impl Clients {
    /// `count` of them, for whichever of these servers takes writes.
    #[must_use]
    pub fn of(servers: &[&Postgres], count: usize) -> Clients {
        let hosts: Vec<String> = servers.iter().map(|server| server.host()).collect();
        let ports: Vec<String> = servers.iter().map(|server| server.port()).collect();
        Clients::at(&hosts.join(","), &ports.join(","), count)
    }

    /// As [`Clients::of`], by libpq's `host` and `port`.
    ///
    /// # Panics
    /// With what failed.
    #[must_use]
    pub fn at(hosts: &str, ports: &str, count: usize) -> Clients {
        let home = server_dir();
        let script = home.path().join("commits.sql");
        // psql prints a result when the command is complete, which is after its commit.
        let insert = format!("INSERT INTO commits DEFAULT VALUES RETURNING id, {DIGEST};\n");
        write_as_server_user(&script, insert.repeat(20_000));
        let over = Arc::new(AtomicBool::new(false));
        let logs: Vec<PathBuf> = (0..count)
            .map(|client| home.path().join(format!("client-{client}.log")))
            .collect();
        let threads = logs.iter().map(|log| {
            let (over, log, script) = (over.clone(), log.clone(), script.clone());
            let (hosts, ports) = (hosts.to_owned(), ports.to_owned());
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let mut psql = server_command(client_program("psql"));
                    psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-f"])
                        .arg(&script)
                        .env("PGHOST", &hosts)
                        .env("PGPORT", &ports)
                        .env("PGUSER", "postgres")
                        .env("PGDATABASE", "postgres")
                        .env("PGTARGETSESSIONATTRS", "read-write")
                        .env("PGCONNECT_TIMEOUT", "2");
                    let mut psql = Process::spawn("psql", psql, &log);
                    while psql.exit_status().is_none() && !over.load(Ordering::Relaxed) {
                        thread::sleep(Duration::from_millis(20));
                    }
                    thread::sleep(Duration::from_millis(50));
                }
            })
        });
        let threads = threads.collect();
        Clients {
            over,
            threads,
            logs,
            _home: home,
        }
    }

    /// The rows whose commits were acknowledged so far.
    ///
    /// # Panics
    /// When a row was acknowledged twice: one of the two is lost.
    #[must_use]
    pub fn acknowledged(&self) -> Rows {
        let mut rows = Rows::new();
        for log in &self.logs {
            let text = std::fs::read(log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            for line in text.split_inclusive('\n') {
                let whole = line.strip_suffix('\n').and_then(parse);
                let Some((id, digest)) = whole else { continue };
                let before = rows.insert(id, digest);
                assert_eq!(before, None, "row {id} was acknowledged twice");
            }
        }
        rows
    }

    /// Waits until this many more commits were acknowledged than at the moment.
    ///
    /// # Panics
    /// With what the clients said last, when they are not.
    pub fn wait_for_more(&self, more: usize) {
        let goal = self.acknowledged().len() + more;
        let reached = wait::poll(|| (self.acknowledged().len() >= goal).then_some(()));
        assert!(
            reached.is_some(),
            "{} commits were acknowledged and not {goal}; the clients said last: {:?}",
            self.acknowledged().len(),
            self.last_words()
        );
    }

    /// Stops them, and returns what had been acknowledged.
    #[must_use]
    pub fn stop(mut self) -> Rows {
        self.end();
        self.acknowledged()
    }

    fn end(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }

    fn last_words(&self) -> Vec<String> {
        let last = |log: &PathBuf| {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            text.lines().last().unwrap_or_default().to_owned()
        };
        self.logs.iter().map(last).collect()
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the table `commits` of a server holds.
#[must_use]
pub fn rows(server: &Postgres) -> Rows {
    let text = server.query(&format!("SELECT id, {DIGEST} FROM commits"));
    text.lines().filter_map(parse).collect()
}

/// Makes commits wait for walvault, and for all of `others` too, standbys by their
/// `application_name`.
pub fn commit_synchronously(server: &Postgres, others: &[&str]) {
    let names = [&["walvault"], others].concat();
    let all = format!("ANY {} ({})", names.len(), names.join(", "));
    server.query(&format!(
        "ALTER SYSTEM SET synchronous_standby_names = '{all}'"
    ));
    server.query("SELECT pg_reload_conf()");
    wait::wait_for("synchronous replication", || {
        let quorum = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'";
        server.query(quorum) == names.len().to_string()
    });
}

/// How many commits wait for those that they were told to wait for.
#[must_use]
pub fn waiting_commits(server: &Postgres) -> usize {
    server.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
}

/// Restores the end of the archive into a new directory and requires that every row that was
/// acknowledged is there as it was.
///
/// # Panics
/// With what is missing, or what failed.
#[must_use]
pub fn restore_everything(scenario: &Scenario, name: &str, acknowledged: &Rows) -> Postgres {
    let pgdata = scenario.restore(name, &[]);
    start_with_everything(scenario, &pgdata, acknowledged)
}

/// The second half of [`restore_everything`].
///
/// # Panics
/// With what is missing, or what failed.
#[must_use]
pub fn start_with_everything(scenario: &Scenario, pgdata: &Path, acknowledged: &Rows) -> Postgres {
    let restored = scenario.start_restored(cache::DEBIAN_MAJOR, pgdata);
    restored.wait_until_recovered();
    assert_kept(&rows(&restored), acknowledged, &restored.log());
    restored
}

/// Requires that every row that was acknowledged is among those found, as it was.
///
/// # Panics
/// With what is missing, and the context.
pub fn assert_kept(found: &Rows, acknowledged: &Rows, context: &dyn std::fmt::Display) {
    let lost: Vec<&i64> = acknowledged
        .iter()
        .filter(|&(id, digest)| found.get(id) != Some(digest))
        .map(|(id, _)| id)
        .collect();
    assert!(
        lost.is_empty(),
        "{} of {} acknowledged rows are missing or differ: {lost:?}\n{context}",
        lost.len(),
        acknowledged.len()
    );
}

/// Of everything in a row of `commits` but its id, in SQL.
const DIGEST: &str = "md5(extract(epoch from at)::text || payload)";

/// `17|9e107d9d372bb6826bd81d3542a419d6`
fn parse(line: &str) -> Option<(i64, String)> {
    let (id, digest) = line.split_once('|')?;
    let is_digest = digest.len() == 32 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    Some((id.parse().ok()?, digest.to_owned())).filter(|_| is_digest)
}
