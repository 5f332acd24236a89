//! Multipart uploads that nobody finished: a bucket keeps their parts, and bills them, for ever.

use super::error::Answer;
use super::{ANSWER_TIMEOUT, S3Store, timestamp, within};
use crate::{Leftover, StoreError};

/// Uploads below the store's prefix that were begun before `before`.
pub(super) async fn find(
    store: &S3Store,
    before: jiff::Timestamp,
) -> Result<Vec<Leftover>, StoreError> {
    let context = store.context("list", "");
    let (mut found, mut after) = (Vec::new(), None::<(String, String)>);
    let mut seen = Vec::new();
    loop {
        let (key, upload) = after.unzip();
        let request = store
            .client
            .list_multipart_uploads()
            .bucket(&store.bucket)
            .prefix(&store.prefix)
            .set_key_marker(key)
            .set_upload_id_marker(upload)
            .send();
        let listed = match within(ANSWER_TIMEOUT, &context, request).await? {
            Ok(listed) => listed,
            Err(error) => match context.answer(&error) {
                // A store that has no such listing has no such uploads to bill.
                Answer::NotImplemented => return Ok(Vec::new()),
                answer => return Err(context.settle(answer)),
            },
        };
        for upload in listed.uploads() {
            let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) else {
                continue;
            };
            let begun = upload.initiated().copied().map(timestamp);
            let key = key.strip_prefix(&store.prefix);
            if let (Some(key), Some(begun)) = (key, begun.filter(|begun| *begun < before)) {
                found.push(Leftover {
                    key: key.to_owned(),
                    upload: Some(id.to_owned()),
                    size: 0,
                    begun,
                });
            }
        }
        if !listed.is_truncated().unwrap_or(false) {
            return Ok(found);
        }
        let next = listed.next_key_marker().zip(listed.next_upload_id_marker());
        let next = next.map(|(key, upload)| (key.to_owned(), upload.to_owned()));
        // One that begins anew, or goes on where it did before, would never end.
        if next.is_none() || seen.contains(&next) {
            return Err(context.unavailable("the listing does not get on"));
        }
        seen.push(next.clone());
        after = next;
    }
}

/// Abandons an upload.
pub(super) async fn remove(store: &S3Store, leftover: &Leftover) -> Result<(), StoreError> {
    let context = store.context("delete", &leftover.key);
    let Some(upload) = &leftover.upload else {
        return Ok(());
    };
    let request = store
        .client
        .abort_multipart_upload()
        .bucket(&store.bucket)
        .key(store.full(&leftover.key))
        .upload_id(upload)
        .send();
    match within(ANSWER_TIMEOUT, &context, request).await? {
        Ok(_) => Ok(()),
        Err(error) => match context.error(&error) {
            // Finished or abandoned meanwhile.
            StoreError::Missing { .. } => Ok(()),
            error => Err(error),
        },
    }
}
