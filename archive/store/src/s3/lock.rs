//! Locks on objects that are there: until when, and longer.

use aws_sdk_s3::types::{
    ChecksumAlgorithm, ObjectLockLegalHoldStatus, ObjectLockRetention, ObjectLockRetentionMode,
};

use super::error::Answer;
use super::{ANSWER_TIMEOUT, ObjectLockMode, S3Store, put, timestamp, within};
use crate::StoreError;
use crate::clock;

/// Until when the store does not let an object, or one version of it, go. A legal hold has no end:
/// it is the end of time.
pub(super) async fn until(
    store: &S3Store,
    key: &str,
    version: Option<&str>,
) -> Result<Option<jiff::Timestamp>, StoreError> {
    let context = store.context("head", key);
    let request = store
        .client
        .head_object()
        .bucket(&store.bucket)
        .key(store.full(key))
        .set_version_id(version.map(str::to_owned))
        .send();
    let found = match within(ANSWER_TIMEOUT, &context, request).await? {
        Ok(found) => found,
        // A HEAD has no body to say what is missing; what is not there is not locked.
        Err(error)
            if error
                .raw_response()
                .is_some_and(|raw| raw.status().as_u16() == 404) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(context.error(&error)),
    };
    if found.object_lock_legal_hold_status() == Some(&ObjectLockLegalHoldStatus::On) {
        return Ok(Some(jiff::Timestamp::MAX));
    }
    let until = found
        .object_lock_retain_until_date()
        .copied()
        .map(timestamp);
    Ok(until.filter(|until| *until > clock::now()))
}

/// Locks an object until `until`.
pub(super) async fn retain(
    store: &S3Store,
    key: &str,
    until: jiff::Timestamp,
) -> Result<(), StoreError> {
    let context = store.context("lock", key);
    let Some(lock) = store.put.object_lock else {
        return Err(context.refused("no lock is configured", "set archive.s3.object_lock"));
    };
    let mode = match lock.mode {
        ObjectLockMode::Governance => ObjectLockRetentionMode::Governance,
        ObjectLockMode::Compliance => ObjectLockRetentionMode::Compliance,
    };
    let retention = ObjectLockRetention::builder()
        .mode(mode)
        .retain_until_date(put::whole_second(until))
        .build();
    let request = store
        .client
        .put_object_retention()
        .bucket(&store.bucket)
        .key(store.full(key))
        .checksum_algorithm(ChecksumAlgorithm::Sha256)
        .retention(retention)
        .send();
    match within(ANSWER_TIMEOUT, &context, request).await? {
        Ok(_) => Ok(()),
        Err(error) => Err(match context.answer(&error) {
            Answer::NotImplemented => context.refused(
                "the store does not implement Object Lock",
                "leave archive.s3.object_lock out, or use a store that has it",
            ),
            answer => context.settle(answer),
        }),
    }
}
