//! Removing objects: one, or many in one request.

use std::sync::atomic::Ordering;

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};

use super::{ANSWER_TIMEOUT, S3Store, within};
use crate::StoreError;

/// What stores answer that do not know the request, or want another checksum with it.
const NOT_TAKEN: [&str; 7] = [
    "NotImplemented",
    "MethodNotAllowed",
    "MalformedXML",
    "MissingContentMD5",
    "InvalidDigest",
    "InvalidRequest",
    "InvalidArgument",
];

/// Removes an object. In a bucket with versions it becomes an earlier version.
pub(super) async fn one(store: &S3Store, key: &str) -> Result<(), StoreError> {
    let context = store.context("delete", key);
    let request = store
        .client
        .delete_object()
        .bucket(&store.bucket)
        .key(store.full(key));
    match within(ANSWER_TIMEOUT, &context, request.send()).await? {
        Ok(_) => Ok(()),
        Err(error) => match context.error(&error) {
            StoreError::Missing { .. } => Ok(()),
            error => Err(error),
        },
    }
}

/// Whether the store is not known to refuse batches.
pub(super) fn takes_batches(store: &S3Store) -> bool {
    !store.no_batches.load(Ordering::Relaxed)
}

/// Removes objects in one request (`DeleteObjects`), as [`one`] does each. Returns those that the
/// store says are gone. Not every store has the request, or takes the checksum that goes with it.
pub(super) async fn batch(store: &S3Store, keys: &[String]) -> Result<Vec<String>, StoreError> {
    let first = keys.first().map_or("", String::as_str);
    let context = store.context("delete", first);
    let objects = keys.iter().map(|key| {
        let object = ObjectIdentifier::builder().key(store.full(key));
        object.build()
    });
    let objects: Result<Vec<_>, _> = objects.collect();
    let delete = objects.and_then(|all| Delete::builder().set_objects(Some(all)).build());
    let delete = delete.map_err(|error| context.unavailable(error))?;
    let request = store
        .client
        .delete_objects()
        .bucket(&store.bucket)
        .delete(delete);
    let answer = match within(ANSWER_TIMEOUT, &context, request.send()).await? {
        Ok(answer) => answer,
        Err(error) => {
            let status = error.raw_response().map_or(0, |raw| raw.status().as_u16());
            let not_taken = match error.meta().code() {
                Some(code) => NOT_TAKEN.contains(&code),
                None => matches!(status, 400 | 404 | 405 | 501),
            };
            let error = context.settle(context.answer(&error));
            if not_taken {
                tracing::debug!(store = store.url, %error, "objects are removed one by one");
                store.no_batches.store(true, Ordering::Relaxed);
            }
            return Err(match (not_taken, error) {
                (true, StoreError::Missing { .. }) => context.refused("no such request", ""),
                (_, error) => error,
            });
        }
    };
    let deleted = answer.deleted().iter().filter_map(|gone| gone.key());
    let absent = answer
        .errors()
        .iter()
        .filter(|error| error.code() == Some("NoSuchKey"))
        .filter_map(|error| error.key());
    let gone = deleted.chain(absent);
    let keys = gone.filter_map(|key| key.strip_prefix(&store.prefix));
    Ok(keys.map(str::to_owned).collect())
}
