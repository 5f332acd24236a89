//! Having the store answer for what is merely seen in it.
//!
//! Where several nodes keep an object, a PUT that failed may have reached one of them, and reads and
//! listings then show what is lost with that node: Garage stores and reads by quorum, and does not
//! repair what it reads. A process waits for the answers to its own PUTs; what it finds of an earlier
//! one, which may have been killed before it had an answer, it puts again before it relies on it.
//!
//! What is put again takes the place of what is stored, so it has to be that: it is opened under its name,
//! or, where it cannot be, read alike several times.

use bytes::Bytes;

use super::Archive;
use super::again::again;
use super::alike::{ALIKE, read_alike};
use crate::copy::check;
use crate::error::Error;
use crate::layout::ObjectKey;
use crate::store::{Body, ConditionalPut, SharedStore, StoreError};

impl Archive {
    /// Returns once the store has answered for an object that was found in it. A store that enforces
    /// write-once has. What may not be read or written here, or is damaged, is left as it is: whoever
    /// opens it says what is wrong.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when it is gone, so that whoever relied on it looks again, and when
    /// the store cannot be asked.
    pub async fn reaffirm(&self, key: &ObjectKey) -> Result<(), Error> {
        let (store, name) = (&self.inner.store, self.name(key));
        if store.conditional_put().await? == ConditionalPut::Enforced {
            return Ok(());
        }
        let opened = || async {
            let bytes = store.get(&name, None).await?;
            self.unseal(key, bytes.clone()).await?;
            Ok(bytes)
        };
        let read = match again(&name, opened).await {
            Ok(bytes) => Ok(Ok(bytes)),
            Err(error) if error.is_transient() => return Err(error),
            Err(Error::Store(error @ StoreError::Missing { .. })) => Err(error),
            Err(error) if error.is_withheld() => {
                let key = key.clone();
                read_alike(&**store, &name, ALIKE, move |bytes| {
                    check(&key, bytes).map(drop)
                })
                .await
            }
            Err(error) => Ok(Err(error.to_string())),
        };
        Ok(put_again(store, &name, read).await?)
    }
}

/// As [`Archive::reaffirm`], for an object that is not sealed. `check` says whether bytes can be it.
pub(crate) async fn reaffirm_unsealed(
    store: &SharedStore,
    name: &str,
    check: impl Fn(Bytes) -> Result<(), String> + Clone + Send + 'static,
) -> Result<(), StoreError> {
    if store.conditional_put().await? == ConditionalPut::Enforced {
        return Ok(());
    }
    let read = read_alike(&**store, name, ALIKE, check).await;
    put_again(store, name, read).await
}

/// Puts again what was `read`, if that is not damaged.
async fn put_again(
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

#[cfg(test)]
mod tests;
