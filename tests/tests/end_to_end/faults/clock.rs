//! A clock that is set forward and back while everything runs by it.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use walvault_tests::commit_log::{Commit, assert_rows, rows_at_time};
use walvault_tests::time::timestamptz;
use walvault_tests::user::server_dir;
use walvault_tests::wait::wait_for;
use walvault_tests::{ArchiveKind, Clock, CommitLog, Postgres, Scenario, cache, test};

fn backups(scenario: &Scenario) -> Vec<Value> {
    let listed = scenario.walvault(&["list", "--json"]).succeeded();
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    listed["backups"].as_array().expect("backups").clone()
}

#[test]
fn a_clock_that_is_set_forward_and_back_doubles_and_loses_nothing() {
    let home = server_dir();
    // The archive's directory goes by this machine's clock, which is not this one.
    let noon: Timestamp = "2026-03-10T12:30:00Z".parse().expect("a time");
    let clock = Clock::new(&home.path().join("clock"), noon);
    let mut server = Postgres::builder()
        .environment(clock.environment())
        .setting("wal_keep_size", "1GB")
        .start();
    let mut scenario = Scenario::new(ArchiveKind::Directory);
    scenario.set_environment(clock.environment());
    let mut config = scenario.config(&server.url());
    config.set("backup", "schedule", "0 * * * *");
    scenario.configure(&config);
    let log = CommitLog::create(&server);
    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    wait_for("the first backup", || {
        daemon.log().contains("the base backup is complete")
    });
    let mut commits: Vec<Commit> = Vec::new();
    let commit_some = |commits: &mut Vec<Commit>| {
        commits.extend((0..4).map(|_| log.commit(&server)));
        daemon.wait_until_archived(&server);
    };
    commit_some(&mut commits);

    // Three runs were missed while the clock jumped: one makes up for them.
    clock.step(SignedDuration::from_hours(3));
    commit_some(&mut commits);
    wait_for("the backup that is due", || backups(&scenario).len() == 2);
    commit_some(&mut commits);

    // Hours that were had already are had again: nothing is due in them.
    clock.step(SignedDuration::from_hours(-4));
    commit_some(&mut commits);
    assert!(commits[12].time < commits[0].time, "{commits:?}");
    assert_eq!(backups(&scenario).len(), 2);
    // What the clock makes look old or new is not deleted by it.
    let prune = ["prune", "--keep-last", "1"];
    scenario.walvault(&prune).failed_saying(&["clock"]);
    assert!(daemon.stop().success());
    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    commits.push(log.commit(&server));
    daemon.wait_until_archived(&server);
    assert_eq!(backups(&scenario).len(), 2);

    // On again, beyond all that was: the next run is not lost.
    clock.step(SignedDuration::from_hours(5));
    commits.push(log.commit(&server));
    assert!(daemon.stop().success());
    let daemon = scenario.run();
    wait_for("the next backup", || backups(&scenario).len() == 3);
    commits.push(log.commit(&server));
    commits.push(log.commit(&server));
    daemon.wait_until_archived(&server);
    let listed = scenario.walvault(&["list", "--json"]).succeeded();
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!(listed["gaps"], serde_json::json!([]), "{listed}");

    // PostgreSQL stops at the first commit that is later than the target, wherever that is in WAL.
    let history = log.history(&server);
    let all = log.rows(&server);
    server.lose();
    assert!(daemon.stop().success());
    for (name, target) in [
        ("before-the-jump", commits[1].time),
        ("after-the-jump", commits[10].time),
        ("after-all", commits[commits.len() - 2].time),
    ] {
        let target_time = ["--target-time", &timestamptz(target)];
        let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, name, &target_time);
        assert_rows(
            &log.rows(&restored),
            &rows_at_time(&history, target),
            &format!("{name}\n{}", restored.log()),
        );
    }
    // By its clock this was before there was a backup: replay would stop before it began.
    scenario
        .try_restore(
            "in-an-hour-that-came-twice",
            &["--target-time", &timestamptz(commits[14].time)],
        )
        .failed_saying(&["is before the first backup"]);
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "end", &[]);
    assert_rows(&log.rows(&restored), &all, &restored.log());
}
