//! Rows of which it is known exactly when, and at which position, each was committed.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use tempfile::TempDir;
use walvault_protocol::Lsn;

use crate::cache::client_program;
use crate::outcome::Outcome;
use crate::positions::Positions;
use crate::postgres::Postgres;
use crate::process::Process;
use crate::time::utc;
use crate::user::{server_command, server_dir, write_as_server_user};

/// The table `commits(id, at, payload)` of a server. Every transaction that writes to it inserts
/// one row.
#[derive(Debug)]
pub struct CommitLog {
    begin: Lsn,
}

/// What makes the table.
pub const CREATE_TABLE: &str = "CREATE TABLE commits (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    payload text NOT NULL DEFAULT repeat(md5(random()::text), 8)
)";

/// A row whose commit was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// The row.
    pub id: i64,
    /// When it was committed, as the commit record tells it.
    pub time: Timestamp,
    /// A position at or before the commit record's beginning: the row takes replay beyond it.
    pub begin: Lsn,
}

/// A commit or abort record in WAL: where recovery may stop (`xlogrecovery.c`,
/// `recoveryStopsBefore`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Which transaction.
    pub xid: u32,
    /// Where the record begins.
    pub lsn: Lsn,
    /// When it ended, as the record tells it.
    pub time: Timestamp,
    /// The row of `commits` that it committed, if it did.
    pub row: Option<i64>,
}

/// Clients that write until this is dropped.
#[derive(Debug)]
pub struct Load {
    processes: Vec<Process>,
    _home: TempDir,
}

impl Load {
    /// The rows of [`CommitLog::counted_load`] whose commits were acknowledged so far, in order.
    #[must_use]
    pub fn acknowledged(&self) -> Vec<i64> {
        let logs: Vec<String> = self.processes.iter().map(Process::log).collect();
        let lines = logs.iter().flat_map(|log| log.lines());
        let mut rows: Vec<i64> = lines.filter_map(|line| line.parse().ok()).collect();
        rows.sort_unstable();
        rows
    }
}

impl CommitLog {
    /// Makes the table, and pgbench's for other work at the same time.
    ///
    /// # Panics
    /// With what failed.
    #[must_use]
    pub fn create(server: &Postgres) -> CommitLog {
        let mut pgbench = server.client("pgbench");
        pgbench.args(["--initialize", "--quiet", "--scale=1"]);
        let _ = Outcome::of(pgbench).succeeded();
        server.query(CREATE_TABLE);
        CommitLog {
            begin: server.flushed(),
        }
    }

    /// Lets `clients` clients commit as fast as they can: rows of the log, and pgbench's usual
    /// transactions.
    ///
    /// # Panics
    /// With what failed.
    #[must_use]
    pub fn load(&self, server: &Postgres, clients: u32) -> Load {
        let home = server_dir();
        let script = home.path().join("commit.sql");
        write_as_server_user(&script, "INSERT INTO commits DEFAULT VALUES;\n");
        let mut pgbench = server.client("pgbench");
        pgbench
            .args(["--no-vacuum", "--time=3600", "--builtin=tpcb-like@1"])
            .arg(format!("--client={clients}"))
            .arg(format!("--file={}@1", script.display()));
        let process = Process::spawn("pgbench", pgbench, &home.path().join("pgbench.log"));
        Load {
            processes: vec![process],
            _home: home,
        }
    }

    /// Lets `clients` clients commit a row at a time, each noting a row once its commit is
    /// acknowledged: see [`Load::acknowledged`].
    ///
    /// # Panics
    /// With what failed.
    #[must_use]
    pub fn counted_load(&self, server: &Postgres, clients: u32) -> Load {
        let home = server_dir();
        let script = home.path().join("commits.sql");
        // psql prints a result when the command is complete, which is after its commit.
        let insert = "INSERT INTO commits DEFAULT VALUES RETURNING id;\n";
        write_as_server_user(&script, insert.repeat(20_000));
        let file = script.display().to_string();
        let start = |client| {
            let log = home.path().join(format!("client-{client}.log"));
            Process::spawn("psql", server.psql(&["-f", &file]), &log)
        };
        Load {
            processes: (0..clients).map(start).collect(),
            _home: home,
        }
    }

    /// Commits one row, and returns once the server acknowledged it.
    ///
    /// # Panics
    /// When it did not.
    #[must_use]
    pub fn commit(&self, server: &Postgres) -> Commit {
        let home = server_dir();
        let script = home.path().join("commit.sql");
        write_as_server_user(
            &script,
            "BEGIN;
            INSERT INTO commits DEFAULT VALUES RETURNING id \\gset
            SELECT pg_current_wal_insert_lsn() AS lsn \\gset
            COMMIT;
            SELECT id, pg_xact_commit_timestamp(xmin) AT TIME ZONE 'UTC', :'lsn'
            FROM commits WHERE id = :id;",
        );
        let outcome = Outcome::of(server.psql(&["-f", &script.display().to_string()])).succeeded();
        let fields: Vec<&str> = outcome.stdout.trim().split('|').collect();
        Commit {
            id: fields[0].parse().expect("an id"),
            time: utc(fields[1]),
            begin: fields[2].parse().expect("an LSN"),
        }
    }

    /// Waits until the table holds this many more rows than now.
    pub fn wait_for_rows(&self, server: &Postgres, more: i64) {
        let count = || server.value::<i64>("SELECT count(*) FROM commits");
        let goal = count() + more;
        crate::wait::wait_for(&format!("{more} more rows"), || count() >= goal);
    }

    /// The ids of all rows, in order.
    #[must_use]
    pub fn rows(&self, server: &Postgres) -> Vec<i64> {
        let ids = server.query("SELECT id FROM commits ORDER BY id");
        ids.lines().map(|id| id.parse().expect("an id")).collect()
    }

    /// Every transaction that has ended on the server since the log was made, in the order of WAL,
    /// by `pg_waldump`. Nobody may be writing, the server must be of [`crate::cache::DEBIAN_MAJOR`], and
    /// its WAL since then must still be there: see `wal_keep_size`.
    ///
    /// # Panics
    /// With what failed.
    #[must_use]
    pub fn history(&self, server: &Postgres) -> Vec<Transaction> {
        let rows: HashMap<u32, i64> = server
            .query("SELECT xmin, id FROM commits")
            .lines()
            .map(|line| {
                let (xid, id) = line.split_once('|').expect("two columns");
                (
                    xid.parse().expect("a transaction id"),
                    id.parse().expect("an id"),
                )
            })
            .collect();
        let mut waldump = server_command(client_program("pg_waldump"));
        waldump
            .arg("--path")
            .arg(server.data_directory().join("pg_wal"))
            .arg(format!("--start={}", self.begin))
            .arg(format!("--end={}", server.flushed()))
            .arg("--rmgr=Transaction");
        let dump = Outcome::of(waldump).succeeded().stdout;
        dump.lines()
            .filter_map(|line| parse_transaction(line, &rows))
            .collect()
    }
}

/// The rows that are there when recovery stops at a time, inclusively: those committed before the
/// first transaction in WAL that ended later.
#[must_use]
pub fn rows_at_time(history: &[Transaction], time: Timestamp) -> Vec<i64> {
    rows_while(history, |transaction| transaction.time <= time)
}

/// The rows that are there when recovery stops at the record that begins at `lsn`, inclusively.
#[must_use]
pub fn rows_at_lsn(history: &[Transaction], lsn: Lsn) -> Vec<i64> {
    rows_while(history, |transaction| transaction.lsn <= lsn)
}

/// The rows that are there when recovery stops after a transaction.
#[must_use]
pub fn rows_at_xid(history: &[Transaction], xid: u32) -> Vec<i64> {
    let last = history.iter().find(|transaction| transaction.xid == xid);
    rows_at_lsn(history, last.expect("a transaction of the history").lsn)
}

/// Requires that exactly the expected rows were found.
///
/// # Panics
/// With the rows that are missing or too many, and the context.
pub fn assert_rows(found: &[i64], expected: &[i64], context: &dyn std::fmt::Display) {
    let without = |rows: &[i64], others: &[i64]| -> Vec<i64> {
        let others: HashSet<&i64> = others.iter().collect();
        rows.iter()
            .copied()
            .filter(|row| !others.contains(row))
            .collect()
    };
    let (missing, surplus) = (without(expected, found), without(found, expected));
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "{} of {} rows are missing: {missing:?}, {} are too many: {surplus:?}\n{context}",
        missing.len(),
        expected.len(),
        surplus.len()
    );
}

fn rows_while(history: &[Transaction], reached: impl Fn(&Transaction) -> bool) -> Vec<i64> {
    let applied = history
        .iter()
        .take_while(|transaction| reached(transaction));
    let mut rows: Vec<i64> = applied.filter_map(|transaction| transaction.row).collect();
    rows.sort_unstable();
    rows
}

/// `rmgr: Transaction len … tx: 742, lsn: 0/015A1F60, prev …, desc: COMMIT 2026-11-21 06:45:00.1 UTC…`
fn parse_transaction(line: &str, rows: &HashMap<u32, i64>) -> Option<Transaction> {
    let after = |label: &str| line.split_once(label).map(|(_, rest)| rest.trim_start());
    let number = |text: &str| text.split(',').next().map(|field| field.trim().to_owned());
    let (kind, rest) = after("desc: ")?.split_once(' ')?;
    if kind != "COMMIT" && kind != "ABORT" {
        return None;
    }
    let xid = number(after("tx: ")?)?.parse().expect("a transaction id");
    let (time, _) = rest.split_once(" UTC").expect("a time in UTC");
    Some(Transaction {
        xid,
        lsn: number(after("lsn: ")?)?.parse().expect("an LSN"),
        time: utc(time),
        row: rows.get(&xid).copied().filter(|_| kind == "COMMIT"),
    })
}
