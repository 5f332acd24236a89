//! The URL of an archive: which kind of store holds it, and where in that store it lies.

use std::fmt::{self, Write};
use std::path::Path;

use super::backends::{BACKENDS, Backend, StoreOptions};
use super::{SharedStore, StoreError};

/// The URL of an archive; it holds no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ArchiveUrl {
    backend: &'static Backend,
    /// What follows `://`, as the backend spells it.
    place: String,
}

impl ArchiveUrl {
    /// Reads a URL of one of [`BACKENDS`].
    ///
    /// # Errors
    /// What is wrong with it and how to write it, without showing what could be a secret.
    pub fn parse(text: &str) -> Result<ArchiveUrl, String> {
        let forms = BACKENDS.map(|backend| backend.form).join(" or ");
        let (scheme, place) = text
            .split_once("://")
            .ok_or_else(|| format!("it is not a URL; write {forms}"))?;
        let backend = BACKENDS
            .into_iter()
            .find(|backend| backend.scheme == scheme)
            .ok_or_else(|| format!("'{scheme}://' is not known; write {forms}"))?;
        let place = (backend.parse)(place)?;
        Ok(ArchiveUrl { backend, place })
    }

    /// The kind of store.
    #[must_use]
    pub fn backend(&self) -> &'static Backend {
        self.backend
    }

    /// The directory that it names on this host, if it is a `file://` URL.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        (self.backend.scheme == "file").then(|| Path::new(&self.place))
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }
}

/// The same in every process, so that configurations can be compared by it: no address of a function.
impl fmt::Debug for ArchiveUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArchiveUrl({self})")
    }
}

impl fmt::Display for ArchiveUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.backend.scheme)?;
        self.place
            .chars()
            .try_for_each(|c| match c.is_ascii() && !stands_for_itself(c) {
                true => write!(f, "%{:02X}", u32::from(c)),
                false => f.write_char(c),
            })
    }
}

/// Whether a character means the same in a URL as in a path, so that what is spelled is read back.
fn stands_for_itself(c: char) -> bool {
    c.is_ascii_alphanumeric() || "/-._~+=:@,".contains(c)
}

/// Opens the store at `url`. Nothing is asked of it yet, and nothing is retried: wrap it in
/// [`Retrying`](super::Retrying).
///
/// # Errors
/// [`StoreError::Refused`] when the options cannot work: a directory that is not there, an
/// endpoint without TLS, an unreadable CA file.
pub async fn open_at(url: &ArchiveUrl, options: &StoreOptions) -> Result<SharedStore, StoreError> {
    (url.backend().open)(url.place(), options).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spelled_is_read_back() {
        for place in [
            "/mnt/my archive",
            "/mnt/100%",
            "/mnt/a%20b",
            "/mnt/a#b?c",
            "/mnt/a\\b\tc",
            "/mnt/ends in ",
            "/mnt/Größe",
            "/mnt/a=b+c~d@e:f,g",
        ] {
            let backend = ArchiveUrl::parse("file:///a").unwrap().backend;
            let place = place.to_owned();
            let url = ArchiveUrl { backend, place };
            assert_eq!(ArchiveUrl::parse(&url.to_string()), Ok(url));
        }
    }

    #[test]
    fn what_a_url_would_drop_is_refused() {
        for (text, instead) in [
            ("file:///mnt/a#b", "%23"),
            ("file:///mnt/a?b", "%3F"),
            ("file:///mnt/a\\b", "%5C"),
            ("file:///mnt/a\tb", "%09"),
        ] {
            let error = ArchiveUrl::parse(text).unwrap_err();
            assert!(error.contains(instead), "{error}");
        }
    }

    #[test]
    fn urls_are_read_and_spelled() {
        for text in ["s3://bucket", "s3://my.bucket/a/b-c", "file:///mnt/archive"] {
            assert_eq!(ArchiveUrl::parse(text).unwrap().to_string(), text);
        }
        let parsed = ArchiveUrl::parse("s3://bucket/prod/").unwrap();
        assert_eq!(parsed.to_string(), "s3://bucket/prod");
        let parsed = ArchiveUrl::parse("file:///mnt/my%20archive").unwrap();
        assert_eq!(parsed.backend().scheme, "file");
        assert_eq!(parsed.place(), "/mnt/my archive");
        let parsed = ArchiveUrl::parse("file:///mnt//archive/").unwrap();
        assert_eq!(parsed, ArchiveUrl::parse("file:///mnt/archive").unwrap());
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
        let error = ArchiveUrl::parse("gs://bucket").unwrap_err();
        assert!(
            error.ends_with("write s3://bucket/prefix or file:///path"),
            "{error}"
        );
        let error = ArchiveUrl::parse("s3://AKIA:secret@bucket/x").unwrap_err();
        assert!(
            error.contains("no credentials") && !error.contains("secret"),
            "{error}"
        );
    }
}
