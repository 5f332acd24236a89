//! The URL of a store: which kind it is, and where in it the archive lies.

use std::fmt;
use std::path::PathBuf;

use url::Url;

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
}
