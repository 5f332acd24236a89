//! Having the store answer for what is merely seen in it.
//!
//! Where several nodes keep an object, a PUT that failed may have reached one of them, and reads and
//! listings then show what is lost with that node: Garage stores and reads by quorum, and does not
//! repair what it reads. A process waits for the answers to its own PUTs; what it finds of an earlier
//! one, which may have been killed before it had an answer, it puts again before it relies on it.

use super::Archive;
use crate::compute;
use crate::copy::check;
use crate::error::Error;
use crate::layout::ObjectKey;
use crate::store::{ConditionalPut, SharedStore, StoreError};

/// How often an object is read until it counts as damaged.
const READS: u32 = 3;

impl Archive {
    /// Returns once the store has answered for an object that was found in it. A store that enforces
    /// write-once has. What may not be read or written here, or is damaged, is left as it is: whoever
    /// opens it says what is wrong.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when it is gone, so that whoever relied on it looks again, and when
    /// the store cannot be asked.
    pub async fn reaffirm(&self, key: &ObjectKey) -> Result<(), Error> {
        Ok(reaffirm(&self.inner.store, key, &self.name(key)).await?)
    }
}

/// As [`Archive::reaffirm`], for what is called `name` in `store`.
pub(crate) async fn reaffirm(
    store: &SharedStore,
    key: &ObjectKey,
    name: &str,
) -> Result<(), StoreError> {
    if store.conditional_put().await? == ConditionalPut::Enforced {
        return Ok(());
    }
    match put_again(store, key, name).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(reason)) => {
            tracing::warn!(
                store = store.url(),
                key = name,
                reason,
                "what was found in the store could not be put again, and might be lost with one of its nodes"
            );
            Ok(())
        }
        Err(StoreError::Refused { reason, .. }) => {
            tracing::debug!(store = store.url(), key = name, reason, "not put again");
            Ok(())
        }
        Err(StoreError::Missing { .. }) => {
            let reason = "it was there a moment ago and is gone";
            Err(StoreError::unavailable(store.url(), "get", name, reason))
        }
        Err(error) => Err(error),
    }
}

/// What is wrong with the object, if it is damaged.
async fn put_again(
    store: &SharedStore,
    key: &ObjectKey,
    name: &str,
) -> Result<Result<(), String>, StoreError> {
    let mut damaged = String::new();
    for _ in 0..READS {
        let bytes = store.get(name, None).await?;
        let key = key.clone();
        match compute::elsewhere(move || check(&key, bytes)).await {
            Ok(body) => return store.put_again(name, body).await.map(Ok),
            Err(reason) => damaged = reason,
        }
    }
    Ok(Err(damaged))
}

#[cfg(test)]
mod tests;
