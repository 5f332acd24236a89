//! `pg_rewind` with `wal-fetch` as `restore_command`, as Patroni runs it.

use std::fs;
use std::path::Path;

use walvault_tests::user::server_command;
use walvault_tests::{ArchiveKind, CommitLog, Outcome, Postgres, Scenario, Shutdown, cache, test};

/// The names in `pg_wal`.
fn names(data: &Path) -> Vec<String> {
    let entries = fs::read_dir(data.join("pg_wal")).expect("pg_wal").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.collect()
}

/// The old primary has WAL that the new one does not share, and has removed what lies before it.
#[test]
fn an_old_primary_is_rewound_with_wal_of_the_archive() {
    let mut old = Postgres::builder()
        .segment_size(1)
        .setting("wal_log_hints", "on")
        .start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&old);
    let log = CommitLog::create(&old);
    let daemon = scenario.run();
    daemon.wait_until_streaming(&old);
    let mut new = old.standby();
    new.promote();
    let segment = "SELECT pg_walfile_name(pg_current_wal_insert_lsn())";
    let forked = old.query(segment);
    for _ in 0..5 {
        let _ = log.commit(&old);
        old.switch_wal();
    }
    let current = old.query(segment);
    daemon.wait_until_archived(&old);
    old.stop(Shutdown::Fast);
    assert!(daemon.stop().success());
    let kept = log.commit(&new);
    new.query("CHECKPOINT");

    let data = old.data_directory().to_owned();
    let is_archived = |name: &String| name.len() == 24 && *name < current;
    for name in names(&data).into_iter().filter(is_archived) {
        fs::remove_file(data.join("pg_wal").join(name)).expect("removed");
    }
    assert!(forked < current && !names(&data).contains(&forked));
    old.configure(&format!(
        "restore_command = '\"{}\" --config \"{}\" wal-fetch %f \"%p\"'",
        scenario.path("walvault").display(),
        scenario.path("walvault.toml").display()
    ));
    let mut rewind = server_command(cache::client_program("pg_rewind"));
    rewind
        .arg("--target-pgdata")
        .arg(&data)
        .arg("--source-server")
        .arg(new.url())
        .arg("--restore-target-wal");
    let _ = Outcome::of(rewind).succeeded();
    let odd: Vec<String> = names(&data)
        .into_iter()
        .filter(|name| name.contains("walvault"))
        .collect();
    assert!(odd.is_empty(), "{odd:?}");

    // It is the new one's state now.
    new.stop(Shutdown::Fast);
    old.start();
    old.wait_until_recovered();
    assert_eq!(log.rows(&old), [kept.id]);
}
