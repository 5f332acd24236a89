//! No secret is ever said: in a log at its fullest, in an answer, in an error, or in what a command prints.

use std::fs;

use walvault_tests::http::{get, post};
use walvault_tests::wait::wait_for;
use walvault_tests::{ArchiveKind, CommitLog, Outcome, Postgres, Scenario, free_port, test};

const PASSWORD: &str = "the-password-of-the-role";
const WRONG_PASSWORD: &str = "a-password-that-is-wrong";
const TOKEN: &str = "the-token-of-the-listener";
const SIGNING: &str = "the-secret-that-signs-events";
const HOOK: &str = "the-secret-path-of-the-webhook";
const BEAT: &str = "the-secret-path-of-the-heartbeat";

#[test]
fn a_whole_run_says_none() {
    let mut server = Postgres::builder().password(PASSWORD).start();
    let mut scenario = Scenario::new(ArchiveKind::Garage);
    // Nobody answers there, so that there is something to say.
    let nobody = free_port();
    let mut config = scenario.config(&server.url());
    config
        .set("log", "level", "trace")
        .set("objectives", "rpo", "1s")
        .set("admin", "token", TOKEN)
        .set(
            "notify",
            "webhook",
            format!("http://127.0.0.1:{nobody}/{HOOK}"),
        )
        .set("notify", "secret", SIGNING)
        .set(
            "notify",
            "heartbeat",
            format!("http://127.0.0.1:{nobody}/{BEAT}"),
        );
    scenario.configure(&config);
    let log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    let admin = daemon.admin();
    let mut said = String::new();
    let commands = |said: &mut String| {
        for arguments in [
            vec!["list", "--json"],
            vec!["keys", "list", "--json"],
            vec!["keys", "verify"],
            vec!["restore", "--pgdata", "/nowhere/yet", "--dry-run", "--json"],
        ] {
            *said += &everything(&scenario.walvault(&arguments));
        }
        for arguments in [vec!["check"], vec!["check", "--json"], vec!["backup"]] {
            *said += &everything(&scenario.walvaultd(&arguments));
        }
    };
    let _ = log.commit(&server);
    daemon.wait_until_archived(&server);
    commands(&mut said);
    assert_eq!(
        post(admin, "/backups", Some("not the token at all"), "{}").status,
        401
    );
    assert_eq!(
        post(admin, "/backups", Some(TOKEN), "{\"label\": 5}").status,
        400
    );
    daemon.wait_until_saying(&["the heartbeat was not taken"]);

    // What goes wrong is said as well: a store that is away, a server that is, and a password that is wrong.
    let garage = scenario.archive_mut().garage();
    garage.kill();
    let _ = log.commit(&server);
    daemon.wait_until_saying(&["the archive is away", "the webhook did not take an event"]);
    for path in ["/", "/status", "/metrics", "/readyz", "/backups"] {
        let answer = get(admin, path);
        said += &(answer.head + &answer.body);
    }
    let garage = scenario.archive_mut().garage();
    garage.restart();
    daemon.wait_until_archived(&server);
    server.kill();
    wait_for("the stream's end", || get(admin, "/readyz").status == 503);
    said += &get(admin, "/status").body;
    server.start();
    daemon.wait_until_streaming(&server);
    assert!(daemon.stop().success());
    said += &fs::read_to_string(scenario.path("walvaultd.log")).expect("the log");
    config.set(
        "postgres",
        "url",
        server.url_as("postgres", Some(WRONG_PASSWORD)),
    );
    scenario.configure(&config);
    let refused = scenario.walvaultd(&["backup"]);
    refused.failed_saying(&["password authentication failed"]);
    said += &everything(&refused);
    said += &everything(&scenario.run_to_its_end());
    config.set(
        "postgres",
        "url",
        format!("postgresql://postgres:{WRONG_PASSWORD}@[::1/postgres"),
    );
    scenario.configure(&config);
    said += &everything(&scenario.walvaultd(&["check"]));

    let key = fs::read_to_string(scenario.path("walvault.key")).expect("the key file");
    let environment = scenario.archive().environment();
    let store = environment
        .iter()
        .find(|(name, _)| name == "AWS_SECRET_ACCESS_KEY");
    let store = &store.expect("the store's secret").1;
    // So that the search finds what is there.
    assert!(
        said.contains("password authentication failed") && said.contains("the archive is away")
    );
    for secret in [
        PASSWORD,
        WRONG_PASSWORD,
        TOKEN,
        SIGNING,
        HOOK,
        BEAT,
        key.trim(),
        store,
    ] {
        assert!(secret.len() >= 20);
        let line = said.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "a secret is said");
    }
}

fn everything(outcome: &Outcome) -> String {
    format!("{}\n{}\n", outcome.stdout, outcome.stderr)
}
