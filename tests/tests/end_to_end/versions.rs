//! Every major version of PostgreSQL, with segments of every size, into both kinds of store at once: streamed,
//! backed up with a tablespace, restored to an instant, and carried on on the next timeline.

use std::fs;
use std::path::Path;

use walvault_tests::commit_log::assert_rows;
use walvault_tests::time::timestamptz;
use walvault_tests::user::{give_to_server_user, server_dir};
use walvault_tests::{ArchiveKind, CommitLog, Postgres, Scenario, test};

/// Restores with the tablespace moved to a new place, starts a server there, and has it recovered.
fn restore(
    scenario: &Scenario,
    major: u32,
    name: &str,
    tablespace: &Path,
    target: &[&str],
) -> Postgres {
    let moved = scenario.path(&format!("{name}-elsewhere"));
    let mapped = format!("{}={}", tablespace.display(), moved.display());
    let pgdata = scenario.path(name);
    let into = pgdata.to_str().expect("UTF-8");
    let options = ["restore", "--pgdata", into, "--tablespace-map", &mapped];
    let _ = scenario
        .walvault(&[&options[..], target].concat())
        .succeeded();
    let server = scenario.start_restored(major, &pgdata);
    server.wait_until_recovered();
    let place = "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'elsewhere'";
    assert_eq!(server.query(place), moved.display().to_string());
    server
}

fn from_the_stream_to_the_next_timeline(major: u32, segment: u32) {
    let mut server = Postgres::builder()
        .major(major)
        .segment_size(segment)
        .start();
    let scenario = Scenario::new(ArchiveKind::Garage);
    let copy = scenario.path("copy");
    fs::create_dir(&copy).expect("a directory");
    give_to_server_user(&copy);
    let copy = format!("file://{}", copy.display());
    let in_both = |server: &Postgres| {
        let mut config = scenario.config(&server.url());
        config
            .set_raw("archive", "copy", &format!("[{{ url = \"{copy}\" }}]"))
            .set("archive", "ack", "all");
        scenario.configure(&config);
    };
    in_both(&server);
    let tablespace = server_dir();
    let place = tablespace.path().display();
    server.query(&format!("CREATE TABLESPACE elsewhere LOCATION '{place}'"));
    server.query("CREATE TABLE placed (n int) TABLESPACE elsewhere");
    server.query("INSERT INTO placed SELECT generate_series(1, 1000)");
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let first = log.commit(&server);
    server.query("INSERT INTO placed SELECT generate_series(1001, 2000)");
    server.switch_wal();
    let wanted = log.commit(&server);
    server.query("DELETE FROM placed");
    let late = log.commit(&server);
    daemon.wait_until_archived(&server);
    server.lose();
    assert!(daemon.stop().success());

    // From the one place alone, to an instant.
    scenario.configure(&scenario.config("postgresql:///postgres"));
    let time = timestamptz(wanted.time);
    let target = ["--target-time", &time, "--target-action", "promote"];
    let mut second = restore(&scenario, major, "instant", tablespace.path(), &target);
    let context = format!("PostgreSQL {major}, {}", second.log());
    assert_rows(&log.rows(&second), &[first.id, wanted.id], &context);
    assert_eq!(
        second.query("SELECT count(*), sum(n) FROM placed"),
        "2000|2001000"
    );

    // It goes on where it was restored to, on its own timeline, in the same archive.
    in_both(&second);
    let daemon = scenario.run();
    daemon.wait_until_streaming(&second);
    let after = log.commit(&second);
    second.switch_wal();
    let last = log.commit(&second);
    daemon.wait_until_archived(&second);
    second.lose();
    assert!(daemon.stop().success());

    // From the other place alone, to the end of each timeline.
    let mut config = scenario.config("postgresql:///postgres");
    config.set("archive", "url", &copy);
    scenario.configure(&config);
    let of_the_first = ["--target-timeline", "1"];
    for (name, target, expected) in [
        ("end", &[][..], vec![first.id, wanted.id, after.id, last.id]),
        (
            "left",
            &of_the_first[..],
            vec![first.id, wanted.id, late.id],
        ),
    ] {
        let restored = restore(&scenario, major, name, tablespace.path(), target);
        let context = format!("PostgreSQL {major}, {name}, {}", restored.log());
        assert_rows(&log.rows(&restored), &expected, &context);
    }
}

#[test]
fn postgresql_13_with_segments_of_1_mib() {
    from_the_stream_to_the_next_timeline(13, 1);
}

#[test]
fn postgresql_14_with_segments_of_16_mib() {
    from_the_stream_to_the_next_timeline(14, 16);
}

#[test]
fn postgresql_15_with_segments_of_64_mib() {
    from_the_stream_to_the_next_timeline(15, 64);
}

#[test]
fn postgresql_16_with_segments_of_4_mib() {
    from_the_stream_to_the_next_timeline(16, 4);
}

#[test]
fn postgresql_17_with_segments_of_16_mib() {
    from_the_stream_to_the_next_timeline(17, 16);
}

#[test]
fn postgresql_18_with_segments_of_32_mib() {
    from_the_stream_to_the_next_timeline(18, 32);
}
