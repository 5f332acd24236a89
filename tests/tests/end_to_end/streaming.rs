//! What is stored when, and what commits wait for.

use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
use walvault_protocol::Lsn;
use walvault_tests::commit_log::assert_rows;
use walvault_tests::process::Process;
use walvault_tests::wait::wait_for;
use walvault_tests::{
    ArchiveKind, CommitLog, Outcome, Positions, Postgres, Scenario, Shutdown, Walvaultd, cache,
    test, wait_until,
};

/// What takes no longer than this did not wait for `max_delay`, which is an hour where it matters,
/// nor for a time limit of PostgreSQL's, the shortest of which are 60 s.
const PROMPTLY: Duration = Duration::from_secs(15);

#[test]
fn an_idle_database_causes_no_put() {
    // Asks for an answer every second.
    let server = Postgres::builder()
        .setting("wal_sender_timeout", "2s")
        .setting("checkpoint_timeout", "1d")
        .setting("autovacuum", "off")
        .start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    let mut config = scenario.config(&server.url());
    // What came before is told of at the full hour, which may fall into this.
    config.set("objectives", "sample_every", "24h");
    scenario.configure(&config);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let _ = log.commit(&server);
    // The background writer may have something to say yet: idle is when no WAL came about.
    wait_for("three answers without any WAL between them", || {
        let flushed = daemon.wait_until_archived(&server);
        let before = snapshot(&scenario);
        for _ in 0..3 {
            let last = reply_time(&server);
            wait_for("an answer", || reply_time(&server) != last);
        }
        let after = snapshot(&scenario);
        let idle = server.flushed() == flushed;
        if idle {
            assert_eq!(before, after);
        }
        idle
    });
}

#[test]
fn chunks_give_way_to_their_segment() {
    let server = Postgres::builder().setting("wal_keep_size", "1GB").start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let commit = log.commit(&server);
    let segment: String = server.value(&format!("SELECT pg_walfile_name('{}')", commit.begin));
    daemon.wait_until_archived(&server);
    let chunks = format!("tail/00000001/{segment}/");
    let whole = format!("wal/00000001/{segment}");
    assert!(!scenario.archive().files(&chunks).is_empty());
    assert!(scenario.archive().files(&whole).is_empty());
    current_segment_is_archived(&scenario, &server, &daemon);

    server.switch_wal();
    let _ = log.commit(&server);
    daemon.wait_until_archived(&server);
    wait_for("the chunks' removal", || {
        scenario.archive().files(&chunks).is_empty()
    });
    assert_eq!(scenario.archive().files(&whole).len(), 1);
    assert!(fetch(&scenario, &segment) == on_server(&server, &segment));
    current_segment_is_archived(&scenario, &server, &daemon);
}

/// What a reader of the newest segment has to read, however many commits waited for the archive.
#[test]
fn a_segment_of_many_waiting_commits_is_a_few_dozen_objects() {
    const COMMITS: usize = 1500;
    const MOST: usize = 64;
    let mut server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let mut daemon = scenario.run_and_back_up(&server);
    commit_synchronously(&server);
    let segment = |server: &Postgres| -> String {
        server.value("SELECT pg_walfile_name(pg_current_wal_lsn())")
    };
    let _ = log.commit(&server);
    let begun_in = segment(&server);
    let chunks = format!("tail/00000001/{begun_in}/");
    let mut most = 0;
    let load = log.counted_load(&server, 4);
    for part in 1..=3 {
        wait_for("commits", || {
            most = most.max(scenario.archive().files(&chunks).len());
            load.acknowledged().len() >= COMMITS * part / 3
        });
        daemon.kill();
        daemon = scenario.run();
    }
    assert_eq!(segment(&server), begun_in, "the commits fit into a segment");
    assert!((12..=MOST).contains(&most), "{most} chunks at a time");
    daemon.wait_until_streaming(&server);
    let known = load.acknowledged().len();
    wait_for("acknowledged commits", || {
        load.acknowledged().len() > known + 100
    });
    server.lose();
    daemon.kill();
    let acknowledged = load.acknowledged();
    drop(load);

    // A kill may leave chunks beside the longer one that they went into; nobody reads those.
    let left = not_held_by_longer(&scenario.archive().files(&chunks));
    assert!(left <= MOST, "{left} chunks");
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    let mut rows = log.rows(&restored);
    rows.retain(|row| acknowledged.contains(row));
    assert_rows(&rows, &acknowledged, &restored.log());
}

/// How many of these chunks no longer one holds. A chunk's name is its end and its length; a file
/// that a kill left unfinished has neither.
fn not_held_by_longer(chunks: &[PathBuf]) -> usize {
    let hex = |digits: &str| u64::from_str_radix(digits, 16).expect("hexadecimal digits");
    let range = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(".tmp-") {
            return None;
        }
        let (end, length) = name.split_once('-').expect("an end and a length");
        Some(hex(end) - hex(length)..hex(end))
    };
    let ranges: Vec<Range<u64>> = chunks.iter().filter_map(range).collect();
    let holds = |longer: &Range<u64>, one: &Range<u64>| {
        longer != one && longer.start <= one.start && one.end <= longer.end
    };
    let read = |one: &&Range<u64>| !ranges.iter().any(|longer| holds(longer, one));
    ranges.iter().filter(read).count()
}

/// The segment that is being written comes back as far as it is flushed, with zeros after that.
fn current_segment_is_archived(scenario: &Scenario, server: &Postgres, daemon: &Walvaultd) {
    wait_for("a moment without new WAL", || {
        let flushed = daemon.wait_until_archived(server);
        let name: String = server.value(&format!("SELECT pg_walfile_name('{flushed}')"));
        let (fetched, theirs) = (fetch(scenario, &name), on_server(server, &name));
        if server.flushed() != flushed {
            return false;
        }
        assert_eq!(fetched.len(), theirs.len());
        let end = usize::try_from(flushed.0).expect("64 bits") % theirs.len();
        assert!(fetched[..end] == theirs[..end], "{name} differs");
        assert!(fetched[end..].iter().all(|&byte| byte == 0), "{name}");
        true
    });
}

#[test]
fn a_commit_waits_for_a_sidecar_that_hangs() {
    let server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    commit_synchronously(&server);
    let _ = log.commit(&server);

    signal(&daemon, Signal::STOP);
    let mut waiting = commit(&scenario, &server, "on");
    wait_for("a commit that waits", || waiting_commits(&server) == 1);
    let mut local = commit(&scenario, &server, "local");
    assert!(local.wait_for_exit().success(), "{}", local.log());
    assert!(waiting.is_running());
    signal(&daemon, Signal::CONT);
    assert!(waiting.wait_for_exit().success(), "{}", waiting.log());
    assert_eq!(log.rows(&server).len(), 3);
}

/// A backup brings its own WAL where nobody streams, from its beginning on: what lies before that it does not
/// have.
#[test]
fn a_backup_does_not_answer_for_commits() {
    let server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let _ = CommitLog::create(&server);
    server.query("ALTER SYSTEM SET synchronous_standby_names = 'walvault'");
    server.query("SELECT pg_reload_conf()");
    let mut committing = commit(&scenario, &server, "on");
    wait_for("the commit to wait", || waiting_commits(&server) == 1);
    let _ = scenario.walvaultd(&["backup"]).succeeded();
    assert_eq!(waiting_commits(&server), 1);
    let daemon = scenario.run();
    assert!(committing.wait_for_exit().success(), "{}", committing.log());
    assert!(daemon.stop().success());
}

#[test]
fn what_a_commit_waits_for_is_its_own_choice() {
    let server = Postgres::start_new();
    let mut scenario = Scenario::new(ArchiveKind::Garage);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    commit_synchronously(&server);
    let _ = log.commit(&server);

    scenario.archive_mut().garage().kill();
    let mut durable = commit(&scenario, &server, "on");
    wait_for("a commit that waits", || waiting_commits(&server) == 1);
    let mut received = commit(&scenario, &server, "remote_write");
    assert!(received.wait_for_exit().success(), "{}", received.log());
    assert!(durable.is_running());
    assert_eq!(waiting_commits(&server), 1);

    scenario.archive_mut().garage().restart();
    assert!(durable.wait_for_exit().success(), "{}", durable.log());
    daemon.wait_until_archived(&server);
    assert_eq!(log.rows(&server).len(), 3);
}

#[test]
fn max_delay_does_not_hold_up_commits_that_wait() {
    let server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    patient(&scenario, &server);
    let log = CommitLog::create(&server);
    let _daemon = scenario.run_and_back_up(&server);
    commit_synchronously(&server);
    // What was written before walvaultd knew may take a moment.
    let _ = log.commit(&server);
    let begun = Instant::now();
    for _ in 0..20 {
        let _ = log.commit(&server);
    }
    assert!(begun.elapsed() < PROMPTLY, "{:?}", begun.elapsed());
}

#[test]
fn sigterm_under_load_leaves_promptly_with_everything_stored() {
    let server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    patient(&scenario, &server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let _load = log.load(&server, 4);
    log.wait_for_rows(&server, 500);
    let begun = Instant::now();
    assert!(daemon.stop().success());
    assert!(begun.elapsed() < PROMPTLY, "{:?}", begun.elapsed());
    let said = fs::read_to_string(scenario.path("walvaultd.log")).expect("its log");
    let last = said.lines().last().expect("a line");
    let last: serde_json::Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(last["message"], "stopped", "{last}");
    assert_eq!(last["archived_to"], last["received_to"], "{last}");
    let slot = "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'walvault'";
    let kept: Lsn = server.value(slot);
    assert_eq!(
        Some(kept.to_string().as_str()),
        last["archived_to"].as_str()
    );
}

#[test]
fn killed_at_random_under_load_no_acknowledged_commit_is_lost() {
    let mut server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let mut daemon = scenario.run_and_back_up(&server);
    commit_synchronously(&server);
    let load = log.counted_load(&server, 4);
    for _ in 0..6 {
        let known = load.acknowledged().len();
        wait_for("acknowledged commits", || {
            load.acknowledged().len() > known + 20
        });
        thread::sleep(Duration::from_millis(rand::random_range(0..300)));
        daemon.kill();
        daemon = scenario.run();
    }
    daemon.wait_until_streaming(&server);
    let known = load.acknowledged().len();
    wait_for("acknowledged commits", || {
        load.acknowledged().len() > known + 20
    });
    server.lose();
    daemon.kill();
    let acknowledged = load.acknowledged();
    drop(load);

    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    let mut rows = log.rows(&restored);
    rows.retain(|row| acknowledged.contains(row));
    assert_rows(&rows, &acknowledged, &restored.log());
}

#[test]
fn a_sidecar_that_resumes_where_a_segment_begins_is_synchronous_at_once() {
    let server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    patient(&scenario, &server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    commit_synchronously(&server);
    let _ = log.commit(&server);
    server.switch_wal();
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());

    // Nothing is written meanwhile.
    let _daemon = scenario.run();
    wait_for("synchronous replication", || {
        server.query("SELECT sync_state FROM pg_stat_replication") == "sync"
    });
    let mut committing = commit(&scenario, &server, "on");
    assert!(committing.wait_for_exit().success(), "{}", committing.log());
}

#[test]
fn a_fast_shutdown_is_not_held_up_and_loses_nothing() {
    a_shutdown_is_not_held_up(Postgres::start_new(), Shutdown::Fast);
}

#[test]
fn a_smart_shutdown_of_postgresql_13_is_not_held_up_and_loses_nothing() {
    let server = Postgres::builder().major(13).start();
    a_shutdown_is_not_held_up(server, Shutdown::Smart);
}

#[test]
fn a_smart_shutdown_of_postgresql_18_is_not_held_up_and_loses_nothing() {
    let server = Postgres::builder().major(18).start();
    a_shutdown_is_not_held_up(server, Shutdown::Smart);
}

fn a_shutdown_is_not_held_up(mut server: Postgres, how: Shutdown) {
    let major = server.major();
    let scenario = Scenario::new(ArchiveKind::Directory);
    patient(&scenario, &server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let load = log.load(&server, 2);
    log.wait_for_rows(&server, 300);
    drop(load);
    let _ = log.commit(&server);
    let rows = log.rows(&server);
    let flushed = server.flushed();
    assert!(server.archived() < Some(flushed), "nothing was pending");
    let begun = Instant::now();
    server.stop(how);
    assert!(begun.elapsed() < PROMPTLY, "{:?}", begun.elapsed());
    daemon.kill();
    server.lose();

    let restored = scenario.restore_and_start(major, "restored", &[]);
    assert_rows(&log.rows(&restored), &rows, &restored.log());
}

/// `synchronized_standby_slots` (manual, "Replication"): no subscriber is ahead of the archive.
#[test]
fn a_logical_subscriber_of_postgresql_17_gets_what_is_archived() {
    let server = Postgres::builder()
        .major(17)
        .setting("wal_level", "logical")
        .setting("synchronized_standby_slots", "walvault")
        .start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    server.query("CREATE PUBLICATION everything FOR ALL TABLES");
    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    server.query(
        "SELECT pg_create_logical_replication_slot('subscriber', 'pgoutput', false, false, true)",
    );
    let changes = "SELECT count(*) FROM pg_logical_slot_get_binary_changes('subscriber', NULL, NULL, \
                   'proto_version', '1', 'publication_names', 'everything')";
    let get = |timeout: &str| {
        let limit = format!("SET statement_timeout = '{timeout}'");
        Outcome::of(server.psql(&["-c", &limit, "-c", changes]))
    };
    assert!(daemon.stop().success());
    let _ = log.commit(&server);
    get("3s").failed_saying(&["statement timeout"]);

    let daemon = scenario.run();
    daemon.wait_until_archived(&server);
    let got = get("60s").succeeded();
    let got = got
        .stdout
        .lines()
        .last()
        .and_then(|line| line.parse::<u32>().ok());
    assert!(got > Some(0), "{got:?}");
}

/// A server with segments of this size, which it keeps to be compared with.
fn server_with_segments_of(mebibytes: u32) -> Postgres {
    Postgres::builder()
        .segment_size(mebibytes)
        .setting("wal_keep_size", "1GB")
        .setting("max_wal_size", "1GB")
        .start()
}

fn streams_segments_of(mebibytes: u32, segments: usize) {
    let mut server = server_with_segments_of(mebibytes);
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let mut names = Vec::new();
    for _ in 0..segments {
        let commit = log.commit(&server);
        names.push(server.query(&format!("SELECT pg_walfile_name('{}')", commit.begin)));
        // More than one piece of a large segment, and several small ones.
        server.query("CREATE TABLE filler AS SELECT repeat(md5(i::text), 8) FROM generate_series(1, 90000) i");
        server.query("DROP TABLE filler");
        server.switch_wal();
    }
    let _ = log.commit(&server);
    let rows = log.rows(&server);
    daemon.wait_until_archived(&server);
    for name in &names {
        assert!(fetch(&scenario, name) == on_server(&server, name), "{name}");
    }
    let pieces = scenario.archive().files("wal/00000001/");
    let of_a_segment = |name: &str| {
        let piece = |file: &&PathBuf| file.to_string_lossy().contains(name);
        pieces.iter().filter(piece).count()
    };
    let expected = usize::try_from(mebibytes.div_ceil(16)).expect("a few");
    assert_eq!(of_a_segment(&names[0]), expected, "{pieces:?}");
    server.lose();
    daemon.kill();
    let restored = scenario.restore_and_start(cache::DEBIAN_MAJOR, "restored", &[]);
    assert_rows(&log.rows(&restored), &rows, &restored.log());
}

#[test]
fn streams_segments_of_1_mib() {
    streams_segments_of(1, 3);
}

#[test]
fn streams_segments_of_64_mib_in_pieces() {
    streams_segments_of(64, 2);
}

/// What was unused of a large segment is not told from damage by itself.
#[test]
fn resumes_in_the_unused_rest_of_a_segment() {
    let server = server_with_segments_of(64);
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let commit = log.commit(&server);
    let name = server.query(&format!("SELECT pg_walfile_name('{}')", commit.begin));
    server.switch_wal();
    let _ = log.commit(&server);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    let mut kept = 0;
    for object in scenario.archive().files("wal/00000001/") {
        let object_name = object.to_string_lossy();
        let unit = object_name.rsplit('/').next().unwrap_or_default();
        if unit < name.as_str() || unit.starts_with(&name) && kept == 0 {
            kept += u32::from(unit.starts_with(&name));
        } else {
            fs::remove_file(&object).expect("removed");
        }
    }
    assert_eq!(kept, 1);
    for chunk in scenario.archive().files("tail/00000001/") {
        fs::remove_file(&chunk).expect("removed");
    }

    let daemon = scenario.run();
    daemon.wait_until_archived(&server);
    wait_for("the rest of the segment", || {
        let units = scenario.archive().files("wal/00000001/");
        units
            .iter()
            .filter(|unit| unit.to_string_lossy().contains(&name))
            .count()
            == 4
    });
    assert!(fetch(&scenario, &name) == on_server(&server, &name));
}

/// Left alone, the tail waits for an hour.
fn patient(scenario: &Scenario, server: &Postgres) {
    let mut config = scenario.config(&server.url());
    config.set("wal", "max_delay", "1h");
    scenario.configure(&config);
}

fn commit_synchronously(server: &Postgres) {
    server.query("ALTER SYSTEM SET synchronous_standby_names = 'walvault'");
    server.query("SELECT pg_reload_conf()");
    wait_for("synchronous replication", || {
        server.query("SELECT sync_state FROM pg_stat_replication") == "sync"
    });
}

/// Begins to commit a row, waiting for what `synchronous_commit` says.
fn commit(scenario: &Scenario, server: &Postgres, waiting_for: &str) -> Process {
    let set = format!("SET synchronous_commit = {waiting_for}");
    let insert = "INSERT INTO commits DEFAULT VALUES";
    let log = scenario.path(&format!("commit-{waiting_for}.log"));
    Process::spawn("psql", server.psql(&["-c", &set, "-c", insert]), &log)
}

fn waiting_commits(server: &Postgres) -> u32 {
    server.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
}

fn reply_time(server: &Postgres) -> String {
    server.query("SELECT reply_time FROM pg_stat_replication")
}

fn signal(daemon: &Walvaultd, signal: Signal) {
    let pid = i32::try_from(daemon.pid()).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a process id"), signal).expect("a signal");
}

fn snapshot(scenario: &Scenario) -> Vec<(PathBuf, SystemTime)> {
    let modified = |file: &PathBuf| fs::metadata(file).and_then(|meta| meta.modified());
    let files = scenario.archive().files("").into_iter();
    files
        .filter_map(|file| modified(&file).ok().map(|at| (file, at)))
        .collect()
}

fn fetch(scenario: &Scenario, segment: &str) -> Vec<u8> {
    let into = scenario.path("fetched");
    let _ = fs::remove_file(&into);
    let path = into.to_str().expect("UTF-8");
    let _ = scenario.walvault(&["wal-fetch", segment, path]).succeeded();
    fs::read(&into).expect("the segment")
}

fn on_server(server: &Postgres, segment: &str) -> Vec<u8> {
    let path = server.data_directory().join("pg_wal").join(segment);
    wait_until("the segment", || fs::read(&path).ok())
}
