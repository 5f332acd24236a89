//! `[archive]`: where the archive is.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use url::{Host, Url};

use crate::config::reader::{Field, Section};
use crate::config::s3_put::S3PutSettings;
use crate::config::{ConfigError, Place, values};

/// `[archive]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveSettings {
    /// `url`: where the archive is.
    pub url: ArchiveUrl,
    /// `[archive.s3]`: how to reach it, if it is in a bucket.
    pub s3: S3Settings,
    /// `[[archive.copy]]`: further places that hold all of it.
    pub copies: Vec<CopySettings>,
    /// `ack`: which of them WAL must be in to count as archived.
    pub ack: Ack,
    /// Whether nothing may be written: the command line names the archive, to read from it.
    pub read_only: bool,
}

/// `[[archive.copy]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopySettings {
    /// `url`: where it is.
    pub url: ArchiveUrl,
    /// `s3`: how to reach it, if it is in a bucket.
    pub s3: S3Settings,
}

/// Which of several archives WAL must be in to be reported as flushed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ack {
    /// `first`: in the one that is furthest.
    #[default]
    First,
    /// `all`: in each.
    All,
}

/// The URL of an archive; it holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveUrl {
    /// `file:///path`
    Directory(PathBuf),
    /// `s3://bucket/prefix`
    S3 {
        /// The bucket's name.
        bucket: String,
        /// What all keys begin with; may be empty, and neither begins nor ends with `/`.
        prefix: String,
    },
}

/// `[archive.s3]`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct S3Settings {
    /// `endpoint`: the URL of a store that is not AWS's.
    pub endpoint: Option<String>,
    /// `region`: the bucket's; looked up as AWS's tools do if not set.
    pub region: Option<String>,
    /// `path_style`: put the bucket into the path instead of the host name.
    pub path_style: bool,
    /// `ca_file`: the certificates to trust instead of the system's, in PEM.
    pub ca_file: Option<PathBuf>,
    /// `allow_http`: let an endpoint on another machine do without TLS.
    pub allow_http: bool,
    /// `profile`: the profile in AWS's own configuration files to use.
    pub profile: Option<String>,
    /// `storage_class`, `sse` and `object_lock`: how objects are kept.
    pub put: S3PutSettings,
}

impl ArchiveSettings {
    pub(super) fn read(mut section: Section) -> Result<ArchiveSettings, ConfigError> {
        let s3 = S3Settings::read(section.section("s3")?)?;
        let url = section.take("url");
        let copies = section.sections("copy")?;
        let ack = section.take("ack");
        section.finish()?;
        let url = read_url(url, "archive.url")?;
        let mut settings = ArchiveSettings {
            url,
            s3,
            copies: Vec::new(),
            ack: Ack::default(),
            read_only: false,
        };
        if let Some(field) = ack {
            settings.ack = values::word(field, &[("first", Ack::First), ("all", Ack::All)])?;
        }
        for mut section in copies {
            let s3 = S3Settings::read(section.section("s3")?)?;
            let field = section.take("url");
            section.finish()?;
            let url = read_url(field, "archive.copy.url")?;
            if settings.places().iter().any(|place| place.url == url) {
                return Err(ConfigError::Invalid {
                    key: "archive.copy.url".to_owned(),
                    place: Place::Nowhere,
                    reason: format!("'{url}' is named twice; a copy is somewhere else"),
                });
            }
            settings.copies.push(CopySettings { url, s3 });
        }
        Ok(settings)
    }

    /// It, with a lock on the audit trail of at least this length, if there are locks.
    pub(super) fn keeping_audit_for(mut self, length: std::time::Duration) -> ArchiveSettings {
        let copies = self.copies.iter_mut().map(|copy| &mut copy.s3);
        for s3 in [&mut self.s3].into_iter().chain(copies) {
            if let Some(lock) = &mut s3.put.object_lock {
                lock.retain_audit_for = lock.retain_for.max(length);
            }
        }
        self
    }

    /// Every place that holds the archive; the first is that of `[archive]` itself.
    #[must_use]
    pub fn places(&self) -> Vec<CopySettings> {
        let first = CopySettings {
            url: self.url.clone(),
            s3: self.s3.clone(),
        };
        [first].into_iter().chain(self.copies.clone()).collect()
    }
}

fn read_url(field: Option<Field>, key: &'static str) -> Result<ArchiveUrl, ConfigError> {
    let field = field.ok_or(ConfigError::Required {
        key,
        remedy: "set it to where the archive is, such as \"s3://bucket/prefix\" or \
                 \"file:///mnt/archive\"",
    })?;
    let text = field.is("`s3://…` or `file:///…`").text()?;
    ArchiveUrl::parse(&text).map_err(|reason| field.invalid(reason))
}

impl ArchiveUrl {
    /// Reads `file:///path` or `s3://bucket/prefix`.
    ///
    /// # Errors
    /// What is wrong with it and how to write it, without showing what could be a secret.
    pub fn parse(text: &str) -> Result<ArchiveUrl, String> {
        match text.split_once("://") {
            Some(("file", _)) => {
                let path = Url::parse(text)
                    .ok()
                    .and_then(|url| url.to_file_path().ok());
                // The URL's host: a name after two slashes is easily meant as a directory.
                let path = path.filter(|_| text.starts_with("file:///"));
                path.map(ArchiveUrl::Directory)
                    .ok_or_else(|| "write an absolute path: file:///path".to_owned())
            }
            Some(("s3", rest)) => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.contains('@') {
                    return Err(
                        "no credentials belong in it; give them as AWS's tools take them, \
                                in the environment or a profile"
                            .to_owned(),
                    );
                }
                if !is_bucket(bucket) {
                    return Err(format!(
                        "'{bucket}' cannot be a bucket; write s3://bucket/prefix"
                    ));
                }
                let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
                if !is_prefix(prefix) {
                    return Err(format!(
                        "'{prefix}' cannot be a prefix; use names of letters, digits and \
                         -_.=+~ with single slashes between them"
                    ));
                }
                let (bucket, prefix) = (bucket.to_owned(), prefix.to_owned());
                Ok(ArchiveUrl::S3 { bucket, prefix })
            }
            Some((scheme, _)) => Err(format!(
                "'{scheme}://' is not known; write s3://bucket/prefix or file:///path"
            )),
            None => Err("it is not a URL; write s3://bucket/prefix or file:///path".to_owned()),
        }
    }
}

impl fmt::Display for ArchiveUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ArchiveUrl::Directory(path) => write!(f, "file://{}", path.display()),
            ArchiveUrl::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            ArchiveUrl::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

impl S3Settings {
    fn read(mut section: Section) -> Result<S3Settings, ConfigError> {
        let mut text = |name| section.take(name).map(|field| field.text()).transpose();
        let mut settings = S3Settings {
            region: text("region")?,
            profile: text("profile")?,
            ..S3Settings::default()
        };
        settings.ca_file = section.take("ca_file").map(values::path).transpose()?;
        if let Some(field) = section.take("path_style") {
            settings.path_style = field.boolean()?;
        }
        if let Some(field) = section.take("allow_http") {
            settings.allow_http = field.boolean()?;
        }
        settings.put = S3PutSettings::read(&mut section)?;
        let endpoint = section.take("endpoint");
        section.finish()?;
        if let Some(field) = endpoint {
            settings.endpoint = Some(field.is("URL").text()?);
            settings
                .check_endpoint()
                .map_err(|reason| field.invalid(reason))?;
        }
        Ok(settings)
    }

    /// Checks that the endpoint, if there is one, is an address that may be spoken to.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_endpoint(&self) -> Result<(), String> {
        let Some(endpoint) = &self.endpoint else {
            return Ok(());
        };
        if !is_encrypted_or_local(endpoint)? && !self.allow_http {
            return Err(format!(
                "'{endpoint}' is without TLS: who listens learns what is archived when; use https, \
                 or set allow_http = true in [archive.s3]"
            ));
        }
        Ok(())
    }
}

/// Checks that `endpoint` is the URL of a server and nothing more; whether it has TLS, or is on
/// this machine.
pub(super) fn is_encrypted_or_local(endpoint: &str) -> Result<bool, String> {
    let form = "write https://host or https://host:port";
    let url = Url::parse(endpoint).map_err(|error| format!("it is not a URL ({error}); {form}"))?;
    let (Some(host), "http" | "https") = (url.host(), url.scheme()) else {
        return Err(format!("it is not the URL of a server; {form}"));
    };
    let bare = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
        && url.path() == "/";
    if !bare {
        return Err(format!("it says more than where the server is; {form}"));
    }
    Ok(url.scheme() == "https" || is_loopback(&host))
}

/// Whether a URL's host is this machine, so that nobody can listen on the way.
pub(crate) fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost",
        Host::Ipv4(address) => IpAddr::from(*address).is_loopback(),
        Host::Ipv6(address) => IpAddr::from(*address).is_loopback(),
    }
}

/// The names S3 has ever allowed ("Bucket naming rules", with the old capitals and underscores).
fn is_bucket(name: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (3..=255).contains(&name.len()) && name.bytes().all(sound) && !name.starts_with('.')
}

/// Characters that every store takes and no signature trips over.
fn is_prefix(prefix: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.=+~".contains(&byte);
    prefix.is_empty()
        || prefix.len() <= 512
            && prefix.split('/').all(|part| {
                !part.is_empty() && part != "." && part != ".." && part.bytes().all(sound)
            })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_spelled() {
        for text in ["s3://bucket", "s3://my.bucket/a/b-c", "file:///mnt/archive"] {
            assert_eq!(ArchiveUrl::parse(text).unwrap().to_string(), text);
        }
        let parsed = ArchiveUrl::parse("s3://bucket/prod/").unwrap();
        assert_eq!(parsed.to_string(), "s3://bucket/prod");
        let parsed = ArchiveUrl::parse("file:///mnt/my%20archive").unwrap();
        assert_eq!(parsed, ArchiveUrl::Directory("/mnt/my archive".into()));
        for bad in [
            "",
            "bucket",
            "gs://bucket",
            "s3://",
            "s3://b",
            "s3://bucket//a",
            "s3://bucket/../x",
            "s3://bucket/a b",
            "file://mnt/archive",
            "file://",
            "s3:/bucket",
        ] {
            assert!(ArchiveUrl::parse(bad).is_err(), "{bad}");
        }
        let error = ArchiveUrl::parse("s3://AKIA:secret@bucket/x").unwrap_err();
        assert!(
            error.contains("no credentials") && !error.contains("secret"),
            "{error}"
        );
    }

    #[test]
    fn endpoints_are_bare_and_encrypted() {
        let check = |endpoint: &str, allow_http| {
            let settings = S3Settings {
                endpoint: Some(endpoint.to_owned()),
                allow_http,
                ..S3Settings::default()
            };
            settings.check_endpoint()
        };
        for good in [
            "https://minio:9000",
            "http://localhost:3900",
            "http://[::1]:3900",
            "https://x/",
        ] {
            check(good, false).unwrap();
        }
        check("http://minio:9000", true).unwrap();
        for bad in [
            "http://minio:9000",
            "minio:9000",
            "https://u:secret@x",
            "https://x/bucket",
            "ftp://x",
        ] {
            let error = check(bad, false).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
        let error = check("http://10.0.0.1", false).unwrap_err();
        assert!(error.contains("allow_http = true"), "{error}");
    }
}
