//! Earlier versions of an object, in buckets that keep them.

use crate::s3::error::Answer;
use crate::s3::{ANSWER_TIMEOUT, S3Store, lock, within};
use crate::{ObjectStore, StoreError};

/// Removes an object with all its versions and delete markers. A store without versions has nothing
/// more than the object; neither has one whose listing of versions leaves objects or their ids out.
pub(super) async fn erase(store: &S3Store, key: &str) -> Result<(), StoreError> {
    let versions = match list(store, key).await {
        Ok(versions) => versions,
        Err(Answer::NotImplemented) => return store.delete(key).await,
        Err(answer) => return Err(store.context("erase", key).settle(answer)),
    };
    if versions.is_empty() {
        return match store.head(key).await? {
            Some(_) => store.delete(key).await,
            None => Ok(()),
        };
    }
    let context = store.context("erase", key);
    // The newest last: whatever stops this half-way, the object is still listed.
    for version in versions.into_iter().rev() {
        let request = store
            .client
            .delete_object()
            .bucket(&store.bucket)
            .key(store.full(key))
            .version_id(&version)
            .send();
        match within(ANSWER_TIMEOUT, &context, request).await? {
            Ok(_) => {}
            Err(error) => match context.error(&error) {
                StoreError::Missing { .. } => {}
                error => return Err(locked(store, key, &version).await.unwrap_or(error)),
            },
        }
    }
    Ok(())
}

/// Whether any version or delete marker of an object is there. A listing of versions that has none
/// does not prove it: some stores leave objects or their ids out.
pub(super) async fn remains(store: &S3Store, key: &str) -> Result<bool, StoreError> {
    match list(store, key).await {
        Ok(versions) if !versions.is_empty() => Ok(true),
        Ok(_) | Err(Answer::NotImplemented) => Ok(store.head(key).await?.is_some()),
        Err(answer) => Err(store.context("erase", key).settle(answer)),
    }
}

/// The lock that a refusal to remove a version is for; `None` when it is for something else, or it
/// cannot be asked.
async fn locked(store: &S3Store, key: &str, version: &str) -> Option<StoreError> {
    let until = lock::until(store, key, Some(version)).await.ok()??;
    Some(StoreError::Locked {
        store: store.url.clone(),
        key: key.to_owned(),
        until,
    })
}

/// The ids of all versions of one object; `null` is that of a bucket that never had versions.
async fn list(store: &S3Store, key: &str) -> Result<Vec<String>, Answer> {
    let context = store.context("erase", key);
    let full = store.full(key);
    let (mut found, mut key_marker, mut id_marker) = (Vec::new(), None, None);
    let mut seen = Vec::new();
    loop {
        let request = store
            .client
            .list_object_versions()
            .bucket(&store.bucket)
            .prefix(&full)
            .set_key_marker(key_marker)
            .set_version_id_marker(id_marker)
            .send();
        let page = within(ANSWER_TIMEOUT, &context, request).await?;
        let page = page.map_err(|error| context.answer(&error))?;
        let versions = page
            .versions()
            .iter()
            .map(|version| (version.key(), version.version_id()));
        let markers = page
            .delete_markers()
            .iter()
            .map(|marker| (marker.key(), marker.version_id()));
        for (key, id) in versions.chain(markers) {
            if let (Some(key), Some(id)) = (key, id)
                && key == full
            {
                found.push(id.to_owned());
            }
        }
        if !page.is_truncated().unwrap_or(false) {
            return Ok(found);
        }
        let next = page.next_key_marker().map(str::to_owned);
        let next = (next, page.next_version_id_marker().map(str::to_owned));
        // One that begins anew, or goes on where it did before, would never end.
        if next.0.is_none() || seen.contains(&next) {
            return Err(context.unavailable("the listing does not get on").into());
        }
        seen.push(next.clone());
        (key_marker, id_marker) = next;
    }
}
