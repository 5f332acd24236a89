//! What a PUT says besides the bytes: storage class, encryption by the store, Object Lock.

use std::time::Duration;

use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{ChecksumAlgorithm, ObjectLockMode, ServerSideEncryption, StorageClass};
use walvault_layout::{Purpose, purpose};

use super::{ObjectLockMode as Mode, S3PutSettings, S3Store, Sse};
use crate::clock;

/// For how long an object is locked that is put under `key`.
pub(super) fn retention(settings: &S3PutSettings, key: &str) -> Option<Duration> {
    let lock = settings.object_lock?;
    match purpose(key) {
        Purpose::Passing => None,
        Purpose::Tail => Some(lock.retain_tail_for),
        Purpose::Audit => Some(lock.retain_audit_for),
        Purpose::BackupPart | Purpose::Wal | Purpose::Record => Some(lock.retain_for),
    }
}

/// The request with what the configuration wants for an object under `key`.
pub(super) fn as_configured(
    store: &S3Store,
    key: &str,
    mut request: PutObjectFluentBuilder,
) -> PutObjectFluentBuilder {
    let settings = &store.put;
    let class = match purpose(key) {
        Purpose::BackupPart => settings.storage_class.backups.as_deref(),
        Purpose::Wal => settings.storage_class.wal.as_deref(),
        // Small or short-lived: other classes bill at least 128 KiB and 30 days of each.
        Purpose::Tail | Purpose::Passing | Purpose::Audit | Purpose::Record => None,
    };
    request = request.set_storage_class(class.map(StorageClass::from));
    if let Some(sse) = &settings.sse {
        let (algorithm, kms_key) = match sse {
            Sse::S3 => (ServerSideEncryption::Aes256, None),
            Sse::Kms(key) => (ServerSideEncryption::AwsKms, key.clone()),
            Sse::Dsse(key) => (ServerSideEncryption::AwsKmsDsse, key.clone()),
        };
        // One request to KMS for many objects; DSSE-KMS has no such thing.
        let bucket_key = matches!(sse, Sse::Kms(_)).then_some(true);
        request = request
            .server_side_encryption(algorithm)
            .set_ssekms_key_id(kms_key)
            .set_bucket_key_enabled(bucket_key);
    }
    if let (Some(lock), Some(length)) = (settings.object_lock, retention(settings, key)) {
        request = request
            // PutObject with a lock needs a checksum, and some stores look for its name alone.
            .checksum_algorithm(ChecksumAlgorithm::Sha256)
            .object_lock_mode(mode(lock.mode))
            .object_lock_retain_until_date(whole_second(clock::now() + length));
    }
    request
}

/// As S3 spells it.
pub(super) fn mode(mode: Mode) -> ObjectLockMode {
    match mode {
        Mode::Governance => ObjectLockMode::Governance,
        Mode::Compliance => ObjectLockMode::Compliance,
    }
}

/// The second in which `time` is or the one after: locks are never shorter than said.
pub(super) fn whole_second(time: jiff::Timestamp) -> DateTime {
    let more = i64::from(time.subsec_nanosecond() > 0);
    DateTime::from_secs(time.as_second() + more)
}
