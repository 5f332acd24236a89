//! The data key that is sealed under at the moment, and how much was.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::DataKey;

/// A data key that may be replaced while sealers hold it: each object is sealed under the one that
/// is current when the object begins.
pub struct SealingKey {
    current: RwLock<Arc<DataKey>>,
    sealed: AtomicU64,
    /// When a key was made that others may have sealed under, until that is counted.
    uncounted: Mutex<Option<jiff::Timestamp>>,
}

impl SealingKey {
    /// Begins with `key`.
    #[must_use]
    pub fn new(key: Arc<DataKey>) -> SealingKey {
        SealingKey {
            current: RwLock::new(key),
            sealed: AtomicU64::new(0),
            uncounted: Mutex::default(),
        }
    }

    /// Begins with `key`, made at `begun`, under which objects may be stored already.
    #[must_use]
    pub(super) fn resumed(key: Arc<DataKey>, begun: jiff::Timestamp) -> SealingKey {
        SealingKey {
            uncounted: Mutex::new(Some(begun)),
            ..SealingKey::new(key)
        }
    }

    /// When the key was made, if what was stored before is still to be counted.
    pub(crate) fn counts_since(&self) -> Option<jiff::Timestamp> {
        *self
            .uncounted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what was stored before, once.
    pub(crate) fn count_since(&self, stored: impl FnOnce(jiff::Timestamp) -> u64) {
        let mut uncounted = self
            .uncounted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(begun) = uncounted.take() {
            self.count(stored(begun));
        }
    }

    /// The key to seal under now.
    #[must_use]
    pub fn current(&self) -> Arc<DataKey> {
        let current = self.current.read();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on, another one.
    pub(super) fn replace(&self, key: Arc<DataKey>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = key;
        self.sealed.store(0, Ordering::Relaxed);
    }

    /// Bytes stored under the current key, as far as is known here.
    #[must_use]
    pub fn sealed(&self) -> u64 {
        self.sealed.load(Ordering::Relaxed)
    }

    /// Counts bytes that were sealed.
    pub(crate) fn count(&self, bytes: u64) {
        self.sealed.fetch_add(bytes, Ordering::Relaxed);
    }
}
