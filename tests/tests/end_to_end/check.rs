//! `walvaultd check` and `init`, and what the webhook is told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::Duration;

use walvault_tests::archive::ArchiveKind;
use walvault_tests::postgres::Postgres;
use walvault_tests::scenario::Scenario;
use walvault_tests::test;

/// The verdict on one thing of `check --json`.
fn verdict(findings: &serde_json::Value, check: &str) -> String {
    let findings = findings.as_array().expect("findings");
    let found = findings.iter().find(|found| found["check"] == check);
    let found = found.unwrap_or_else(|| panic!("nothing of {check} in {findings:?}"));
    found["verdict"].as_str().expect("a verdict").to_owned()
}

/// An archive whose record is gone is not one that was never begun.
#[test]
fn check_says_that_the_record_of_an_archive_was_lost() {
    let server = Postgres::builder().start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let _ = scenario.walvaultd(&["backup"]).succeeded();
    for record in scenario.archive().files("archive.json") {
        std::fs::remove_file(record).expect("removed");
    }
    let outcome = scenario.walvaultd(&["check"]);
    outcome.failed_saying(&["1 of what was tried does not work"]);
    assert!(
        outcome.stdout.contains("FAILED   archive: identity")
            && outcome.stdout.contains("archive.json is not there"),
        "{outcome}"
    );
}

#[test]
fn check_tries_everything_and_says_how_to_mend_it() {
    let server = Postgres::builder().start();
    let scenario = Scenario::new(ArchiveKind::Garage);
    scenario.configure_for(&server);
    let outcome = scenario.walvaultd(&["check", "--json"]).succeeded();
    let findings: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    for right in [
        "configuration",
        "admin listener",
        "replication",
        "role",
        "wal_level",
        "max_wal_senders",
        "slot",
        "clock",
        "archive: write",
        "archive: read",
        "archive: list",
        "archive: remove",
        "archive: identity",
    ] {
        assert_eq!(verdict(&findings, right), "ok", "{right}: {outcome}");
    }
    assert_eq!(verdict(&findings, "max_slot_wal_keep_size"), "warning");
    // Garage takes the condition and ignores it.
    assert_eq!(verdict(&findings, "archive: write once"), "warning");

    // What is wrong on the server's side.
    server.query("ALTER SYSTEM SET synchronous_standby_names = 'walvault'");
    server.query("ALTER SYSTEM SET synchronous_commit = 'remote_apply'");
    server.query("SELECT pg_reload_conf()");
    walvault_tests::wait::wait_for("the reload", || {
        server.query("SHOW synchronous_commit") == "remote_apply"
    });
    let outcome = scenario.walvaultd(&["check"]);
    outcome.failed_saying(&["1 of what was tried does not work"]);
    assert!(
        outcome.stdout.contains("FAILED   synchronous_commit"),
        "{outcome}"
    );
    assert!(
        outcome.stdout.contains("set synchronous_commit = on"),
        "{outcome}"
    );

    // And on the archive's: a bucket that is somebody else's.
    let mut config = scenario.config(&server.url());
    config.set("archive", "url", "s3://somebody-elses/prefix");
    scenario.configure(&config);
    let outcome = scenario.walvaultd(&["check"]);
    outcome.failed_saying(&["2 of what was tried does not work"]);
    assert!(
        outcome.stdout.contains("FAILED   archive: write"),
        "{outcome}"
    );
}

#[test]
fn init_writes_a_configuration_that_works() {
    let server = Postgres::builder().start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    let out = scenario.path("made.toml");
    let key = scenario.path("walvault.key");
    let archive = format!("file://{}", scenario.path("archive").display());
    let init = || {
        let mut command = walvault_tests::user::server_command(scenario.path("walvaultd"));
        command
            .args(["init", "--archive", &archive, "--postgres", &server.url()])
            .args(["--key-file".as_ref(), key.as_os_str()])
            .args(["--out".as_ref(), out.as_os_str()]);
        walvault_tests::outcome::Outcome::of(command)
    };
    let _ = init().succeeded();
    let mut check = walvault_tests::user::server_command(scenario.path("walvaultd"));
    check
        .args(["check", "--config"])
        .arg(&out)
        .env("WALVAULT__ADMIN__LISTEN", "127.0.0.1:0");
    let _ = walvault_tests::outcome::Outcome::of(check).succeeded();
    // What is there is never replaced.
    init().failed_saying(&["File exists", "--out"]);
}

/// A server that refuses the first request and takes those after it; what each said.
fn receiver() -> (u16, mpsc::Receiver<(String, String)>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a request of HTTP");
    let port = listener.local_addr().expect("a request of HTTP").port();
    let (sender, received) = mpsc::channel();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = BufReader::new(stream.expect("a request of HTTP"));
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).expect("a request of HTTP");
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().expect("a request of HTTP");
                }
                if line.trim().is_empty() {
                    break;
                }
                head += &line;
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).expect("a request of HTTP");
            let answer = if number == 0 {
                "503 Not now"
            } else {
                "204 Taken"
            };
            write!(
                stream.get_mut(),
                "HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n"
            )
            .expect("a request of HTTP");
            if sender
                .send((head, String::from_utf8(body).expect("a request of HTTP")))
                .is_err()
            {
                return;
            }
        }
    });
    (port, received)
}

#[test]
fn the_webhook_is_told_signed_and_told_again() {
    const SECRET: &str = "what-events-are-signed-with";
    let mut server = Postgres::builder().start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    let (hook, told) = receiver();
    let (beat, beaten) = receiver();
    let mut config = scenario.config(&server.url());
    config
        .set("objectives", "rpo", "1s")
        .set(
            "notify",
            "webhook",
            format!("http://127.0.0.1:{hook}/hook?x=1"),
        )
        .set("notify", "secret", SECRET)
        .set(
            "notify",
            "heartbeat",
            format!("http://127.0.0.1:{beat}/beat"),
        );
    scenario.configure(&config);
    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    let patience = Duration::from_secs(60);
    let (head, _) = beaten.recv_timeout(patience).expect("a heartbeat");
    assert!(head.starts_with("GET /beat HTTP/1.1"), "{head}");
    server.kill();
    let (_, first) = told.recv_timeout(patience).expect("an event");
    let (head, again) = told.recv_timeout(patience).expect("the same event");
    assert_eq!(first, again);
    assert!(head.starts_with("POST /hook?x=1 HTTP/1.1"), "{head}");
    let event: serde_json::Value = serde_json::from_str(&again).unwrap();
    assert_eq!(event["event"], "rpo_breached");
    let signature = head
        .lines()
        .find_map(|line| line.strip_prefix("walvault-signature: "))
        .expect("a signature");
    assert!(is_genuine(SECRET, signature, &again), "{signature}");
    assert!(!is_genuine("another secret", signature, &again));
    server.start();
    let (_, recovered) = told.recv_timeout(patience).expect("its end");
    assert!(recovered.contains("\"rpo_recovered\""), "{recovered}");
    let log = daemon.log();
    assert!(!log.contains(SECRET) && !log.contains("/beat"), "{log}");
    assert!(daemon.stop().success());
}

#[test]
fn a_gap_is_told_though_it_is_older_than_the_process() {
    let server = Postgres::builder()
        .segment_size(1)
        .setting("max_slot_wal_keep_size", "1MB")
        .setting("wal_keep_size", "0")
        .setting("min_wal_size", "2MB")
        .setting("max_wal_size", "2MB")
        .start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    let (hook, told) = receiver();
    let mut config = scenario.config(&server.url());
    config
        .set("notify", "webhook", format!("http://127.0.0.1:{hook}/"))
        .set("notify", "secret", "what-events-are-signed-with");
    scenario.configure(&config);
    let daemon = scenario.run_and_back_up(&server);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
    walvault_tests::wait::wait_for("the slot's loss", || {
        server.switch_wal();
        server.query("CHECKPOINT");
        let status = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'walvault'";
        server.query(status) == "lost"
    });
    let daemon = scenario.run();
    let gap = || loop {
        let (_, body) = told
            .recv_timeout(Duration::from_secs(60))
            .expect("an event");
        let event: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        if event["event"] == "gap" {
            return event;
        }
    };
    let event = gap();
    let message = event["message"].as_str().expect("a message");
    assert!(message.contains("is not in the archive"), "{message}");
    assert!(daemon.stop().success());
}

/// As docs/notify.md tells whoever receives events.
fn is_genuine(secret: &str, header: &str, body: &str) -> bool {
    let (at, tag) = header.split_once(',').expect("two parts");
    let (at, tag) = (
        at.strip_prefix("t=").expect("its mark"),
        tag.strip_prefix("v1=").expect("its mark"),
    );
    let script = "import hashlib,hmac,sys; s,t,b=(a.encode() for a in sys.argv[1:]); \
                  print(hmac.new(s,t+b'.'+b,hashlib.sha256).hexdigest())";
    let mut python = std::process::Command::new("python3");
    python.args(["-c", script, secret, at, body]);
    walvault_tests::outcome::Outcome::of(python)
        .succeeded()
        .stdout
        .trim()
        == tag
}
