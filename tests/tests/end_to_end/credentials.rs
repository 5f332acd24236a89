//! Credentials from every place that AWS's tools take them from, and TLS with an authority of one's own.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;

use walvault_tests::user::write_as_server_user;
use walvault_tests::wait::wait_for;
use walvault_tests::{ArchiveKind, CommitLog, Moto, Outcome, Postgres, Scenario, test};

const ARCHIVE: &str = r#"{"format":1,"archive_id":"00112233445566778899aabbccddeeff",
    "system_id":"1","segment_size":16777216,"created_at":"2026-11-21T06:30:00Z","created_by":"a test"}"#;
const HANDED_OUT: &str = r#"{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":"AKIAFROMAROLE0000000",
    "SecretAccessKey":"secret","Token":"token","Expiration":"2099-01-01T00:00:00Z",
    "LastUpdated":"2026-11-21T06:30:00Z","RoleArn":"arn:aws:iam::123456789012:role/pod"}"#;

/// An archive that holds nothing, on moto.
fn scenario() -> Scenario {
    let mut scenario = Scenario::new(ArchiveKind::Moto);
    let _ = scenario.archive_mut().moto().boto(&format!(
        "client('s3').put_object(Bucket='{}', Key='prefix/archive.json', Body=b'''{ARCHIVE}''')",
        Moto::BUCKET
    ));
    let mut config = scenario.config("postgresql:///");
    config.set("restore", "retry_for", "1s");
    scenario.configure(&config);
    scenario
}

/// `walvault keys list` with no credentials but those that `variables` lead to.
fn list(scenario: &Scenario, variables: &[(&str, &str)]) -> Outcome {
    let mut command = scenario.command("walvault", &["keys", "list"]);
    for (name, _) in scenario.archive().environment() {
        command.env_remove(name);
    }
    // What this machine's own metadata service would say is not part of the test.
    if !variables.iter().any(|(name, _)| name.contains("METADATA")) {
        command.env("AWS_EC2_METADATA_DISABLED", "true");
    }
    command.envs(variables.iter().copied());
    Outcome::of(command)
}

/// A server that answers `respond`'s text to each request, given its first line and headers.
fn serve(respond: impl Fn(&str) -> Option<String> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let head = read_head(&stream);
            let (status, body) = match respond(&head) {
                Some(body) => ("200 OK", body),
                None => ("403 Forbidden", String::new()),
            };
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\ncontent-type: application/json\r\n\
                 x-aws-ec2-metadata-token-ttl-seconds: 21600\r\nconnection: close\r\n\r\n{body}"
            );
            let _ = (&stream).write_all(answer.as_bytes());
        }
    });
    format!("http://{address}")
}

fn read_head(stream: &TcpStream) -> String {
    let mut head = String::new();
    let mut reader = BufReader::new(stream);
    while reader.read_line(&mut head).is_ok_and(|read| read > 2) {}
    head
}

#[test]
fn they_come_from_every_place_in_the_default_chain() {
    let mut scenario = scenario();
    let endpoint = scenario.archive_mut().moto().endpoint();
    list(&scenario, &[]).failed_saying(&["no credentials", "AWS_ACCESS_KEY_ID"]);

    let from_environment = [
        ("AWS_ACCESS_KEY_ID", "AKIA"),
        ("AWS_SECRET_ACCESS_KEY", "s"),
    ];
    let _ = list(&scenario, &from_environment).succeeded();

    // A profile, and a role that it assumes with short-lived tokens of STS.
    let config = scenario.path("aws-config");
    write_as_server_user(
        &config,
        "[default]\naws_access_key_id = AKIA\naws_secret_access_key = s\n\
         [profile assuming]\nrole_arn = arn:aws:iam::123456789012:role/archiver\n\
         source_profile = default\nregion = us-east-1\n",
    );
    let config = config.to_str().expect("UTF-8");
    let _ = list(&scenario, &[("AWS_CONFIG_FILE", config)]).succeeded();
    let assuming = [
        ("AWS_CONFIG_FILE", config),
        ("AWS_PROFILE", "assuming"),
        ("AWS_ENDPOINT_URL_STS", &endpoint),
    ];
    let _ = list(&scenario, &assuming).succeeded();
    let moto = scenario.archive_mut().moto().log();
    assert_eq!(
        moto.matches("POST / HTTP").count(),
        1,
        "STS was asked:\n{moto}"
    );

    // A web identity, as IRSA gives it to a pod.
    let token = scenario.path("token");
    write_as_server_user(&token, "a-token");
    let token = token.to_str().expect("UTF-8");
    let irsa = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/archiver"),
        ("AWS_ROLE_SESSION_NAME", "walvault"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL_STS", &endpoint),
    ];
    let _ = list(&scenario, &irsa).succeeded();

    // EKS Pod Identity: an agent on this machine that wants the pod's token.
    let agent = serve(|head| {
        let shown = head.to_lowercase().contains("authorization: a-token");
        shown.then(|| HANDED_OUT.to_owned())
    });
    let pod = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token),
    ];
    let _ = list(&scenario, &pod).succeeded();
    assert_ne!(list(&scenario, &pod[..1]).code, Some(0));

    // The machine's role, from version 2 of its metadata service.
    let metadata = serve(|head| {
        let line = head.lines().next()?;
        if line.starts_with("PUT /latest/api/token") {
            return Some("a-session".to_owned());
        }
        if !head
            .to_lowercase()
            .contains("x-aws-ec2-metadata-token: a-session")
        {
            return None;
        }
        match line.split(' ').nth(1)?.trim_end_matches('/') {
            path if path.ends_with("/machine") => Some(HANDED_OUT.to_owned()),
            _ => Some("machine".to_owned()),
        }
    });
    let machine = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.as_str())];
    let _ = list(&scenario, &machine).succeeded();
}

/// Keys are rotated by rewriting the file that they are in.
#[test]
fn a_file_of_credentials_that_is_rewritten_is_read_again() {
    let mut scenario = Scenario::new(ArchiveKind::Garage);
    let file = scenario.path("credentials");
    let known = scenario.archive().environment();
    let value = |name: &str| {
        let found = known.iter().find(|(known, _)| known == name);
        found.expect("a variable").1.clone()
    };
    let (id, secret) = (value("AWS_ACCESS_KEY_ID"), value("AWS_SECRET_ACCESS_KEY"));
    let write = |secret: &str| {
        let text =
            format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
        write_as_server_user(&file, &text);
    };
    write(&secret);
    let path = file.to_str().expect("UTF-8").to_owned();
    // Empty is as good as none.
    scenario.set_environment(vec![
        ("AWS_ACCESS_KEY_ID".to_owned(), String::new()),
        ("AWS_SECRET_ACCESS_KEY".to_owned(), String::new()),
        ("AWS_SHARED_CREDENTIALS_FILE".to_owned(), path),
    ]);
    let server = Postgres::start_new();
    scenario.configure_for(&server);
    let log = CommitLog::create(&server);
    let daemon = scenario.run();
    daemon.wait_until_streaming(&server);
    let _ = log.commit(&server);
    daemon.wait_until_archived(&server);
    write("expired");
    wait_for("a refusal", || {
        let _ = log.commit(&server);
        daemon.log().contains("WAL is not archived")
    });
    write(&secret);
    daemon.wait_until_archived(&server);
    assert!(daemon.stop().success());
}

#[test]
fn an_authority_of_ones_own_is_trusted_and_no_other() {
    let folder = tempfile::tempdir().expect("a directory");
    for name in ["ours", "theirs"] {
        certificate(folder.path(), name);
    }
    let scenario = scenario();
    let moto = Moto::start_over_tls(
        &folder.path().join("ours.crt"),
        &folder.path().join("ours.key"),
    );
    let _ = moto.boto(&format!(
        "client('s3').put_object(Bucket='{}', Key='prefix/archive.json', Body=b'''{ARCHIVE}''')",
        Moto::BUCKET
    ));
    let with_authority = |name: &str| {
        let shown = scenario.path(name);
        let pem = fs::read(folder.path().join(name)).expect("a certificate");
        write_as_server_user(&shown, pem);
        let mut config = scenario.config("postgresql:///");
        config
            .set("archive.s3", "endpoint", moto.endpoint())
            .set("archive.s3", "ca_file", shown.display())
            .set("restore", "retry_for", "1s");
        scenario.configure(&config);
        scenario.walvault(&["keys", "list"])
    };
    let _ = with_authority("ours.crt").succeeded();
    with_authority("theirs.crt").failed_saying(&["certificate", "ca_file"]);
}

/// A certificate for 127.0.0.1 that is its own authority.
fn certificate(folder: &Path, name: &str) {
    let mut openssl = Command::new("openssl");
    openssl
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
        ])
        .arg(format!("/CN={name}"))
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(folder.join(format!("{name}.key")))
        .arg("-out")
        .arg(folder.join(format!("{name}.crt")));
    let _ = Outcome::of(openssl).succeeded();
}
