//! What an archive is said to hold, and what its operator says about it.

use serde_json::Value;
use walvault_tests::{Archived, Scenario, test};

/// The JSON object that a command prints.
fn json(scenario: &Scenario, arguments: &[&str]) -> Value {
    let outcome = scenario.walvault(arguments).succeeded();
    serde_json::from_str(&outcome.stdout).expect("one JSON object")
}

fn listed(scenario: &Scenario) -> Value {
    json(scenario, &["list", "--json"])
}

#[test]
fn list_and_show_agree_with_the_archive() {
    let archived = Archived::create();
    let scenario = archived.scenario();
    let _ = scenario
        .walvaultd(&["backup", "--label", "second", "--keep"])
        .succeeded();
    let listing = listed(scenario);
    let [first, second] = &listing["backups"].as_array().expect("backups")[..] else {
        panic!("two backups: {listing}")
    };
    assert_eq!(
        (&first["kept"], &second["kept"]),
        (&false.into(), &true.into())
    );
    assert_eq!(second["label"], "second");
    assert!(first["start_time"].as_str() < second["start_time"].as_str());
    for backup in [first, second] {
        assert_eq!(backup["kind"], "full");
        assert_eq!(backup["timeline"], 1);
        assert_eq!(
            backup["server_version"].as_u64().map(|v| v / 10_000),
            Some(15)
        );
        assert_eq!(backup["keys"][0].as_str().map(str::len), Some(32));
    }
    assert_eq!(listing["windows"][0]["backup"], first["id"]);
    assert_eq!(listing["gaps"].as_array().map(Vec::len), Some(0));
    assert_eq!(listing["timelines"][0]["parent"], Value::Null);
    assert_eq!(listing["tail"]["timeline"], 1);

    let id = first["id"].as_str().expect("an ID");
    let shown = json(scenario, &["show", id, "--json"]);
    for field in ["id", "size", "stored_size", "stop_lsn", "keys"] {
        assert_eq!(shown[field], first[field], "{field}");
    }
    assert_eq!(shown["restorable"], true);
    let files = scenario.archive().files(&format!("backups/{id}/"));
    assert_eq!(shown["objects"], files.len());
    let stored: u64 = files
        .iter()
        .map(|file| file.metadata().expect("a file").len())
        .sum();
    let told = shown["stored_size"].as_u64().expect("a size");
    // The record cannot tell its own size.
    assert!(told <= stored && stored < told + 4096, "{told} of {stored}");
    let text = scenario.walvault(&["show", id]).succeeded().stdout;
    assert!(
        text.contains(id) && text.contains("Restorable   yes"),
        "{text}"
    );

    scenario
        .walvault(&["show", "20200101T000000Z-0000"])
        .failed_saying(&["no complete backup"]);
}

#[test]
fn keeps_and_holds_are_remembered() {
    let archived = Archived::create();
    let scenario = archived.scenario();
    let backup = || listed(scenario)["backups"][0].clone();
    let id = backup()["id"].as_str().expect("an ID").to_owned();
    assert_eq!(backup()["kept"], false);
    let _ = scenario.walvault(&["keep", &id]).succeeded();
    assert_eq!(backup()["kept"], true);

    let hold = |reason: &str| json(scenario, &["hold", &id, "--reason", reason, "--json"]);
    let first = hold("case 7")["number"].to_string();
    let second = hold("case 8")["number"].to_string();
    let _ = scenario.walvault(&["unkeep", &id]).succeeded();
    assert_eq!(backup()["kept"], true, "the holds keep it");
    assert_eq!(backup()["holds"][1]["reason"], "case 8");

    scenario
        .walvault(&["release", &id])
        .failed_saying(&["--hold"]);
    let _ = scenario
        .walvault(&["release", &id, "--hold", &first])
        .succeeded();
    assert_eq!(backup()["holds"][0]["number"].to_string(), second);
    let _ = scenario.walvault(&["release", &id]).succeeded();
    assert_eq!(backup()["kept"], false);
    scenario
        .walvault(&["release", &id])
        .failed_saying(&["no hold"]);
    scenario
        .walvault(&[
            "hold",
            &id,
            "--reason",
            "x",
            "--until",
            "2001-01-01 00:00:00Z",
        ])
        .failed_saying(&["past"]);
    // Nobody forgot to unlock.
    assert!(scenario.archive().files("locks/").is_empty());
}
