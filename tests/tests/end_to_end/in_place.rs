//! Tablespaces "in place": directories of the data directory, which `allow_in_place_tablespaces` allows.

use std::fs;

use walvault_tests::user::server_dir;
use walvault_tests::{ArchiveKind, Postgres, Scenario, cache, test};

/// `BASE_BACKUP` of PostgreSQL 15 leaves them out where links travel as `tablespace_map`; from 16 on each
/// is an archive of its own.
#[test]
fn a_tablespace_in_place_is_part_of_a_backup_as_others_are() {
    let majors = cache::installed_majors().into_iter();
    for major in majors.filter(|major| *major >= 15) {
        backed_up_and_restored(major);
    }
}

fn backed_up_and_restored(major: u32) {
    let mut server = Postgres::builder()
        .major(major)
        .setting("allow_in_place_tablespaces", "on")
        .start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let outside = server_dir();
    let place = outside.path().display().to_string();
    server.query("CREATE TABLESPACE inside LOCATION ''");
    server.query(&format!("CREATE TABLESPACE outside LOCATION '{place}'"));
    for name in ["inside", "outside"] {
        server.query(&format!(
            "CREATE TABLE t_{name} TABLESPACE {name} AS SELECT generate_series(1, 1000) AS n"
        ));
    }
    let daemon = scenario.run_and_back_up(&server);
    server.query("INSERT INTO t_inside SELECT generate_series(1001, 2000)");
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    let _ = scenario.walvault(&["verify"]).succeeded();

    let moved = scenario.path("elsewhere").display().to_string();
    let mapped = format!("{place}={moved}");
    let holds = |restored: &Postgres, location: &str| {
        let context = format!("PostgreSQL {major}, {}", restored.log());
        let sums = "SELECT (SELECT sum(n) FROM t_inside), (SELECT sum(n) FROM t_outside)";
        assert_eq!(restored.query(sums), "2001000|500500", "{context}");
        let at = "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'outside'";
        assert_eq!(restored.query(at), location, "{context}");
    };
    let pgdata = scenario.path("mapped");
    let into = pgdata.to_str().expect("UTF-8");
    let restore = ["restore", "--pgdata", into, "--tablespace-map", &mapped];
    let _ = scenario.walvault(&restore).succeeded();
    let restored = scenario.start_restored(major, &pgdata);
    restored.wait_until_recovered();
    holds(&restored, &moved);

    // Where it was, on the disk of a server that is lost.
    server.lose();
    for entry in fs::read_dir(&place).expect("a directory").flatten() {
        fs::remove_dir_all(entry.path()).expect("emptied");
    }
    let restored = scenario.restore_and_start(major, "restored", &[]);
    holds(&restored, &place);
}
