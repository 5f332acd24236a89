//! The admin listener, asked as a user, Kubernetes and Prometheus ask it.

use std::io::Write;
use std::process::{Command, Stdio};

use walvault_tests::archive::ArchiveKind;
use walvault_tests::cache::promtool;
use walvault_tests::commit_log::CommitLog;
use walvault_tests::http::{get, post, request};
use walvault_tests::outcome::Outcome;
use walvault_tests::postgres::Postgres;
use walvault_tests::scenario::Scenario;
use walvault_tests::test;
use walvault_tests::user::{give_to_server_user, write_as_server_user};
use walvault_tests::wait::{free_port, wait_for, wait_until};

const TOKEN: &str = "a-token-for-this-test";

/// The value of a metric without labels, or with these.
fn metric(text: &str, name: &str) -> Option<f64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok())
}

#[test]
fn health_metrics_and_who_may_ask() {
    let mut server = Postgres::builder().start();
    let mut scenario = Scenario::new(ArchiveKind::Garage);
    let mut config = scenario.config(&server.url());
    let wal = server.data_directory().join("pg_wal");
    config
        .set("admin", "token", TOKEN)
        .set("postgres", "wal_dir", wal.display());
    scenario.configure(&config);
    let log = CommitLog::create(&server);
    let daemon = scenario.run();
    let admin = daemon.admin();
    daemon.wait_until_streaming(&server);
    for path in ["/livez", "/startupz", "/readyz"] {
        wait_for(path, || get(admin, path).status == 200);
    }

    let _ = log.commit(&server);
    let archived = daemon.wait_until_archived(&server);
    wait_for("an RPO of nothing", || {
        let text = get(admin, "/metrics").body;
        metric(&text, "walvault_rpo_seconds") == Some(0.0)
            && metric(&text, "walvault_wal_archived_lsn_bytes") >= Some(archived.0 as f64)
    });
    wait_for("the data keys to be looked at", || {
        let text = get(admin, "/metrics").body;
        let made = metric(&text, "walvault_data_key_created_timestamp_seconds");
        made.is_some_and(|made| {
            let age = jiff::Timestamp::now().as_second() as f64 - made;
            (-1.0..600.0).contains(&age)
        })
    });
    let text = get(admin, "/metrics").body;
    assert_eq!(metric(&text, "walvault_streaming"), Some(1.0));
    assert!(
        metric(&text, "walvault_ack_seconds_count") >= Some(1.0),
        "{text}"
    );
    let puts = "walvault_store_request_seconds_count{operation=\"put\"}";
    assert!(metric(&text, puts) >= Some(1.0), "{text}");
    check_metrics(&text);
    wait_for("the room on the disk of pg_wal", || {
        let room = metric(&get(admin, "/metrics").body, "walvault_wal_disk_free_bytes");
        room.is_some_and(|room| room.is_finite() && room > 0.0)
    });

    // Orders need the token though they come from this machine; a name that was pointed here is not served.
    assert_eq!(post(admin, "/metrics", None, "").status, 401);
    assert_eq!(
        post(admin, "/metrics", Some("wrong-token-wrong-token"), "").status,
        401
    );
    assert_eq!(post(admin, "/metrics", Some(TOKEN), "").status, 405);
    assert_eq!(post(admin, "/nothing", Some(TOKEN), "").status, 404);
    let rebound = request(admin, "GET", "/metrics", &["Host: evil.example"], "").unwrap();
    assert_eq!(rebound.status, 421);

    // The store goes away: commits wait to be archived, and it is said what does not hold.
    let garage = scenario.archive_mut().garage();
    garage.kill();
    let _ = log.commit(&server);
    let rpo = wait_until("an RPO that grows", || {
        let text = get(admin, "/metrics").body;
        metric(&text, "walvault_rpo_seconds").filter(|rpo| *rpo > 2.0)
    });
    wait_for("the archive is said to fail", || {
        let health = get(admin, "/readyz");
        let condition = health.json()["conditions"][2].clone();
        health.status == 503 && condition["name"] == "archive" && condition["ok"] == false
    });
    assert_eq!(get(admin, "/livez").status, 200);
    assert!(metric(&get(admin, "/metrics").body, "walvault_rpo_seconds") > Some(rpo));
    let garage = scenario.archive_mut().garage();
    garage.restart();
    wait_for("everything is well again", || {
        let text = get(admin, "/metrics").body;
        get(admin, "/readyz").status == 200 && metric(&text, "walvault_rpo_seconds") == Some(0.0)
    });

    // The server goes away: nobody knows what it commits.
    server.kill();
    wait_for("the stream is said to be interrupted", || {
        let health = get(admin, "/readyz");
        let condition = health.json()["conditions"][0].clone();
        health.status == 503 && condition["name"] == "streaming" && condition["ok"] == false
    });
    wait_for("what cannot be ruled out counts", || {
        metric(&get(admin, "/metrics").body, "walvault_rpo_seconds") > Some(1.0)
    });
    check_metrics(&get(admin, "/metrics").body);
    server.start();
    wait_for("it streams again", || get(admin, "/readyz").status == 200);
    assert!(metric(&get(admin, "/metrics").body, "walvault_reconnects_total") >= Some(1.0));
    assert!(daemon.stop().success());
}

/// Whoever may not order anything may still hold connections open.
#[test]
fn nobody_keeps_others_from_asking_for_health() {
    let server = Postgres::start_new();
    let scenario = Scenario::new(ArchiveKind::Directory);
    scenario.configure_for(&server);
    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    let hold = |_| std::net::TcpStream::connect(daemon.admin()).expect("a connection");
    let held: Vec<_> = (0..200).map(hold).collect();
    let begun = std::time::Instant::now();
    assert_eq!(get(daemon.admin(), "/livez").status, 200);
    assert!(begun.elapsed() < std::time::Duration::from_secs(3));
    drop(held);
    assert!(daemon.stop().success());
}

#[test]
fn a_port_that_is_taken_is_said_at_once() {
    let server = Postgres::builder().start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let mut config = scenario.config(&server.url());
    config.set("admin", "listen", taken.local_addr().unwrap());
    scenario.configure(&config);
    let outcome = scenario.run_to_its_end();
    outcome.failed_saying(&["cannot listen on 127.0.0.1", "[admin] listen"]);
}

/// Writes a certificate for this name, valid for a day, and its key, over those that are there.
fn certify(scenario: &Scenario, name: &str) {
    let [cert, key] = ["admin.crt", "admin.key"].map(|file| scenario.path(file));
    let mut openssl = Command::new("openssl");
    openssl
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
        ])
        .args(["-nodes", "-days", "1", "-subj"])
        .arg(format!("/CN={name}"))
        .arg("-addext")
        .arg(format!("subjectAltName=DNS:{name},IP:127.0.0.1"))
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert);
    let _ = Outcome::of(openssl).succeeded();
    give_to_server_user(&cert);
    give_to_server_user(&key);
}

/// Asks over TLS, trusting the certificate in `admin.crt` alone, and returns the status with the name in the certificate.
fn ask_over_tls(
    scenario: &Scenario,
    port: u16,
    method: &str,
    path: &str,
    authorization: &str,
) -> String {
    let script = "import http.client,ssl,sys; ca,port,method,path,authorization=sys.argv[1:]; \
        c=http.client.HTTPSConnection('127.0.0.1',int(port),context=ssl.create_default_context(cafile=ca)); \
        c.connect(); name=c.sock.getpeercert()['subject'][0][0][1]; \
        c.request(method,path,headers={'Authorization':authorization} if authorization else {}); \
        print(c.getresponse().status,name)";
    let mut ask = Command::new("python3");
    ask.args(["-c", script])
        .arg(scenario.path("admin.crt"))
        .args([&port.to_string(), method, path, authorization]);
    Outcome::of(ask).succeeded().stdout.trim().to_owned()
}

#[test]
fn where_others_can_ask_it_speaks_tls_and_wants_the_token() {
    let server = Postgres::builder().start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    certify(&scenario, "first.example");
    let token = scenario.path("token");
    write_as_server_user(&token, TOKEN);
    let port = free_port();
    let mut config = scenario.config(&server.url());
    config
        .set("admin", "listen", format!("0.0.0.0:{port}"))
        .set("admin", "token_file", token.display())
        .set("admin", "tls_cert", scenario.path("admin.crt").display())
        .set("admin", "tls_key", scenario.path("admin.key").display());
    scenario.configure(&config);
    let health = |arguments: &[&str]| scenario.walvaultd(&[&["health"], arguments].concat());
    health(&[]).failed_saying(&["is walvaultd running"]);
    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    let _ = daemon.admin();
    let ask = |method, path, authorization: &str| {
        ask_over_tls(&scenario, port, method, path, authorization)
    };
    let bearer = format!("Bearer {TOKEN}");

    // Health is for everybody, the rest for who has the token; orders take it in one form only.
    assert_eq!(ask("GET", "/livez", ""), "200 first.example");
    assert_eq!(ask("GET", "/metrics", ""), "401 first.example");
    assert_eq!(
        ask("GET", "/metrics", "Bearer not-the-token-at-all"),
        "401 first.example"
    );
    assert_eq!(ask("GET", "/metrics", &bearer), "200 first.example");
    assert_eq!(ask("POST", "/backups", ""), "401 first.example");
    assert_eq!(ask("POST", "/backups", &bearer), "202 first.example");
    // Who does not speak TLS learns nothing.
    let address = ([127, 0, 0, 1], port).into();
    assert!(request(address, "GET", "/livez", &[], "").is_err());

    // A container's health check needs neither the certificate's name nor the token.
    wait_for("readiness", || health(&["--ready"]).code == Some(0));
    let _ = health(&[]).succeeded();

    // Certificate and token are exchanged while it runs; what is no certificate is not taken.
    certify(&scenario, "second.example");
    assert_eq!(ask("GET", "/metrics", &bearer), "200 second.example");
    let _ = health(&[]).succeeded();
    write_as_server_user(&token, "another-token-by-now");
    assert_eq!(ask("GET", "/metrics", &bearer), "401 second.example");
    assert_eq!(
        ask("GET", "/metrics", "Bearer another-token-by-now"),
        "200 second.example"
    );
    write_as_server_user(&scenario.path("admin.key"), "no key");
    assert_eq!(ask("GET", "/livez", ""), "200 second.example");
    daemon.wait_until_saying(&["keeps the certificate it had"]);
    assert!(daemon.stop().success());
}

/// `promtool check metrics` reads them, and has nothing to say about their names, units and help.
fn check_metrics(text: &str) {
    let mut child = Command::new(promtool())
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(text.as_bytes()).expect("promtool reads");
    drop(input);
    let output = child.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.trim().is_empty(),
        "{said}\n{text}"
    );
}
