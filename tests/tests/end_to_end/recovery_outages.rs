//! Recovery while the store cannot be reached: a standby goes on, and a restore waits to be started again.

use std::path::Path;

use walvault_tests::wait::wait_for;
use walvault_tests::{ArchiveKind, CommitLog, Postgres, Scenario, cache, test};

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// PostgreSQL asks the archive first whenever its stream breaks, and once more when it is promoted.
#[test]
fn a_standby_follows_and_is_promoted_while_the_archive_is_away() {
    follow_and_promote_without_an_archive(Postgres::start_new());
}

/// As the first; a timeline that came from another has a history, which PostgreSQL asks for.
#[test]
fn a_standby_of_a_promoted_server_is_promoted_while_the_archive_is_away() {
    let first = Postgres::start_new();
    let second = first.standby();
    second.promote();
    follow_and_promote_without_an_archive(second);
}

fn follow_and_promote_without_an_archive(mut server: Postgres) {
    let mut scenario = Scenario::new(ArchiveKind::Garage);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    server.query("SELECT pg_create_physical_replication_slot('standby')");
    let (pgdata, url) = (scenario.path("standby"), server.url());
    let options = ["restore", "--pgdata", text(&pgdata), "--standby"];
    let upstream = ["--primary-conninfo", &url, "--primary-slot-name", "standby"];
    let _ = scenario
        .walvault(&[&options[..], &upstream].concat())
        .succeeded();
    let standby = scenario.start_restored(server.major(), &pgdata);
    let active = "SELECT active FROM pg_replication_slots WHERE slot_name = 'standby'";
    wait_for("the standby's stream", || server.query(active) == "t");
    let before = log.commit(&server);

    scenario.archive_mut().garage().kill();
    daemon.kill();
    server.kill();
    server.start();
    let after = log.commit(&server);
    wait_for("the row that was streamed after the restart", || {
        log.rows(&standby) == [before.id, after.id]
    });

    server.lose();
    standby.promote();
    let own = log.commit(&standby);
    assert_eq!(log.rows(&standby), [before.id, after.id, own.id]);
}

/// To a server that is no standby, "not there" is the end of recovery: it would be a primary that lacks
/// what is archived.
#[test]
fn a_recovery_stops_while_the_archive_is_away_and_goes_on_afterwards() {
    let mut server = Postgres::start_new();
    let mut scenario = Scenario::new(ArchiveKind::Garage);
    let mut config = scenario.config(&server.url());
    scenario.configure(config.set("restore", "retry_for", "1s"));
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let rows = [
        log.commit(&server),
        log.commit(&server),
        log.commit(&server),
    ];
    daemon.wait_until_archived(&server);
    server.lose();
    daemon.kill();
    let time = walvault_tests::time::timestamptz(rows[1].time);
    let promote = ["--target-action", "promote"];
    let targets: [(&str, &[&str]); 2] = [("end", &[]), ("time", &["--target-time", &time])];
    for (name, target) in targets {
        let target = match target.is_empty() {
            true => Vec::new(),
            false => [target, &promote].concat(),
        };
        let pgdata = scenario.restore(name, &target);
        scenario.archive_mut().garage().kill();
        let environment = scenario.archive().environment();
        let refused = Postgres::start_on(cache::DEBIAN_MAJOR, &pgdata, environment);
        let refused = refused.map(drop).expect_err("it ended recovery early");
        assert!(refused.contains("could not restore file"), "{refused}");
        assert!(pgdata.join("recovery.signal").exists(), "{refused}");

        scenario.archive_mut().garage().restart();
        let restored = scenario.start_restored(cache::DEBIAN_MAJOR, &pgdata);
        restored.wait_until_recovered();
        let expected = match name {
            "end" => rows.each_ref().map(|row| row.id).to_vec(),
            _ => vec![rows[0].id, rows[1].id],
        };
        assert_eq!(log.rows(&restored), expected, "{name}");
    }
}
