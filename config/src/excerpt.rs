//! A configuration that reads an archive and says nothing else, for processes that shall not know more.

use std::fmt::Write;

use walvault_archive::keys::identity::KMS_IDENTITY;

use crate::environment::PREFIX;
use crate::environment::names;
use crate::{Config, CopySettings, EncryptionSettings, IdentitySource, S3Settings};

/// What the names of AWS's variables begin with.
const AWS: &str = "AWS_";

impl Config {
    /// The text of a configuration in which the archive is at `places` alone and is opened by the
    /// identities of `encryption`; what is not about reading is left out. Environment variables that
    /// override keys override its keys too: see [`overriding_variables`].
    #[must_use]
    pub fn excerpt(&self, places: &[CopySettings], encryption: &EncryptionSettings) -> String {
        let mut text = String::new();
        for (number, place) in places.iter().enumerate() {
            let (head, s3) = match number {
                0 => ("[archive]", "[archive.s3]"),
                _ => ("[[archive.copy]]", "[archive.copy.s3]"),
            };
            line(&mut text, head);
            set(&mut text, "url", &place.url.to_string());
            line(&mut text, s3);
            reach(&mut text, &place.options.s3);
        }
        line(&mut text, "[encryption]");
        if let Some(path) = &encryption.key_file {
            set(&mut text, "key_file", &path.to_string_lossy());
        }
        let identities = encryption.identities.iter().map(|source| match source {
            IdentitySource::File(path) => quoted(&path.to_string_lossy()),
            IdentitySource::Kms => quoted(KMS_IDENTITY),
        });
        let identities: Vec<String> = identities.collect();
        line(
            &mut text,
            &format!("identities = [{}]", identities.join(", ")),
        );
        line(&mut text, "[trust]");
        let writers = encryption.trust.writers.iter();
        let writers: Vec<String> = writers.map(|writer| quoted(&writer.to_string())).collect();
        line(&mut text, &format!("writers = [{}]", writers.join(", ")));
        line(&mut text, "[encryption.kms]");
        let kms = &encryption.kms;
        let ca_file = kms.ca_file.as_ref().map(|path| path.to_string_lossy());
        for (name, value) in [
            ("endpoint", kms.endpoint.as_deref()),
            ("region", kms.region.as_deref()),
            ("profile", kms.profile.as_deref()),
            ("ca_file", ca_file.as_deref()),
        ] {
            value
                .into_iter()
                .for_each(|value| set(&mut text, name, value));
        }
        line(&mut text, "[restore]");
        let retry = self.restore.retry_for.as_millis();
        set(&mut text, "retry_for", &format!("{retry}ms"));
        line(&mut text, &format!("prefetch = {}", self.restore.prefetch));
        text
    }
}

/// The names of the variables of this process that override keys of a configuration, or name it: what a
/// process that shall read another must not be given.
#[must_use]
pub fn overriding_variables() -> Vec<String> {
    names()
        .filter(|name| name.starts_with(PREFIX) || name == super::environment::CONFIG_FILE)
        .collect()
}

/// The names of the variables of this process that hold credentials and that no process needs which only
/// reads an archive at `places` with the identities of `encryption`. AWS's own variables are needed where
/// the archive is in S3 or KMS opens it.
#[must_use]
pub fn needless_credentials(
    places: &[CopySettings],
    encryption: &EncryptionSettings,
) -> Vec<String> {
    let by_aws = |place: &CopySettings| place.url.backend().credentials == Some(AWS);
    let asks_aws =
        places.iter().any(by_aws) || encryption.identities.contains(&IdentitySource::Kms);
    names().filter(|name| is_needless(name, asks_aws)).collect()
}

fn is_needless(name: &str, asks_aws: bool) -> bool {
    // Of libpq's variables, those with secrets or the names of files with secrets.
    const LIBPQ: [&str; 5] = [
        "PGPASSWORD",
        "PGPASSFILE",
        "PGSERVICEFILE",
        "PGSSLKEY",
        "PGSSLPASSWORD",
    ];
    // Sections that reading an archive does not use, and that may hold a password or a token.
    const SECTIONS: [&str; 3] = ["POSTGRES__", "ADMIN__", "NOTIFY__"];
    let section = name.strip_prefix(PREFIX);
    LIBPQ.contains(&name)
        || section.is_some_and(|key| SECTIONS.iter().any(|section| key.starts_with(section)))
        || (!asks_aws && name.starts_with(AWS))
}

fn reach(text: &mut String, s3: &S3Settings) {
    let ca_file = s3.ca_file.as_ref().map(|path| path.to_string_lossy());
    for (name, value) in [
        ("endpoint", s3.endpoint.as_deref()),
        ("region", s3.region.as_deref()),
        ("profile", s3.profile.as_deref()),
        ("ca_file", ca_file.as_deref()),
    ] {
        value.into_iter().for_each(|value| set(text, name, value));
    }
    line(text, &format!("path_style = {}", s3.path_style));
    line(text, &format!("allow_http = {}", s3.allow_http));
}

fn set(text: &mut String, name: &str, value: &str) {
    line(text, &format!("{name} = {}", quoted(value)));
}

/// What JSON escapes in a string, TOML reads.
fn quoted(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

fn line(text: &mut String, content: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{content}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_needless_unless_the_archive_is_read_with_them() {
        for name in [
            "PGPASSWORD",
            "WALVAULT__POSTGRES__URL",
            "WALVAULT__ADMIN__TOKEN",
            "WALVAULT__NOTIFY__SECRET",
        ] {
            assert!(
                is_needless(name, true) && is_needless(name, false),
                "{name}"
            );
        }
        for name in ["WALVAULT__ARCHIVE__URL", "WALVAULT_CONFIG", "PATH", "LANG"] {
            assert!(!is_needless(name, false), "{name}");
        }
        assert!(!is_needless("AWS_SECRET_ACCESS_KEY", true));
        assert!(is_needless("AWS_SECRET_ACCESS_KEY", false));
    }

    #[test]
    fn an_excerpt_reads_the_same_places_with_the_identities_given_alone() {
        let text = r#"
            [postgres]
            url = "postgresql://walvault:secret@db/postgres"
            [archive]
            url = "s3://bucket/prefix"
            [archive.s3]
            endpoint = "https://minio.example:9000"
            region = "r\"1\\"
            path_style = true
            [[archive.copy]]
            url = "file:///mnt/the copy"
            [encryption]
            key_file = "/etc/walvault/key"
            identities = ["/etc/walvault/id", "awskms"]
            [trust]
            writers = ["ed25519:XhO1zHsXAIIK9XQL3_ViveaMSQYfxUliUxg2sM0VJtc"]
            [encryption.kms]
            region = "eu-central-1"
            [restore]
            retry_for = "1500ms"
            prefetch = 0
        "#;
        let config = Config::from_toml(text).expect("a configuration");
        let places = config.archive.places();
        let excerpt = config.excerpt(&places, &config.encryption);
        assert!(!excerpt.contains("secret"), "{excerpt}");
        let read = Config::from_toml(&excerpt).expect("a configuration");
        assert_eq!(read.archive.places(), places);
        assert_eq!(read.encryption, config.encryption);
        assert_eq!(read.restore, config.restore);

        let escrow = EncryptionSettings {
            identities: vec![IdentitySource::File("/mnt/escrow".into())],
            ..EncryptionSettings::default()
        };
        let excerpt = config.excerpt(&places[1..], &escrow);
        assert!(
            !excerpt.contains("bucket") && !excerpt.contains("/etc/walvault"),
            "{excerpt}"
        );
        let read = Config::from_toml(&excerpt).expect("a configuration");
        assert_eq!(read.archive.places(), places[1..]);
        assert_eq!(read.encryption, escrow);
    }
}
