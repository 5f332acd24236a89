//! Logins: passwords, TLS, channel binding, and what is said when they fail.

use std::process::Command;

use walvault_harness::{Outcome, Signal, needs_servers};
use walvault_protocol::client::{ClientError, Mode, Session};

use super::server::{PASSWORD, Server, eventually};

async fn refused(server: &Server, text: &str, mode: Mode) -> ClientError {
    match Session::connect(&server.info(text), mode).await {
        Ok(_) => panic!("'{text}' was let in"),
        Err(error) => error,
    }
}

#[tokio::test]
#[needs_servers]
async fn failures_say_what_to_do() {
    let server = Server::start().await;
    let mut sql = server.sql().await;
    sql.query("create role plain login password 'x'")
        .await
        .expect("a role");
    let at = format!("host=127.0.0.1 port={}", server.port());

    let error = refused(
        &server,
        &format!("{at} user=postgres password=wrong"),
        Mode::Replication,
    )
    .await;
    assert_eq!(
        (error.sqlstate(), error.is_transient()),
        (Some("28P01"), false)
    );
    assert!(
        error.to_string().contains("check the user's password"),
        "{error}"
    );

    let error = refused(&server, &format!("{at} user=postgres"), Mode::Replication).await;
    assert!(matches!(error, ClientError::Auth { .. }), "{error}");
    assert!(error.to_string().contains("give it in the URL"), "{error}");

    let error = refused(
        &server,
        &format!("{at} user=plain password=x"),
        Mode::Replication,
    )
    .await;
    assert_eq!(error.sqlstate(), Some("42501"), "{error}");
    assert!(error.to_string().contains("REPLICATION"), "{error}");

    let error = refused(
        &server,
        "host=127.0.0.1 port=1 user=postgres",
        Mode::Regular,
    )
    .await;
    assert!(
        matches!(error, ClientError::Unreachable { .. }) && error.is_transient(),
        "{error}"
    );
    let error = refused(&server, "host=/nonexistent user=postgres", Mode::Regular).await;
    assert!(
        error.to_string().contains("/nonexistent/.s.PGSQL.5432"),
        "{error}"
    );

    let tls = format!("{at} user=postgres password='{PASSWORD}' sslmode=require");
    let error = refused(&server, &tls, Mode::Regular).await;
    assert!(matches!(error, ClientError::Tls { .. }), "{error}");
    assert!(error.to_string().contains("set ssl = on"), "{error}");
}

#[tokio::test]
#[needs_servers]
async fn hosts_are_tried_in_order_until_one_is_of_the_kind_wanted() {
    let server = Server::start().await;
    let rest = format!("user=postgres password='{PASSWORD}' dbname=postgres");
    let hosts = format!("host=127.0.0.1,127.0.0.1 port=1,{} {rest}", server.port());
    let session = server.connect(&hosts, Mode::Regular).await;
    assert_eq!(session.endpoint(), format!("127.0.0.1:{}", server.port()));
    server
        .connect(
            &format!("{hosts} target_session_attrs=primary"),
            Mode::Replication,
        )
        .await;
    let error = refused(
        &server,
        &format!("{hosts} target_session_attrs=standby"),
        Mode::Replication,
    )
    .await;
    assert!(
        error.to_string().contains("not a standby") && error.to_string().contains("refused"),
        "{error}"
    );
    // Whom the first server that answers refuses is not let in by the next one.
    let twice = format!(
        "host=127.0.0.1,127.0.0.1 port={0},{0} user=postgres password=no",
        server.port()
    );
    let error = refused(&server, &twice, Mode::Regular).await;
    assert_eq!(error.sqlstate(), Some("28P01"));
}

#[tokio::test]
#[needs_servers]
async fn passwords_travel_as_the_server_asks_and_come_from_where_they_may() {
    let server = Server::start().await;
    let mut sql = server.sql().await;
    sql.query("set password_encryption = md5; create role legacy login password 'old'")
        .await
        .expect("a role");
    sql.query("create role clear login password 'plain'")
        .await
        .expect("a role");
    let at = format!("host=127.0.0.1 port={} dbname=postgres", server.port());
    server
        .connect(&format!("{at} user=legacy password=old"), Mode::Regular)
        .await;
    server
        .connect(&format!("{at} user=clear password=plain"), Mode::Regular)
        .await;
    assert_eq!(
        refused(
            &server,
            &format!("{at} user=legacy password=new"),
            Mode::Regular
        )
        .await
        .sqlstate(),
        Some("28P01")
    );
    for user in ["legacy", "clear", "postgres"] {
        let text = format!("{at} user={user} password=x channel_binding=require sslmode=disable");
        let error = refused(&server, &text, Mode::Regular).await;
        assert!(
            error.to_string().contains("channel binding is required"),
            "{error}"
        );
    }

    let escaped = PASSWORD.replace(':', "\\:");
    server.write(
        "pgpass",
        &format!(
            "127.0.0.1:{}:replication:postgres:{escaped}\n",
            server.port()
        ),
    );
    let text = format!(
        "{at} user=postgres passfile={}",
        server.path("pgpass").display()
    );
    server.connect(&text, Mode::Replication).await;
    let error = refused(&server, &text, Mode::Regular).await;
    assert!(
        error.to_string().contains("no line of the password file"),
        "{error}"
    );
    server.own("pgpass", 0o644);
    let error = refused(&server, &text, Mode::Replication).await;
    assert!(
        error.to_string().contains("set its mode to 0600"),
        "{error}"
    );
}

/// Makes a certificate called `name` with its key, signed by `issuer` or by itself.
fn certificate(
    server: &Server,
    name: &str,
    subject: &str,
    extensions: &[&str],
    issuer: Option<&str>,
) {
    let path = |suffix: &str| server.path(&format!("{name}.{suffix}"));
    let mut request = Command::new("openssl");
    request
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", subject,
        ])
        .arg("-keyout")
        .arg(path("key"))
        .arg("-out")
        .arg(path("crt"));
    for extension in extensions {
        request.args(["-addext", extension]);
    }
    if let Some(issuer) = issuer {
        request
            .arg("-CA")
            .arg(server.path(&format!("{issuer}.crt")));
        request
            .arg("-CAkey")
            .arg(server.path(&format!("{issuer}.key")));
    }
    let _ = Outcome::of(request).succeeded();
    server.own(&format!("{name}.key"), 0o600);
    server.own(&format!("{name}.crt"), 0o644);
}

/// Serves `name`'s certificate, and waits until it does.
async fn serve(server: &Server, name: &str) {
    for suffix in ["crt", "key"] {
        std::fs::copy(
            server.path(&format!("{name}.{suffix}")),
            server.data_directory().join(format!("server.{suffix}")),
        )
        .expect("copied");
    }
    server.own("data/server.key", 0o600);
    server.own("data/server.crt", 0o644);
    let mut sql = server.sql().await;
    let name = name.to_owned();
    server.configure(&format!("ssl = on\nwalvault.serves = '{name}'"));
    server.signal(Signal::HUP);
    eventually("the configuration is read", async || {
        let seen = sql
            .query("select current_setting('walvault.serves', true)")
            .await
            .expect("a row");
        seen.text(0, 0) == Some(name.as_str())
    })
    .await;
}

#[tokio::test]
#[needs_servers]
async fn tls_is_as_strict_as_sslmode_says() {
    let server = Server::start().await;
    let san = "subjectAltName=DNS:localhost";
    let leaf = "basicConstraints=critical,CA:FALSE";
    certificate(&server, "authority", "/CN=authority", &[], None);
    certificate(&server, "stranger", "/CN=stranger", &[], None);
    certificate(
        &server,
        "signed",
        "/CN=signed",
        &[san, leaf],
        Some("authority"),
    );
    certificate(
        &server,
        "client",
        "/CN=postgres",
        &[leaf],
        Some("authority"),
    );
    // As in the manual's section "Creating Certificates": an authority, and no alternative name.
    certificate(&server, "self", "/CN=localhost", &[], None);
    let named = |host: &str, rest: &str| {
        format!(
            "host={host} hostaddr=127.0.0.1 port={} user=postgres password='{PASSWORD}' dbname=postgres {rest}",
            server.port()
        )
    };
    let root = |name: &str| {
        format!(
            "sslrootcert={}",
            server.path(&format!("{name}.crt")).display()
        )
    };
    let encrypted = async |text: &str| {
        let mut session = server.connect(text, Mode::Regular).await;
        let seen = session
            .query("select ssl, version from pg_stat_ssl where pid = pg_backend_pid()")
            .await;
        let seen = seen.expect("a row");
        seen.text(0, 0) == Some("t")
    };

    serve(&server, "signed").await;
    let authority = root("authority");
    assert!(
        encrypted(&named("localhost", "")).await,
        "prefer means TLS where there is some"
    );
    assert!(!encrypted(&named("localhost", "sslmode=disable")).await);
    assert!(!encrypted(&named("localhost", "sslmode=allow")).await);
    assert!(
        encrypted(&named(
            "localhost",
            "sslmode=require channel_binding=require"
        ))
        .await
    );
    assert!(
        encrypted(&named(
            "localhost",
            "sslmode=require ssl_max_protocol_version=TLSv1.2"
        ))
        .await
    );
    assert!(
        encrypted(&named(
            "elsewhere",
            &format!("sslmode=verify-ca {authority}")
        ))
        .await
    );
    assert!(
        encrypted(&named(
            "localhost",
            &format!("sslmode=verify-full {authority} channel_binding=require")
        ))
        .await
    );
    let bound = named("localhost", "sslmode=require channel_binding=require");
    let mut session = server.connect(&bound, Mode::Replication).await;
    session
        .identify_system()
        .await
        .expect("replication over TLS");

    let tls_error = async |text: String, says: &str| {
        let error = refused(&server, &text, Mode::Regular).await;
        assert!(
            matches!(error, ClientError::Tls { .. }) && error.to_string().contains(says),
            "{error}"
        );
    };
    tls_error(
        named("elsewhere", &format!("sslmode=verify-full {authority}")),
        "sslmode=verify-ca",
    )
    .await;
    tls_error(
        named("127.0.0.1", &format!("sslmode=verify-full {authority}")),
        "sslmode=verify-ca",
    )
    .await;
    for mode in ["require", "verify-ca", "verify-full"] {
        let text = named("localhost", &format!("sslmode={mode} {}", root("stranger")));
        tls_error(text, "set sslrootcert").await;
    }
    let missing = named(
        "localhost",
        "sslmode=verify-ca sslrootcert=/nonexistent/root.crt",
    );
    tls_error(missing, "does not exist").await;
    assert!(
        encrypted(&named(
            "localhost",
            "sslmode=require sslrootcert=/nonexistent/root.crt"
        ))
        .await
    );
    // Preferring TLS, a server that is not to be trusted is spoken to without.
    assert!(
        !encrypted(&named(
            "localhost",
            &format!("sslmode=prefer {}", root("stranger"))
        ))
        .await
    );

    // Only with TLS is this user let in: allowing TLS is enough.
    let mut sql = server.sql().await;
    sql.query("create role encrypted_only login password 'x'")
        .await
        .expect("a role");
    let only = named("localhost", "sslmode=allow").replace("user=postgres", "user=encrypted_only");
    assert!(encrypted(&only.replace(&format!("'{PASSWORD}'"), "x")).await);

    // The certificate is the password.
    server.write(
        "data/root.crt",
        &std::fs::read_to_string(server.path("authority.crt")).expect("a certificate"),
    );
    let hba = std::fs::read_to_string(server.data_directory().join("pg_hba.conf")).expect("rules");
    server.write(
        "data/pg_hba.conf",
        &format!("hostssl postgres postgres 127.0.0.1/32 cert\n{hba}"),
    );
    server.configure("ssl_ca_file = 'root.crt'");
    serve(&server, "self").await;
    let shown = format!(
        "sslcert={} sslkey={}",
        server.path("client.crt").display(),
        server.path("client.key").display()
    );
    let without =
        named("localhost", "sslmode=require").replace(&format!("password='{PASSWORD}'"), "");
    assert!(encrypted(&format!("{without} {shown}")).await);
    let error = refused(&server, &without, Mode::Regular).await;
    assert_eq!(error.sqlstate(), Some("28000"), "{error}");
    server.own("client.key", 0o644);
    tls_error(format!("{without} {shown}"), "set its mode to 0600").await;
    server.own("client.key", 0o600);

    // A self-signed certificate that is its own root, named by its common name only.
    let own = root("self");
    for mode in ["verify-ca", "verify-full"] {
        assert!(
            encrypted(&format!("{without} {shown} sslmode={mode} {own}")).await,
            "{mode}"
        );
    }
    let elsewhere =
        format!("{without} {shown} sslmode=verify-full {own}").replace("localhost", "elsewhere");
    tls_error(elsewhere, "sslmode=verify-ca").await;
}
