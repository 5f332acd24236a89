use std::ffi::OsString;

use super::*;

const FILE: &str = "/etc/walvault/walvault.toml";

fn environment(variables: &[(&str, &str)]) -> Environment {
    let variables = variables
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Environment::new(variables).unwrap()
}

fn parse(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::from_sources(Some((Path::new(FILE), text)), &environment(variables))
}

fn with_url(text: &str) -> Result<Config, ConfigError> {
    parse(
        &format!("[archive]\nurl = \"s3://bucket/prod\"\n{text}"),
        &[],
    )
}

fn message(result: Result<Config, ConfigError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn everything_but_the_url_has_a_default() {
    let config = with_url("").unwrap();
    assert_eq!(config.postgres, PostgresSettings::default());
    assert_eq!(config.archive.url.to_string(), "s3://bucket/prod");
    assert_eq!(config.archive.options.s3, S3Settings::default());
    assert_eq!(config.wal.max_delay, std::time::Duration::from_secs(1));
    assert_eq!(config.wal.memory, 134_217_728);
    assert_eq!(config.backup.part_size, 33_554_432);
    assert!(message(parse("", &[])).starts_with("archive.url is not set"));
}

/// The documented defaults are the real ones, and the keys shown in comments are real as well.
#[test]
fn the_documented_defaults_are_true() {
    let url = ("WALVAULT__ARCHIVE__URL", "s3://bucket/prod");
    let documented = parse(DEFAULTS, &[url]).unwrap();
    assert_eq!(
        format!("{documented:?}"),
        format!("{:?}", with_url("").unwrap())
    );
    assert_eq!(documented.postgres, PostgresSettings::default());

    let mut uncommented = String::new();
    for line in DEFAULTS.lines() {
        uncommented.push_str(reference::commented(line).unwrap_or(line));
        uncommented.push('\n');
    }
    let config = parse(&uncommented, &[]).unwrap();
    assert_eq!(config.backup.max_rate, Some(64 << 20));
    assert_eq!(config.backup.schedule.as_deref(), Some("0 2 * * *"));
    assert_eq!(
        config.archive.options.s3.profile.as_deref(),
        Some("default")
    );
    let [copy] = &config.archive.copies[..] else {
        panic!("one copy")
    };
    assert_eq!(copy.url.to_string(), "file:///mnt/archive");
    let put = &config.archive.options.s3.put;
    assert_eq!(put.storage_class.backups.as_deref(), Some("STANDARD_IA"));
    assert!(matches!(&put.sse, Some(Sse::Kms(Some(_)))));
    let lock = put.object_lock.unwrap();
    assert_eq!(lock.retain_for.as_secs(), 30 * 86_400);
    assert_eq!(lock.retain_tail_for.as_secs(), 86_400);
    let encryption = &config.encryption;
    assert_eq!(
        encryption.key_file.as_deref(),
        Some(Path::new("/etc/walvault/key"))
    );
    let identity = IdentitySource::File("/etc/walvault/identity.txt".into());
    assert_eq!(encryption.identities, [identity]);
    assert_eq!(encryption.recipients, ["age1…"]);
    assert_eq!(encryption.rotate_after.as_secs(), 90 * 24 * 3600);
    assert_eq!(encryption.rotate_after_bytes, 1 << 40);
    assert!(encryption.kms.endpoint.is_some() && encryption.kms.region.is_some());
}

#[test]
fn the_environment_overrides_the_file() {
    let text = "[archive]\nurl = \"s3://bucket/file\"\n[wal]\nuploads = 2\nmemory = 67108864";
    let config = parse(
        text,
        &[
            ("WALVAULT__ARCHIVE__URL", "file:///archive"),
            ("WALVAULT__ARCHIVE__S3__PATH_STYLE", "true"),
            ("WALVAULT__ARCHIVE__S3__REGION", "garage"),
            ("WALVAULT__WAL__UPLOADS", "8"),
            ("WALVAULT__WAL__MAX_DELAY", "0"),
            ("WALVAULT__WAL__COMPRESSION", ""),
            ("WALVAULT_SERVICE_PORT", "9847"),
        ],
    )
    .unwrap();
    assert_eq!(
        config.archive.url,
        ArchiveUrl::parse("file:///archive").unwrap()
    );
    assert!(config.archive.options.s3.path_style);
    assert_eq!(config.archive.options.s3.region.as_deref(), Some("garage"));
    assert_eq!(config.wal.uploads, 8);
    assert_eq!(config.wal.memory, 64 << 20);
    assert_eq!(config.wal.max_delay, std::time::Duration::ZERO);
    assert_eq!(config.wal.compression, Compression::Lz4);
}

#[test]
fn misspelt_keys_are_errors_that_name_the_right_one() {
    let error = message(with_url("[wal]\nmax_dealy = \"1s\""));
    let expected = "unknown key in [wal] 'wal.max_dealy', set in /etc/walvault/walvault.toml; \
                    did you mean 'wal.max_delay'?";
    assert_eq!(error, expected);
    let error = message(with_url("[archive.s3]\nendpont = \"https://x\""));
    assert!(
        error.contains("did you mean 'archive.s3.endpoint'?"),
        "{error}"
    );
    let error = message(with_url("[postgress]\nslot = \"x\""));
    assert!(error.contains("unknown section 'postgress'"), "{error}");
    assert!(error.contains("did you mean 'postgres'?"), "{error}");
    let error = message(with_url("[log]\nquux = 1"));
    assert!(error.contains("known are: level"), "{error}");
    let error = message(parse(
        "url = \"s3://bucket/prod\"",
        &[("WALVAULT__ARCHIVE__URL", "s3://b1a")],
    ));
    assert!(
        error.contains("unknown key outside of any section 'url'"),
        "{error}"
    );
    let error = message(parse("", &[("WALVAULT__ARCHIVE__ULR", "s3://bucket/prod")]));
    let expected =
        "set by the environment variable WALVAULT__ARCHIVE__ULR; did you mean 'archive.url'?";
    assert!(error.contains(expected), "{error}");
    let error = message(parse("", &[("WALVAULT__ARCHVE__URL", "s3://bucket/prod")]));
    assert!(error.contains("did you mean 'archive'?"), "{error}");
}

#[test]
fn bad_values_are_errors_that_name_the_key_and_the_right_form() {
    for (text, expected) in [
        (
            "[wal]\nmax_delay = \"1 fortnight\"",
            "wal.max_delay, set in /etc/walvault/walvault.toml: '1 fortnight' is not a time",
        ),
        (
            "[wal]\nmax_delay = 5",
            "'5' is not a time; write it with a unit",
        ),
        ("[wal]\nmax_delay = \"-1s\"", "is not a time"),
        ("[wal]\nmax_delay = \"2h\"", "set it from 0s to 1h"),
        ("[wal]\nmemory = \"1MiB\"", "set it from 32.0 MiB to"),
        ("[wal]\nmemory = \"lots\"", "'lots' is not a size"),
        ("[wal]\nuploads = 0", "set it to a number from 1 to 64"),
        ("[wal]\nuploads = true", "wal.uploads"),
        (
            "[wal]\ncompression = \"gzip\"",
            "set it to \"lz4\" or \"zstd\" or \"none\"",
        ),
        (
            "[backup]\ncheckpoint = \"soon\"",
            "set it to \"fast\" or \"spread\"",
        ),
        ("[backup]\nmax_rate = 1", "set it from 32.0 KiB to 1.0 GiB"),
        ("[postgres]\nslot = \"Wal-Vault\"", "lower-case letters"),
        ("[encryption]\nkey_file = \"key\"", "absolute path"),
        (
            "[encryption]\nrecipients = [1]",
            "something else than texts",
        ),
        (
            "[encryption]\nidentities = [\"AGE-SECRET-KEY-1X\"]",
            "put the identity into a file",
        ),
        ("[encryption]\nrotate_after = \"-1d\"", "0 to"),
        (
            "[encryption.kms]\nendpoint = \"http://10.0.0.1\"",
            "without TLS",
        ),
        ("[log]\nlevel = \"loud\"", "\"info\""),
        ("[log]\nlevel = \"\"", "it is empty"),
        (
            "[archive.s3]\npath_style = \"maybe\"",
            "neither true nor false",
        ),
        (
            "ack = \"both\"",
            "archive.ack, set in /etc/walvault/walvault.toml: 'both' is not known",
        ),
        (
            "[[archive.copy]]\n[archive.copy.s3]\nregion = \"x\"",
            "archive.copy.url is not set",
        ),
        (
            "[[archive.copy]]\nurl = \"s3://bucket/prod\"",
            "is named twice",
        ),
        ("copy = [1]", "write [[archive.copy]]"),
        (
            "[archive.s3]\nstorage_class = \"DEEP_ARCHIVE\"",
            "set it to \"GLACIER_IR\"",
        ),
        (
            "[archive.s3]\nstorage_class = { wals = \"X\" }",
            "did you mean 'archive.s3.storage_class.wal'?",
        ),
        (
            "[archive.s3]\nsse_kms_key = \"k\"",
            "it is for archive.s3.sse = \"aws:kms\"",
        ),
        ("[archive.s3]\nsse = \"on\"", "\"AES256\" or \"aws:kms\""),
        (
            "[archive.s3]\nobject_lock = { mode = \"governance\" }",
            "archive.s3.object_lock.retain_for is not set",
        ),
        (
            "[archive.s3]\nobject_lock = { mode = \"compliance\", retain_for = \"0\" }",
            "locks nothing",
        ),
        (
            "[archive.s3]\nobject_lock = \"governance\"",
            "it is a section",
        ),
        (
            "[archive.s3]\nendpoint = \"http://minio:9000\"",
            "archive.s3.endpoint",
        ),
    ] {
        let error = message(with_url(text));
        assert!(error.contains(expected), "{text}: {error}");
    }
    let error = message(parse("", &[("WALVAULT__ARCHIVE__URL", "gs://bucket")]));
    let expected =
        "archive.url, set by the environment variable WALVAULT__ARCHIVE__URL: 'gs://' is not known";
    assert!(error.contains(expected), "{error}");
    let error = message(parse(
        "wal = 5",
        &[("WALVAULT__ARCHIVE__URL", "s3://bucket")],
    ));
    assert!(
        error.contains("wal, set in") && error.contains("it is a section"),
        "{error}"
    );
}

#[test]
fn the_admin_listener_is_open_to_this_machine_only_unless_it_is_protected() {
    let listen = |text: &str| with_url(&format!("[admin]\n{text}")).map(|config| config.admin);
    assert_eq!(
        listen("").unwrap().listen,
        Some(([127, 0, 0, 1], 9847).into())
    );
    assert_eq!(listen("listen = \"off\"").unwrap().listen, None);
    assert!(listen("listen = \"[::1]:0\"").unwrap().listen.is_some());
    let exposed = "listen = \"0.0.0.0:9847\"\n";
    let token = "token_file = \"/t\"\n";
    let tls = "tls_cert = \"/c\"\ntls_key = \"/k\"\n";
    for text in [
        exposed.to_owned(),
        format!("{exposed}{token}"),
        format!("{exposed}{tls}"),
    ] {
        let error = listen(&text).unwrap_err().to_string();
        assert!(
            error.contains("can be reached from other machines"),
            "{error}"
        );
    }
    let settings = listen(&format!("{exposed}{token}{tls}")).unwrap();
    assert_eq!(settings.token, Some(TokenSource::File("/t".into())));
    for (text, expected) in [
        ("listen = \"9847\"", "is not an address"),
        ("token = \"hunter2\"", "too short"),
        (
            "token = \"hunter2hunter2hunter2\"\ntoken_file = \"/t\"",
            "keep one",
        ),
        ("tls_cert = \"/c\"", "set admin.tls_key"),
        ("tls_key = \"/k\"", "set admin.tls_cert"),
    ] {
        let error = listen(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn passwords_are_never_shown() {
    let text = "[postgres]\nurl = \"postgresql://u:hunter2@db/postgres\"\n";
    let config = with_url(text).unwrap();
    assert!(config.postgres.url.reveal().contains("hunter2"));
    assert!(!format!("{config:?} {config:#?}").contains("hunter2"));

    let unclosed = with_url("[postgres]\nurl = \"postgresql://u:hunter2@db\nslot = \"x\"");
    let error = unclosed.unwrap_err();
    assert!(
        !format!("{error} {error:?}").contains("hunter2"),
        "{error:?}"
    );
    assert!(error.to_string().contains("line 4"), "{error}");
    let error = with_url("[postgres]\nurl = [\"hunter2\"]").unwrap_err();
    assert!(
        !format!("{error} {error:?}").contains("hunter2"),
        "{error:?}"
    );
    let error = with_url("[postgres]\npassword = \"hunter2\"").unwrap_err();
    assert!(
        !format!("{error} {error:?}").contains("hunter2"),
        "{error:?}"
    );

    use std::os::unix::ffi::OsStringExt;
    let name = OsString::from("WALVAULT__POSTGRES__URL");
    let error = Environment::new([(name, OsString::from_vec(b"hunter2\xff".to_vec()))]);
    let error = error.err().unwrap();
    assert!(
        !format!("{error} {error:?}").contains("hunter2"),
        "{error:?}"
    );
}

#[test]
fn the_file_is_the_one_that_is_named_first() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, url: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("[archive]\nurl = \"{url}\"")).unwrap();
        path
    };
    let explicit = file("explicit.toml", "file:///explicit");
    let named = file("named.toml", "file:///named");
    let default = file("default.toml", "file:///default");
    let absent = folder.path().join("absent.toml");
    let variable = environment(&[("WALVAULT_CONFIG", named.to_str().unwrap())]);
    let nothing = environment(&[]);
    let url = |explicit: Option<&Path>, environment, default: &Path| {
        Config::read(explicit, environment, default).map(|config| config.archive.url.to_string())
    };
    assert_eq!(
        url(Some(&explicit), &variable, &default).unwrap(),
        "file:///explicit"
    );
    assert_eq!(url(None, &variable, &default).unwrap(), "file:///named");
    assert_eq!(url(None, &nothing, &default).unwrap(), "file:///default");

    for missing in [
        url(Some(&absent), &variable, &default),
        url(None, &nothing, &absent),
    ] {
        let error = missing.unwrap_err().to_string();
        let expected = format!("cannot read the configuration {}", absent.display());
        assert!(error.starts_with(&expected), "{error}");
        assert!(error.contains("--config or WALVAULT_CONFIG"), "{error}");
    }
    let alone = environment(&[("WALVAULT__ARCHIVE__URL", "file:///alone")]);
    assert_eq!(url(None, &alone, &absent).unwrap(), "file:///alone");
    assert!(url(Some(&absent), &alone, &default).is_err());
}

/// Run with `WALVAULT_BLESS=1` after a key was added or changed, it writes the table anew.
#[test]
fn the_table_in_docs_lists_every_key_with_its_kind_and_default() {
    let table = reference::reference().unwrap();
    assert!(
        !table.contains("| ? |"),
        "a key takes a kind that has no name: {table}"
    );
    for line in [
        "| `max_delay` | duration, 0s to 1h | `\"1s\"` | How long WAL may wait before it is stored; 0 stores it at once. |",
        "| `uploads` | number, 1 to 64 | `4` | How many uploads run at once. |",
        "| `WALVAULT__ADMIN__TOKEN` | `token_file` in `[admin]` |",
    ] {
        assert!(table.contains(line), "{line} in {table}");
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let documented = std::fs::read_to_string(path).unwrap();
    let (begin, end) = ("<!-- keys: begin -->\n", "\n<!-- keys: end -->");
    let (before, rest) = documented.split_once(begin).unwrap();
    let (listed, after) = rest.split_once(end).unwrap();
    if std::env::var_os("WALVAULT_BLESS").is_some() {
        std::fs::write(path, format!("{before}{begin}{table}{end}{after}")).unwrap();
        return;
    }
    assert_eq!(
        listed, table,
        "run this test with WALVAULT_BLESS=1 to write the table of docs/configuration.md anew"
    );
}

#[test]
fn the_reference_in_docs_is_the_one_that_is_tested() {
    let documented = include_str!("../../docs/configuration.md");
    assert!(
        documented.contains(DEFAULTS),
        "docs/configuration.md must repeat config/defaults.toml"
    );
}
