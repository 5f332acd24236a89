//! What fails a drill.

use super::*;
use walvault_tests::test;

#[test]
fn what_is_wrong_is_found_and_fails_the_drill() {
    let source = Source::new(ArchiveKind::Directory);
    let (server, scenario) = (&source.server, &source.scenario);
    // An index whose order is no longer that of its operators, as a changed collation makes it.
    server.query(
        "CREATE FUNCTION upwards(int4, int4) RETURNS int4 LANGUAGE sql IMMUTABLE AS \
         'SELECT CASE WHEN $1 = $2 THEN 0 WHEN $1 > $2 THEN 1 ELSE -1 END'",
    );
    server.query(
        "CREATE OPERATOR CLASS fickle FOR TYPE int4 USING btree AS \
         OPERATOR 1 < (int4, int4), OPERATOR 2 <= (int4, int4), OPERATOR 3 = (int4, int4), \
         OPERATOR 4 >= (int4, int4), OPERATOR 5 > (int4, int4), FUNCTION 1 upwards(int4, int4)",
    );
    server.query("CREATE TABLE numbers AS SELECT i FROM generate_series(1, 10000) i");
    server.query("CREATE INDEX fickle_index ON numbers (i fickle)");
    server.query(
        "CREATE OR REPLACE FUNCTION upwards(int4, int4) RETURNS int4 LANGUAGE sql IMMUTABLE AS \
         'SELECT CASE WHEN $1 = $2 THEN 0 WHEN $1 < $2 THEN 1 ELSE -1 END'",
    );
    let daemon = scenario.run_and_back_up(server);
    let _ = source.log.commit(server);
    daemon.wait_until_archived(server);
    assert!(daemon.stop().success());

    let mut config = source.config();
    let asserts = [
        assertion("wrong", "SELECT 41", "42"),
        assertion("writes", "DELETE FROM commits", ""),
        assertion("escapes", "ROLLBACK; DELETE FROM commits", ""),
        assertion("slow", "SELECT pg_sleep(60)", ""),
        assertion("unknown", "SELECT * FROM nowhere", ""),
    ];
    config
        .set_raw("drill", "assert", &format!("[{}]", asserts.join(", ")))
        .set_raw("drill", "amcheck", "true")
        .set("drill", "assert_timeout", "500ms");
    scenario.configure(&config);
    let outcome = source.drill(&["--json"]);
    outcome.failed_saying(&["the drill failed", "assert: wrong", "amcheck"]);
    assert_eq!(outcome.code, Some(1), "{outcome}");
    let failed = record(&outcome);
    for (name, said) in [
        ("assert: wrong", "41"),
        ("assert: writes", "not read-only"),
        ("assert: escapes", "not read-only"),
        ("assert: slow", "statement timeout"),
        ("assert: unknown", "nowhere"),
        ("amcheck", "fickle_index"),
    ] {
        let check = check(&failed, name);
        assert_eq!(check["outcome"], "failed", "{name}");
        let found = check["found"].as_str().expect("a text");
        assert!(found.contains(said), "{name}: {found}");
    }
    assert_eq!(check(&failed, "target")["outcome"], "passed");
    assert!(
        failed["stored"]["name"]
            .as_str()
            .expect("a name")
            .contains("-failed-")
    );
    assert_eq!(source.left(), Vec::<String>::new());

    // WAL that cannot be replayed: the target is not reached, and nothing is left running or lying.
    let wal = scenario.path("archive/tail/00000001");
    let mut chunks: Vec<PathBuf> = files_below(&wal);
    chunks.sort();
    let newest = chunks.last().expect("a chunk");
    let mut bytes = fs::read(newest).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(newest, bytes).expect("written");
    let outcome = source.drill(&["--json"]);
    outcome.failed_saying(&["the drill failed"]);
    assert_eq!(source.left(), Vec::<String>::new());
    let listed = json(&source.drill(&["--list", "--json"]).succeeded());
    assert_eq!(listed.as_array().expect("drills").len(), 2, "{listed:#}");
    let events = scenario.walvault(&["audit", "list", "--json"]).succeeded();
    assert!(events.stdout.contains("these checks failed"), "{events}");
}

fn files_below(root: &Path) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a directory").flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => files.push(path),
            }
        }
    }
    files
}
