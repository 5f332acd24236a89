//! What cannot be drilled, and drills that are broken off.

use super::*;
use walvault_tests::test;

#[test]
fn what_cannot_be_drilled_is_refused_and_what_is_broken_off_leaves_nothing() {
    let source = Source::new(ArchiveKind::Directory);
    let (server, scenario) = (&source.server, &source.scenario);
    let daemon = scenario.run_and_back_up(server);
    let _ = source.log.commit(server);
    daemon.wait_until_archived(server);
    assert!(daemon.stop().success());

    source
        .drill(&["key-loss"])
        .failed_saying(&["escrow_identities"]);
    source
        .drill(&["site-loss"])
        .failed_saying(&["archive.copy"]);
    source
        .drill(&["flood"])
        .failed_saying(&["flood", "site-loss"]);
    source
        .drill(&["--pg-bindir", "/nowhere"])
        .failed_saying(&["no PostgreSQL 15", "/nowhere"]);
    let other = cache::server_bin(17);
    source
        .drill(&["--pg-bindir", other.to_str().expect("a path")])
        .failed_saying(&["no PostgreSQL 15", "is 17"]);
    source
        .drill(&["data-corruption", "--target-time", "2020-01-01 00:00:00Z"])
        .failed_saying(&["2020-01-01"]);

    // Two at once: the second is told whom it waits for.
    let lock = source.scratch().join("lock");
    let held = File::options()
        .read(true)
        .write(true)
        .open(&lock)
        .expect("the lock");
    flock(&held, FlockOperation::LockExclusive).expect("locked");
    fs::write(&lock, "4711").expect("written");
    source.drill(&[]).failed_saying(&["another drill", "4711"]);
    drop(held);

    source
        .drill(&["--time-limit", "1ms"])
        .failed_saying(&["the drill was ended", "time_limit"]);
    assert_eq!(source.left(), Vec::<String>::new());

    // One that is killed leaves its server running; the next ends that and begins anew.
    let mut config = source.config();
    let slow = format!("[{}]", assertion("slow", "SELECT pg_sleep(600)", ""));
    config
        .set_raw("drill", "assert", &slow)
        .set("drill", "assert_timeout", "1h");
    scenario.configure(&config);
    let command = scenario.command("walvault", &["drill"]);
    let mut process = Process::spawn("walvault", command, &scenario.path("drill.log"));
    let server_pid = wait_until("the drill's server", || {
        let left = source.left();
        let lock = source
            .scratch()
            .join(left.first()?)
            .join("data/postmaster.pid");
        let lock = fs::read_to_string(lock).ok()?;
        let mut lines = lock.lines();
        let pid = lines.next()?.to_owned();
        (lines.nth(6)?.trim() == "ready").then_some(pid)
    });
    process.signal(rustix::process::Signal::KILL);
    process.wait_for_exit();
    // One that has ended and was not waited for yet has no command line.
    let runs = || {
        let line = fs::read(format!("/proc/{server_pid}/cmdline"));
        line.is_ok_and(|line| !line.is_empty())
    };
    assert!(runs(), "it outlives its drill");
    scenario.configure(&source.config());
    let _ = source.drilled(&[]);
    assert!(!runs(), "it is ended by the next");
    assert_eq!(source.left(), Vec::<String>::new());

    // One that is told to end stops its server itself.
    scenario.configure(&config);
    let command = scenario.command("walvault", &["drill"]);
    let mut process = Process::spawn("walvault", command, &scenario.path("drill.log"));
    wait_until("the drill's server", || {
        let left = source.left();
        let lock = source
            .scratch()
            .join(left.first()?)
            .join("data/postmaster.pid");
        fs::read_to_string(lock)
            .ok()?
            .contains("ready")
            .then_some(())
    });
    process.signal(rustix::process::Signal::TERM);
    process.wait_for_exit();
    assert!(
        process.log().contains("it was told to end"),
        "{}",
        process.log()
    );
    assert_eq!(source.left(), Vec::<String>::new());

    // What was asked to stay stays, and the next drill leaves it alone.
    scenario.configure(&source.config());
    let kept = source.drilled(&["--keep", "--target-immediate"]);
    assert_eq!(check(&kept, "target")["outcome"], "passed");
    assert_eq!(source.left().len(), 1);
    let _ = source.drilled(&[]);
    let left = source.left();
    assert_eq!(left.len(), 1);
    assert!(
        source
            .scratch()
            .join(&left[0])
            .join("data/PG_VERSION")
            .exists()
    );
}
