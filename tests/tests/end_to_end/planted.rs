//! Objects that no walvault wrote, or that rotted: one object stops nothing.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use walvault_tests::user::{give_to_server_user, write_as_server_user};
use walvault_tests::{Archived, Scenario, cache, test};

/// Names below the prefix that no walvault gives, or whose numbers and times lie far from those that
/// it gave. `ID` is a backup that is there, and `KEY` a data key.
const NAMES: &[&str] = &[
    // Timelines that no server was promoted to.
    "wal/FFFFFFFF/FFFFFFFF0000000000000001",
    "wal/000000FE/000000FE0000000000000005",
    "wal/000000FF.history",
    "wal/FFFFFFFF.history",
    // The last segments of the address space, and some beyond it, of both sizes that tests use.
    "wal/00000001/00000001FFFFFFFE00000001",
    "wal/00000001/00000001FFFFFFFF00000FFF",
    "wal/00000001/00000001FFFFFFFF000000FF",
    "wal/00000001/00000001FFFFFFFFFFFFFFFF",
    "tail/00000001/00000001FFFFFFFE00000002/FFFFFFFE00200400-00000400",
    "tail/00000001/00000001FFFFFFFF000000FF/FFFFFFFFFFFFFFFF-00FFFFFF",
    "tail/FFFFFFFF/FFFFFFFFFFFFFFFF00000FFF/FFFFFFFFFFFFFFFF-000FFFFF",
    "gaps/00000001/0000000000000000-FFFFFFFFFFFFFFFF",
    "gaps/FFFFFFFF/FFFFFFFE00000000-FFFFFFFE00100000",
    // Numbers far above their series, and such as no number is.
    "writers/18446744073709551615",
    "writers/9999999999999999",
    "writers/99999999",
    "keys/KEY/99999999",
    "keys/KEY/4294967295",
    "audit/000102030405060708090a0b0c0d0e0f/99999999",
    "audit/000102030405060708090a0b0c0d0e0f/4294967295",
    "pruned/99999999",
    "pruned/4294967295",
    "verified/99999999",
    "verified/4294967295",
    "locks/upkeep/4294967295",
    "backups/ID/part-99999999",
    "backups/ID/part-4294967295",
    "backups/ID/keep/99999999",
    "backups/ID/keep/4294967295",
    // Backups of the future, and such as none is.
    "backups/20990101T000000Z-ffff/record",
    "backups/99991231T235959Z-ffff/record",
    "backups/99999999T999999Z-ffff/record",
    "backups/zzz/files",
];

fn json(scenario: &Scenario, arguments: &[&str]) -> Value {
    let outcome = scenario.walvault(arguments).succeeded();
    serde_json::from_str(&outcome.stdout).expect("one JSON object")
}

fn backups(listing: &Value) -> Vec<String> {
    let backups = listing["backups"].as_array().expect("backups").iter();
    let id = |backup: &Value| backup["id"].as_str().expect("an ID").to_owned();
    backups.map(id).collect()
}

/// Names of the objects that are listed as unreadable.
fn unreadable(listing: &Value) -> Vec<&str> {
    let unreadable = listing["unreadable"].as_array().expect("an array");
    unreadable
        .iter()
        .map(|one| one["object"].as_str().expect("a name"))
        .collect()
}

/// Puts an object of this name and content into a directory.
fn plant(scenario: &Scenario, name: &str, content: &[u8]) -> PathBuf {
    let path = scenario.path("archive").join(name);
    let missing: Vec<_> = path
        .ancestors()
        .skip(1)
        .take_while(|dir| !dir.exists())
        .collect();
    for directory in missing.into_iter().rev() {
        fs::create_dir(directory).expect("a directory");
        give_to_server_user(directory);
    }
    write_as_server_user(&path, content);
    path
}

fn configure_drills(archived: &Archived) {
    let scenario = archived.scenario();
    let mut config = scenario.config(&archived.server().url());
    config
        .set("backup", "part_size", "1MiB")
        .set("drill", "scratch", scenario.path("scratch").display())
        .set(
            "drill",
            "bin_dir",
            cache::server_bin(archived.server().major()).display(),
        )
        .set_raw("drill", "amcheck", "false")
        .set_raw("drill", "page_checksums", "false");
    scenario.configure(&config);
}

#[test]
fn names_that_nobody_gave_stop_nothing() {
    let archived = Archived::create();
    let (server, scenario) = (archived.server(), archived.scenario());
    configure_drills(&archived);
    let before = json(scenario, &["list", "--json"]);
    let id = &backups(&before)[0];
    let key = before["backups"][0]["keys"][0]
        .as_str()
        .expect("a data key");
    let rows = server.query("SELECT count(*) FROM commits");
    for name in NAMES {
        let name = name.replace("ID", id).replace("KEY", key);
        plant(scenario, &name, b"nothing that walvault wrote");
    }

    let listing = json(scenario, &["list", "--json"]);
    assert_eq!(backups(&listing), std::slice::from_ref(id));
    assert_eq!(listing["windows"][0]["backup"], id.as_str());
    assert_eq!(listing["tail"]["timeline"], 1);
    let unreadable = unreadable(&listing);
    for name in [
        "backups/20990101T000000Z-ffff/record",
        "wal/000000FF.history",
    ] {
        assert!(unreadable.contains(&name), "{name} in {unreadable:?}");
    }
    let _ = scenario.walvault(&["show", id]).succeeded();
    let verified = scenario.walvault(&["verify", "--json"]);
    assert_eq!(verified.code, Some(1), "it looks, and finds: {verified}");
    let restored = scenario.restore_and_start(server.major(), "restored", &[]);
    assert_eq!(restored.query("SELECT count(*) FROM commits"), rows);
    let _ = scenario.walvault(&["drill"]).succeeded();

    // A prune says what is in its way, and removes nothing.
    let there = scenario.archive().files("");
    scenario
        .walvault(&["prune", "--keep-last", "1"])
        .failed_saying(&["does not open", "delete it"]);
    let left = scenario.archive().files("");
    assert!(there.iter().all(|file| left.contains(file)));

    // The sidecar resumes where it was, archives, and takes backups.
    let daemon = scenario.run_and_back_up(server);
    server.query("CREATE TABLE after_that AS SELECT 1");
    server.switch_wal();
    let _ = daemon.wait_until_archived(server);
    assert!(daemon.stop().success());
    let listing = json(scenario, &["list", "--json"]);
    assert_eq!(backups(&listing).len(), 2);
    let restored = scenario.restore_and_start(server.major(), "again", &[]);
    assert_eq!(restored.query("SELECT count(*) FROM after_that"), "1");
}

/// Whoever may only put objects can name WAL behind the last of the archive.
#[test]
fn names_behind_the_last_wal_do_not_lengthen_it() {
    let archived = Archived::create();
    let (server, scenario) = (archived.server(), archived.scenario());
    let before = json(scenario, &["list", "--json"]);
    let rows = server.query("SELECT count(*) FROM commits");
    let next = server.query(
        "SELECT pg_walfile_name(pg_current_wal_lsn() + s.setting::numeric) \
         FROM pg_settings s WHERE s.name = 'wal_segment_size'",
    );
    let object = format!("wal/00000001/{next}");
    plant(scenario, &object, b"nothing that walvault wrote");
    let listing = json(scenario, &["list", "--json"]);
    assert_eq!(listing["tail"]["end_lsn"], before["tail"]["end_lsn"]);
    assert_eq!(
        listing["windows"][0]["end_lsn"],
        before["windows"][0]["end_lsn"]
    );
    assert_eq!(unreadable(&listing), [object.as_str()]);
    let restored = scenario.restore_and_start(server.major(), "restored", &[]);
    assert_eq!(restored.query("SELECT count(*) FROM commits"), rows);
}

#[test]
fn a_record_that_rotted_stops_nothing_but_its_backup_and_prunes() {
    let archived = Archived::create();
    let (server, scenario) = (archived.server(), archived.scenario());
    let daemon = scenario.run_and_back_up(server);
    let _ = scenario.walvaultd(&["backup"]).succeeded();
    assert!(daemon.stop().success());
    let ids = backups(&json(scenario, &["list", "--json"]));
    let [first, second, third] = &ids[..] else {
        panic!("three backups: {ids:?}")
    };
    let _ = scenario.walvault(&["keep", second]).succeeded();
    let _ = scenario.walvault(&["unkeep", second]).succeeded();

    let prune = ["prune", "--keep-last", "1"];
    for (object, usable) in [
        (format!("backups/{first}/record"), &ids[1..]),
        (format!("backups/{second}/keep/00000002"), &ids[..]),
    ] {
        let path = scenario.path("archive").join(&object);
        let bytes = fs::read(&path).expect("an object");
        let mut rotten = bytes.clone();
        let middle = rotten.len() / 2;
        rotten[middle] ^= 1;
        write_as_server_user(&path, rotten);

        let listing = json(scenario, &["list", "--json"]);
        assert_eq!(backups(&listing), usable);
        assert_eq!(unreadable(&listing), [object.as_str()]);
        let told = scenario.walvault(&["list"]).succeeded().stdout;
        assert!(
            told.contains("Unreadable") && told.contains(&object),
            "{told}"
        );
        let _ = scenario.restore("restored", &["--backup", third, "--target-immediate"]);
        fs::remove_dir_all(scenario.path("restored")).expect("removed");
        let there = scenario.archive().files("");
        scenario.walvault(&prune).failed_saying(&[
            &object,
            "does not open",
            "nothing was removed",
            "delete it",
        ]);
        let left = scenario.archive().files("");
        assert!(there.iter().all(|file| left.contains(file)), "{object}");
        write_as_server_user(&path, bytes);
    }

    // The backup whose record rotted is refused by name; one whose keeps are not known can be held.
    let record = scenario
        .path("archive")
        .join(format!("backups/{first}/record"));
    let bytes = fs::read(&record).expect("a record");
    write_as_server_user(&record, &bytes[..bytes.len() - 1]);
    let refused = scenario.try_restore("restored", &["--backup", first, "--target-immediate"]);
    refused.failed_saying(&[&format!("backups/{first}/record"), "damaged"]);
    assert_eq!(refused.code, Some(4), "{refused}");
    write_as_server_user(&record, bytes);
    let keep = plant(
        scenario,
        &format!("backups/{second}/keep/00000003"),
        b"nothing",
    );
    let hold = ["hold", second, "--reason", "a case", "--json"];
    assert_eq!(json(scenario, &hold)["number"], 4);
    let listing = json(scenario, &["list", "--json"]);
    assert_eq!(listing["backups"][1]["kept"], true);
    let released = json(scenario, &["release", second, "--json"]);
    assert_eq!(released["kept"], true, "nobody knows what the third said");

    // A prune goes on once the object is out of the way, and keeps what may be held.
    fs::remove_file(keep).expect("removed");
    let done = json(scenario, &[&prune[..], &["--json"]].concat());
    assert_eq!(done["removed"]["backups"], 1);
    let left = backups(&json(scenario, &["list", "--json"]));
    assert_eq!(left, [second.clone(), third.clone()]);
}

#[test]
fn a_lock_that_rotted_stops_prunes_for_as_long_as_one_that_is_held() {
    let archived = Archived::create();
    let scenario = archived.scenario();
    let lock = plant(scenario, "locks/upkeep/00000001", b"nothing");
    let prune = ["prune", "--keep-last", "1"];
    scenario.walvault(&prune).failed_saying(&["lock"]);
    let _ = scenario.walvault(&["list"]).succeeded();
    let _ = scenario.restore("restored", &[]);
    let stored = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    let file = fs::File::options().write(true).open(&lock).expect("opened");
    file.set_modified(stored).expect("dated");
    let _ = scenario.walvault(&prune).succeeded();
}
