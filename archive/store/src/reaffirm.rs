//! Repeating a PUT whose answer an earlier process may not have had.
//!
//! A store of several nodes can show an object that one of them took before the PUT failed, and lose
//! the object with that node. An answered PUT of the same bytes makes it durable.

use bytes::Bytes;

use super::{ALIKE, Body, SharedStore, StoreError, read_alike};

/// Returns once `store` has answered for an object that was found in it and is not sealed. `check` says
/// whether bytes can be that object.
///
/// # Errors
/// [`StoreError::Unavailable`] when the object is gone, or the store cannot be asked.
pub async fn reaffirm(
    store: &SharedStore,
    name: &str,
    check: impl Fn(Bytes) -> Result<(), String> + Clone + Send + 'static,
) -> Result<(), StoreError> {
    if !store.ignores_conditions().await? {
        return Ok(());
    }
    let read = read_alike(&**store, name, ALIKE, check).await;
    put_again(store, name, read).await
}

/// Puts again what was `read`, if that is not damaged. A store that refuses keeps what it has.
///
/// # Errors
/// As [`reaffirm`].
pub async fn put_again(
    store: &SharedStore,
    name: &str,
    read: Result<Result<Bytes, String>, StoreError>,
) -> Result<(), StoreError> {
    let put = match read {
        Ok(Ok(bytes)) => store.put_again(name, Body::new(bytes)).await,
        Ok(Err(reason)) => {
            tracing::warn!(
                store = store.url(),
                key = name,
                reason,
                "what was found in the store could not be put again, and might be lost with one of its nodes"
            );
            Ok(())
        }
        Err(error) => Err(error),
    };
    match put {
        Err(StoreError::Refused { reason, .. }) => {
            tracing::debug!(store = store.url(), key = name, reason, "not put again");
            Ok(())
        }
        Err(StoreError::Missing { .. }) => {
            let reason = "it was there a moment ago and is gone";
            Err(StoreError::unavailable(store.url(), "get", name, reason))
        }
        put => put,
    }
}
