use proptest::prelude::*;

use super::*;

fn nothing(_: &str) -> Option<String> {
    None
}

fn home(name: &str) -> Option<String> {
    match name {
        "HOME" => Some("/home/vault".to_owned()),
        "USER" => Some("somebody".to_owned()),
        _ => None,
    }
}

fn password(info: &ConnInfo) -> Option<&[u8]> {
    info.password.as_ref().map(|secret| secret.expose())
}

#[test]
fn reads_uris() {
    let info = ConnInfo::parse(
        "postgresql://va%75lt:p%40ss%3Aw%2Frd@[::1]:5433,db.example/app?sslmode=verify-full&application_name=a%20b",
        &home,
    )
    .expect("a URI");
    assert_eq!((info.user(), info.dbname()), ("vault", "app"));
    assert_eq!(info.endpoint(), "[::1]:5433, db.example:5432");
    assert_eq!(password(&info), Some(&b"p@ss:w/rd"[..]));
    assert_eq!(info.application_name(), "a b");
    assert_eq!(info.tls.mode, SslMode::VerifyFull);
    assert!(!format!("{info:?}").contains("p@ss"));

    let info =
        ConnInfo::parse("postgres://%2Frun%2Fpg:5440?user=u&ssl=true", &home).expect("a socket");
    assert_eq!(info.endpoint(), "/run/pg/.s.PGSQL.5440");
    assert_eq!((info.user(), info.tls.mode), ("u", SslMode::Require));
    let info = ConnInfo::parse("postgresql://", &home).expect("defaults");
    assert_eq!(
        (info.user(), info.endpoint().as_str()),
        ("somebody", "/var/run/postgresql/.s.PGSQL.5432")
    );
    let info = ConnInfo::parse("postgresql:///app?host=/tmp&port=5434", &home).expect("parameters");
    assert_eq!(info.endpoint(), "/tmp/.s.PGSQL.5434");
}

#[test]
fn reads_keyword_value_pairs() {
    let text = r"host = a,b port=1,2 user='o\'brien' password = x\ y dbname='' options='-c a=b' ";
    let info = ConnInfo::parse(text, &home).expect("pairs");
    assert_eq!((info.user(), info.dbname()), ("o'brien", "o'brien"));
    assert_eq!(info.endpoint(), "a:1, b:2");
    assert_eq!(password(&info), Some(&b"x y"[..]));
    assert_eq!(info.options.as_deref(), Some("-c a=b"));
    let info = ConnInfo::parse("password='a://b' host=h", &home).expect("pairs");
    assert_eq!(password(&info), Some(&b"a://b"[..]));
}

#[test]
fn the_text_wins_over_the_environment() {
    let env = |name: &str| {
        Some(match name {
            "PGUSER" => "from_env".to_owned(),
            "PGHOST" => "env.example".to_owned(),
            "PGPASSWORD" => "env".to_owned(),
            "PGSSLMODE" => "disable".to_owned(),
            _ => return None,
        })
    };
    let info = ConnInfo::parse("user=from_text", &env).expect("pairs");
    assert_eq!(
        (info.user(), info.endpoint().as_str()),
        ("from_text", "env.example:5432")
    );
    assert_eq!(
        (password(&info), info.tls.mode),
        (Some(&b"env"[..]), SslMode::Disable)
    );
    assert_eq!(info.passfile, None);
}

#[test]
fn variables_of_parameters_that_are_refused_are_refused() {
    for (variable, keyword) in [
        ("PGSERVICE", "service"),
        ("PGSSLCRL", "sslcrl"),
        ("PGREQUIREPEER", "requirepeer"),
        ("PGSSLCERTMODE", "sslcertmode"),
    ] {
        let env = |name: &str| (name == variable).then(|| "x".to_owned());
        let error = ConnInfo::parse("host=db", &env).expect_err("refused");
        let expected = format!("'{keyword}' is not supported");
        assert!(error.to_string().contains(&expected), "{error}");
    }
}

#[test]
fn defaults_live_in_the_home_directory() {
    let info = ConnInfo::parse("host=db", &home).expect("pairs");
    assert_eq!(info.passfile, Some(PathBuf::from("/home/vault/.pgpass")));
    assert_eq!(
        info.tls.roots,
        RootCertificates::File("/home/vault/.postgresql/root.crt".into())
    );
    assert_eq!(
        (info.tls.mode, info.connect_timeout),
        (SslMode::Prefer, Some(Duration::from_secs(10)))
    );
    let waits = |text: &str| ConnInfo::parse(text, &home).expect("pairs").connect_timeout;
    assert_eq!(waits("connect_timeout=0"), None);
    assert_eq!(waits("connect_timeout=1"), Some(Duration::from_secs(2)));
}

#[test]
fn mistakes_are_named_but_passwords_are_not() {
    let error = |text: &str| {
        ConnInfo::parse(text, &home)
            .expect_err("a mistake")
            .to_string()
    };
    assert!(error("host=a hots=b").contains("'hots'"));
    assert!(error("sslmode=on").contains("'sslmode' takes disable"));
    assert!(error("service=x").contains("'service' is not supported"));
    assert!(error("sslrootcert=system sslmode=require").contains("verify-full"));
    assert!(error("host=a,b port=1,2,3").contains("ports"));
    assert_eq!(
        ConnInfo::parse("host=a", &nothing).err(),
        Some(ConnInfoError::NoUser)
    );
    for text in [
        "postgresql://u:hun/ter2@h/db",
        "postgresql://u:hunter2%zz@h/db",
        "password=hun ter2",
        "password='hunter2",
        "mysql://u:hunter2@h",
    ] {
        assert!(!error(text).contains("ter2"), "{}", error(text));
    }
}

proptest! {
    #[test]
    fn parsing_never_panics(text in ".{0,80}") {
        let _ = ConnInfo::parse(&text, &home);
        let _ = ConnInfo::parse(&format!("postgresql://{text}"), &home);
    }

    #[test]
    fn percent_encoding_round_trips(value in "[^\0]{1,40}") {
        let encoded: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let info = ConnInfo::parse(&format!("postgresql://u:{encoded}@h"), &home).expect("a URI");
        prop_assert_eq!(password(&info), Some(value.as_bytes()));
    }

    #[test]
    fn quoting_round_trips(value in "[^\0]{1,40}") {
        let quoted = value.replace('\\', "\\\\").replace('\'', "\\'");
        let info = ConnInfo::parse(&format!("password='{quoted}' host=h"), &home).expect("pairs");
        prop_assert_eq!(password(&info), Some(value.as_bytes()));
    }
}
