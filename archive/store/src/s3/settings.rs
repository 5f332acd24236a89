//! How a bucket is reached, and how objects are put into it.

use std::path::PathBuf;
use std::time::Duration;

use crate::endpoint::is_encrypted_or_local;

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

/// How objects are put into a bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct S3PutSettings {
    /// `storage_class`
    pub storage_class: StorageClasses,
    /// `sse` and `sse_kms_key`: encryption by the store, on top of walvault's own.
    pub sse: Option<Sse>,
    /// `object_lock`: until when the store lets nobody remove an object.
    pub object_lock: Option<ObjectLock>,
    /// `checksum`: what the store is to check an object's bytes by.
    pub checksum: Checksum,
}

/// `checksum`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Checksum {
    /// `sha256`: `x-amz-checksum-sha256`, which the store keeps.
    #[default]
    Sha256,
    /// `none`: the hash that the request is signed with alone, for stores that refuse the header.
    Signature,
}

/// `storage_class`, as S3 spells it; the bucket's default where it is not set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StorageClasses {
    /// `backups`: of backups' parts.
    pub backups: Option<String>,
    /// `wal`: of whole segments.
    pub wal: Option<String>,
}

/// Encryption by the store (S3 User Guide, "Protecting data with server-side encryption").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sse {
    /// `AES256`: SSE-S3.
    S3,
    /// `aws:kms`: SSE-KMS, with the key `sse_kms_key` or AWS's own for S3.
    Kms(Option<String>),
    /// `aws:kms:dsse`: DSSE-KMS.
    Dsse(Option<String>),
}

/// `object_lock`: how long objects are locked when they are put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectLock {
    /// `mode`
    pub mode: ObjectLockMode,
    /// `retain_for`: of all but what is passing.
    pub retain_for: Duration,
    /// `retain_tail_for`: of chunks, which give way to their segment.
    pub retain_tail_for: Duration,
    /// `[audit] retain_for`: of the audit trail, where that is longer than `retain_for`.
    pub retain_audit_for: Duration,
}

/// Who can end a lock early (S3 User Guide, "Locking objects with Object Lock").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectLockMode {
    /// Whoever has `s3:BypassGovernanceRetention`.
    Governance,
    /// Nobody.
    Compliance,
}

impl S3Settings {
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

#[cfg(test)]
mod tests {
    use super::*;

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
