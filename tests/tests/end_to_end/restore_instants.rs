//! A restore reaches its target exactly: every row committed before it, none after.

use std::path::Path;

use jiff::Timestamp;
use walvault_tests::commit_log::{
    Transaction, assert_rows, rows_at_lsn, rows_at_time, rows_at_xid,
};
use walvault_tests::time::timestamptz;
use walvault_tests::user::server_command;
use walvault_tests::{ArchiveKind, CommitLog, Outcome, Postgres, Scenario, Shutdown, cache, test};

/// A lost server, and what is known of it.
struct Lost {
    scenario: Scenario,
    log: CommitLog,
    history: Vec<Transaction>,
    all: Vec<i64>,
    backed_up: Timestamp,
}

impl Lost {
    /// Runs a server under load with a base backup in the middle of it, and loses it.
    fn after_load(kind: ArchiveKind) -> Lost {
        // pg_waldump, which the history comes from, reads the server's own WAL.
        let mut server = Postgres::builder().setting("wal_keep_size", "4GB").start();
        let scenario = Scenario::new(kind);
        scenario.configure_for(&server);
        let log = CommitLog::create(&server);
        let load = log.load(&server, 3);
        log.wait_for_rows(&server, 100);
        let daemon = scenario.run_and_back_up(&server);
        let backed_up = server.clock();
        log.wait_for_rows(&server, 2000);
        drop(load);
        // Once more than the load's, so that every instant under load has a commit after it.
        let _ = log.commit(&server);
        daemon.wait_until_archived(&server);

        let (history, all) = (log.history(&server), log.rows(&server));
        server.lose();
        assert!(daemon.stop().success());
        Lost {
            scenario,
            log,
            history,
            all,
            backed_up,
        }
    }

    /// Restores and checks which rows are there.
    fn expect(&self, target: &[&str], expected: &[i64]) -> Postgres {
        let target_text = target.concat();
        let name = format!(
            "to{}",
            target_text.replace(|c: char| !c.is_ascii_alphanumeric(), "-")
        );
        let pgdata = self.scenario.restore(&name, target);
        if pgdata.join("backup_manifest").exists() {
            verify_backup(&pgdata);
        }
        let server = self.scenario.start_restored(cache::DEBIAN_MAJOR, &pgdata);
        server.wait_until_recovered();
        let context = format!(
            "{target:?}
{}",
            server.log()
        );
        assert_rows(&self.log.rows(&server), expected, &context);
        server
    }

    fn five_random_instants(&self) {
        let last = self.history.last().expect("a transaction").time;
        let window = self.backed_up.as_microsecond()..last.as_microsecond();
        for _ in 0..5 {
            let micros = rand::random_range(window.clone());
            let instant = Timestamp::from_microsecond(micros).expect("a time");
            let target = timestamptz(instant);
            let expected = rows_at_time(&self.history, instant);
            let server = self.expect(&["--target-time", &target], &expected);
            check_every_page(server);
        }
    }
}

#[test]
fn five_random_instants_from_a_directory() {
    Lost::after_load(ArchiveKind::Directory).five_random_instants();
}

#[test]
fn five_random_instants_from_s3() {
    Lost::after_load(ArchiveKind::Garage).five_random_instants();
}

#[test]
fn every_other_kind_of_target() {
    let lost = Lost::after_load(ArchiveKind::Directory);
    let after_backup: Vec<&Transaction> = lost
        .history
        .iter()
        .filter(|end| end.time > lost.backed_up && end.row.is_some())
        .collect();
    let chosen = after_backup[after_backup.len() / 2];
    let with = rows_at_lsn(&lost.history, chosen.lsn);
    let without: Vec<i64> = with
        .iter()
        .copied()
        .filter(|&row| Some(row) != chosen.row)
        .collect();

    let (lsn, xid) = (chosen.lsn.to_string(), chosen.xid.to_string());
    lost.expect(&["--target-lsn", &lsn], &with);
    lost.expect(&["--target-lsn", &lsn, "--target-exclusive"], &without);
    lost.expect(
        &["--target-xid", &xid],
        &rows_at_xid(&lost.history, chosen.xid),
    );
    lost.expect(&["--target-xid", &xid, "--target-exclusive"], &without);
    lost.expect(&[], &lost.all);
}

/// PostgreSQL's own checks of what came back.
fn check_every_page(mut server: Postgres) {
    let mut amcheck = server.client("pg_amcheck");
    amcheck.args([
        "--install-missing",
        "--heapallindexed",
        "--database=postgres",
    ]);
    let _ = Outcome::of(amcheck).succeeded();
    server.stop(Shutdown::Fast);
    let mut checksums = server_command(cache::client_program("pg_checksums"));
    checksums.arg("--check").arg(server.data_directory());
    let _ = Outcome::of(checksums).succeeded();
}

fn verify_backup(pgdata: &Path) {
    let mut verify = server_command(cache::client_program("pg_verifybackup"));
    verify.arg("--no-parse-wal").arg(pgdata);
    let _ = Outcome::of(verify).succeeded();
}
