//! Backups that are ordered over HTTP.

use serde_json::Value;
use walvault_tests::http::{get, post, request};
use walvault_tests::wait::{wait_for, wait_until};
use walvault_tests::{ArchiveKind, Postgres, Scenario, test};

const TOKEN: &str = "a-token-for-this-test";

fn labels(scenario: &Scenario) -> Vec<Value> {
    let listed = scenario.walvault(&["list", "--json"]).succeeded();
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    let backups = listed["backups"].as_array().expect("backups");
    backups
        .iter()
        .map(|backup| backup["label"].clone())
        .collect()
}

#[test]
fn one_at_a_time_and_only_with_the_token() {
    let server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    let mut config = scenario.config(&server.url());
    config
        .set("admin", "token", TOKEN)
        .set("backup", "max_rate", "4MiB");
    scenario.configure(&config);
    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    let admin = daemon.admin();
    let order = |body: &str| post(admin, "/backups", Some(TOKEN), body);

    assert_eq!(post(admin, "/backups", None, "").status, 401);
    assert_eq!(
        post(admin, "/backups", Some("another-token-altogether"), "").status,
        401
    );
    assert_eq!(order("{\"lable\": \"x\"}").status, 400);
    assert_eq!(order("{\"label\": \"two\\nlines\"}").status, 400);
    let deleted = request(
        admin,
        "DELETE",
        "/backups",
        &[&format!("Authorization: Bearer {TOKEN}")],
        "",
    );
    assert_eq!(deleted.expect("an answer").status, 405);
    let idle = get(admin, "/backups").json();
    assert_eq!(
        (&idle["running"], &idle["last"]),
        (&Value::Null, &Value::Null)
    );

    let accepted = order("{\"label\": \"before \\\"it\\\"\", \"keep\": true}");
    assert_eq!(accepted.status, 202, "{}", accepted.body);
    let id = accepted.json()["id"].clone();
    assert!(id.is_string(), "{id}");
    // The server sends 4 MiB a second, and has tens.
    let busy = order("");
    assert_eq!(busy.status, 409, "{}", busy.body);
    assert!(
        busy.body.contains(id.as_str().expect("an id")),
        "{}",
        busy.body
    );
    wait_for("bytes of the backup", || {
        let running = get(admin, "/backups").json()["running"].clone();
        assert_eq!(running["id"], id, "{running}");
        assert_eq!(running["label"], "before \"it\"");
        running["stage"] == "copying" && running["received"].as_u64() > Some(0)
    });
    // Nor does the command line take another one.
    scenario
        .walvaultd(&["backup"])
        .failed_saying(&["another backup of this server"]);
    let last = wait_until("the backup's end", || {
        let status = get(admin, "/backups").json();
        status["running"].is_null().then(|| status["last"].clone())
    });
    assert_eq!((&last["id"], &last["error"]), (&id, &Value::Null), "{last}");
    assert_eq!(labels(&scenario), ["before \"it\""]);

    // While the command line takes one, the sidecar does not begin another.
    let mut other = walvault_tests::process::Process::spawn(
        "walvaultd",
        scenario.command("walvaultd", &["backup", "--label", "by hand"]),
        &scenario.path("other.log"),
    );
    wait_for("the other backup", || other.log().contains("copying"));
    let busy = order("");
    assert_eq!(busy.status, 409, "{}", busy.body);
    assert!(busy.body.contains("walvault_backup"), "{}", busy.body);
    assert!(other.wait_for_exit().success(), "{}", other.log());
    assert_eq!(labels(&scenario).len(), 2);
    assert!(daemon.stop().success());
}
