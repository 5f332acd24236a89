//! Having the store answer for what is merely seen in it.
//!
//! Where several nodes keep an object, a PUT that failed may have reached one of them, and reads and
//! listings then show what is lost with that node: Garage stores and reads by quorum, and does not
//! repair what it reads. A process waits for the answers to its own PUTs; what it finds of an earlier
//! one, which may have been killed before it had an answer, it puts again before it relies on it.
//!
//! What is put again takes the place of what is stored, so it has to be that: it is opened under its name,
//! or, where it cannot be, read alike several times.

use walvault_layout::ObjectKey;
use walvault_store::{ALIKE, StoreError, put_again, read_alike};

use super::Archive;
use super::again::again;
use crate::error::Error;
use crate::seal::check_whole;

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
        if !store.ignores_conditions().await? {
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
                    check_whole(&key, bytes).map(drop)
                })
                .await
            }
            Err(error) => Ok(Err(error.to_string())),
        };
        Ok(put_again(store, &name, read).await?)
    }
}

#[cfg(test)]
mod tests;
