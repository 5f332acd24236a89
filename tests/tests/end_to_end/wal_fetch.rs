//! `wal-fetch` with its prefetch: what PostgreSQL asks for comes right, whatever becomes of the
//! helper that fetches ahead.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use walvault_tests::process::Process;
use walvault_tests::user::{give_to_server_user, write_as_server_user};
use walvault_tests::wait::wait_for;
use walvault_tests::{ArchiveKind, CommitLog, Outcome, Postgres, Scenario, test};

/// A server with segments of 1 MiB and an archive that holds many of them.
struct Archived {
    server: Postgres,
    scenario: Scenario,
    pg_wal: PathBuf,
}

impl Archived {
    fn new(kind: ArchiveKind, segments: usize) -> Archived {
        let server = Postgres::builder().segment_size(1).start();
        let scenario = Scenario::new(kind);
        let mut config = scenario.config(&server.url());
        config.set("restore", "retry_for", "1s");
        scenario.configure(&config);
        let daemon = scenario.run();
        daemon.wait_until_streaming(&server);
        let log = CommitLog::create(&server);
        for _ in 0..segments {
            let _ = log.commit(&server);
            server.switch_wal();
        }
        daemon.wait_until_archived(&server);
        assert!(daemon.stop().success());
        let pg_wal = scenario.path("pg_wal");
        fs::create_dir(&pg_wal).expect("a directory");
        give_to_server_user(&pg_wal);
        Archived {
            server,
            scenario,
            pg_wal,
        }
    }

    /// The name of the segment that is `back` before the one that is being written.
    fn segment(&self, back: u64) -> String {
        self.server.query(&format!(
            "SELECT pg_walfile_name(pg_current_wal_insert_lsn() - {back} * 1048576::numeric)"
        ))
    }

    fn segments(&self, count: u64) -> Vec<String> {
        (1..=count).rev().map(|back| self.segment(back)).collect()
    }

    /// Fetches as PostgreSQL does.
    fn fetch(&self, name: &str) -> Outcome {
        let path = self.pg_wal.join("RECOVERYXLOG");
        let _ = fs::remove_file(&path);
        let outcome = self.scenario.walvault(&["wal-fetch", name, text(&path)]);
        assert_eq!(path.exists(), outcome.code == Some(0), "{outcome}");
        outcome
    }

    fn expect(&self, name: &str) {
        let _ = self.fetch(name).succeeded();
        let found = fs::read(self.pg_wal.join("RECOVERYXLOG")).expect("the segment");
        let wal = self.server.data_directory().join("pg_wal").join(name);
        assert!(
            found == fs::read(wal).expect("the server's own segment"),
            "{name} differs"
        );
    }

    /// The directory of those in which segments wait: outside pg_wal, on its file system.
    fn sites(&self) -> PathBuf {
        self.scenario.path(".walvault")
    }

    /// What waits.
    fn waiting(&self) -> Vec<String> {
        let mut names = Vec::new();
        let sites = fs::read_dir(self.sites());
        for site in sites.into_iter().flatten().flatten() {
            let files = fs::read_dir(site.path()).into_iter().flatten().flatten();
            names.extend(files.map(|file| file.file_name().to_string_lossy().into_owned()));
        }
        names.retain(|name| name.len() == 24);
        names.sort();
        names
    }

    /// The helpers that serve this directory.
    fn helpers(&self) -> Vec<Pid> {
        walvault_tests::process::with_argument("wal-prefetch", &self.pg_wal)
    }
}

impl Drop for Archived {
    fn drop(&mut self) {
        for helper in self.helpers() {
            // One that ended in between is what was wanted.
            let _ = kill_process(helper, Signal::KILL);
        }
    }
}

#[test]
fn a_hole_is_an_error_unless_recovery_was_planned_to_end_there() {
    let archived = Archived::new(ArchiveKind::Directory, 6);
    let segments = archived.segments(4);
    let gone = &segments[1];
    let objects = archived.scenario.archive();
    for object in objects.files(&format!("wal/00000001/{gone}")) {
        fs::remove_file(object).expect("removed");
    }
    archived.expect(&segments[0]);
    let hole = archived.fetch(gone);
    assert_eq!(hole.code, Some(201), "{hole}");
    hole.failed_saying(&[gone, "WAL from"]);

    let start = u64::from_str_radix(&gone[16..], 16).expect("a number") << 20;
    let path = archived.pg_wal.join("RECOVERYXLOG");
    let fetch_to = |end: u64| {
        let end = format!("0/{end:X}");
        let arguments = ["wal-fetch", "--ends-at", &end, gone, text(&path)];
        archived.scenario.walvault(&arguments).code
    };
    assert_eq!(fetch_to(start), Some(1), "the plan ended there");
    assert_eq!(fetch_to(start + (2 << 20)), Some(201), "and not behind it");
}

/// Removes a directory that a helper may be writing into.
fn remove(dir: &Path) {
    wait_for("removal", || {
        fs::remove_dir_all(dir).is_ok() || !dir.exists()
    });
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[test]
fn a_helper_reads_ahead_and_ends_by_itself() {
    let archived = Archived::new(ArchiveKind::Garage, 20);
    let segments = archived.segments(20);
    archived.expect(&segments[0]);
    let helpers = archived.helpers();
    assert_eq!(helpers.len(), 1);
    for name in &segments[1..10] {
        wait_for("the next segment", || archived.waiting().contains(name));
        archived.expect(name);
        assert!(!archived.waiting().contains(name), "{name} was not taken");
        // pg_rewind fails when a file of its target vanishes.
        let entries = fs::read_dir(&archived.pg_wal).expect("pg_wal");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        assert!(names.eq(["RECOVERYXLOG"]), "pg_wal holds more");
    }
    // From somewhere else on, what waits is of no use any more.
    archived.expect(&segments[17]);
    wait_for("what follows", || archived.waiting() == segments[18..]);
    assert_eq!(archived.helpers(), helpers, "one helper for all");
    for name in &segments[18..] {
        archived.expect(name);
    }
    wait_for("the helper's end", || archived.helpers().is_empty());
    assert!(!archived.sites().exists());
}

#[test]
fn a_helper_that_is_killed_or_robbed_of_its_directory_is_replaced() {
    let archived = Archived::new(ArchiveKind::Directory, 8);
    let segments = archived.segments(8);
    archived.expect(&segments[0]);
    wait_for("the next segment", || {
        archived.waiting().contains(&segments[1])
    });
    let [helper] = archived.helpers()[..] else {
        panic!("one helper")
    };
    kill_process(helper, Signal::KILL).expect("killed");
    wait_for("its end", || archived.helpers().is_empty());
    // It may have died while it wrote.
    let site = fs::read_dir(archived.sites())
        .expect("sites")
        .next()
        .expect("a site")
        .expect("readable")
        .path();
    // A process that ends loses its command line before it lets its lock go.
    let lock = File::open(site.join("lock")).expect("a lock");
    wait_for("its lock", || {
        flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
    });
    drop(lock);
    fs::write(site.join(&segments[1]), b"half").expect("written");
    for name in &segments[1..4] {
        archived.expect(name);
    }
    remove(&archived.sites());
    for name in &segments[4..] {
        archived.expect(name);
    }
    remove(&archived.pg_wal);
    wait_for("the helper's end", || archived.helpers().is_empty());
}

#[test]
fn two_at_once_neither_fail_nor_hang() {
    let archived = Archived::new(ArchiveKind::Directory, 6);
    let segments = archived.segments(6);
    for name in &segments {
        let mut both: Vec<(PathBuf, Process)> = Vec::new();
        for side in ["RECOVERYXLOG", "another"] {
            let path = archived.pg_wal.join(side);
            let arguments = ["wal-fetch", name, text(&path)];
            let command = archived.scenario.command("walvault", &arguments);
            let log = archived.scenario.path(&format!("{side}.log"));
            both.push((path, Process::spawn(side, command, &log)));
        }
        let wal = archived.server.data_directory().join("pg_wal").join(name);
        let wal = fs::read(wal).expect("the server's own segment");
        for (path, process) in &mut both {
            assert!(process.wait_for_exit().success(), "{}", process.log());
            assert!(
                fs::read(&path).expect("the segment") == wal,
                "{name} differs"
            );
        }
    }
    assert_eq!(archived.helpers().len(), 1);
}

/// PostgreSQL ends recovery when it is told that a segment is absent, so only the archive's own word
/// may say so, helper or not.
#[test]
fn only_the_archive_says_what_is_absent() {
    let mut archived = Archived::new(ArchiveKind::Garage, 4);
    let segments = archived.segments(4);
    let (beyond, history) = ("0000000100000FFF000000FF", "00000002.history");
    archived.expect(&segments[0]);
    for name in [beyond, history, "000000010000000000000003.partial"] {
        for _ in 0..2 {
            assert_eq!(archived.fetch(name).code, Some(1), "{name}");
        }
    }
    assert_eq!(archived.helpers().len(), 1, "a standby that asks keeps it");

    let garage = archived.scenario.archive_mut().garage();
    garage.kill();
    for name in [beyond, history, &segments[0]] {
        assert_eq!(archived.fetch(name).code, Some(200), "{name}");
    }
    // A standby streams instead, and asks again. Whoever asks as pg_rewind does is no standby.
    let signal = archived.scenario.path("standby.signal");
    write_as_server_user(&signal, "");
    for name in [beyond, history, &segments[0]] {
        let outcome = archived.fetch(name);
        assert_eq!(outcome.code, Some(1), "{outcome}");
        assert!(outcome.stderr.contains("standby"), "{outcome}");
    }
    let path = archived.pg_wal.join(&segments[0]);
    let arguments = ["wal-fetch", &segments[0], text(&path)];
    assert_eq!(archived.scenario.walvault(&arguments).code, Some(200));
    fs::remove_file(signal).expect("removed");
    let garage = archived.scenario.archive_mut().garage();
    garage.restart();
    archived.expect(&segments[3]);

    // Another key file is another configuration: what an earlier helper could open is not served.
    let wrong = archived.scenario.generate_key("wrong.key");
    let mut config = archived.scenario.config(&archived.server.url());
    config.set("encryption", "key_file", wrong.display());
    archived.scenario.configure(&config);
    assert_eq!(archived.fetch(&segments[2]).code, Some(202));
}

/// PostgreSQL replaces its own segment with what is fetched (`KeepFileRestoredFromArchive`), and reads
/// its own where nothing is.
#[test]
fn what_the_server_has_beyond_the_archive_is_its_own() {
    let archived = Archived::new(ArchiveKind::Directory, 1);
    let server = &archived.server;
    let daemon = archived.scenario.run();
    daemon.wait_until_streaming(server);
    server.query("SELECT pg_logical_emit_message(true, '', repeat('x', 1000))");
    daemon.wait_until_archived(server);
    assert!(daemon.stop().success());
    let name = archived.segment(0);
    let own = archived.pg_wal.join(&name);
    let theirs = server.data_directory().join("pg_wal").join(&name);
    // As far as the archive goes, whatever is behind that in a segment that is used again.
    let _ = archived.fetch(&name).succeeded();
    fs::rename(archived.pg_wal.join("RECOVERYXLOG"), &own).expect("renamed");
    let as_archived = fs::read(&own).expect("a segment");
    let _ = archived.fetch(&name).succeeded();

    server.query("SELECT pg_logical_emit_message(true, '', repeat('x', 1000))");
    let further = fs::read(theirs).expect("the server's segment");
    assert!(further != as_archived);
    fs::write(&own, &further).expect("written");
    assert_eq!(archived.fetch(&name).code, Some(1));
    // What is not the same is no continuation of it.
    let mut other = further;
    other[50] ^= 1;
    fs::write(&own, &other).expect("written");
    let _ = archived.fetch(&name).succeeded();
}

/// A standby asks for the next segment until it is there.
#[test]
fn what_was_absent_is_found_once_it_is_archived() {
    let archived = Archived::new(ArchiveKind::Directory, 2);
    let current = archived.segment(0);
    archived.expect(&archived.segment(1));
    assert_eq!(archived.fetch(&current).code, Some(1));
    let daemon = archived.scenario.run();
    daemon.wait_until_streaming(&archived.server);
    archived.server.query("CREATE TABLE later()");
    daemon.wait_until_archived(&archived.server);
    let _ = archived.fetch(&current).succeeded();
    archived.server.switch_wal();
    daemon.wait_until_archived(&archived.server);
    archived.expect(&current);
}

/// `pg_rewind --restore-target-wal` asks for the segment's own name in pg_wal, and walks the data
/// directory meanwhile.
#[test]
fn whoever_is_no_server_starts_no_helper() {
    let archived = Archived::new(ArchiveKind::Directory, 2);
    for name in archived.segments(2) {
        let path = archived.pg_wal.join(&name);
        let arguments = ["wal-fetch", &name, text(&path)];
        let _ = archived.scenario.walvault(&arguments).succeeded();
        assert!(path.exists());
    }
    assert!(archived.helpers().is_empty());
    assert!(!archived.sites().exists());
}

/// What somebody else could have put there is not WAL of the archive.
#[test]
fn a_directory_that_others_can_write_to_is_not_used() {
    let archived = Archived::new(ArchiveKind::Directory, 3);
    let dir = archived.scenario.path("prefetch");
    fs::create_dir(&dir).expect("a directory");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("for all");
    let mut config = archived.scenario.config(&archived.server.url());
    config.set("restore", "prefetch_dir", dir.display());
    archived.scenario.configure(&config);
    for name in archived.segments(3) {
        let outcome = archived.fetch(&name).succeeded();
        assert!(outcome.stderr.contains("prefetch_dir"), "{outcome}");
    }
    assert!(archived.helpers().is_empty());
    assert_eq!(fs::read_dir(dir).expect("readable").count(), 0);
}

#[test]
fn without_a_prefetch_there_is_no_helper() {
    let archived = Archived::new(ArchiveKind::Directory, 2);
    let mut config = archived.scenario.config(&archived.server.url());
    config.set("restore", "prefetch", "0");
    archived.scenario.configure(&config);
    for name in archived.segments(2) {
        archived.expect(&name);
    }
    assert!(archived.helpers().is_empty());
    assert!(!archived.sites().exists());
}
