//! What a proxy, or a faulty machine, does to answers: for tests.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::hooked::{Hooked, Hooks};
use super::{ObjectStore, StoreError};

/// A store the way to which alters a bit of each object a number of times.
pub type OnTheWay = Hooked<Alterations>;

/// What is still altered, and how.
#[derive(Debug, Default)]
pub struct Alterations {
    /// How many answers are still altered.
    pub damaging: AtomicU32,
    /// Only answers that are larger.
    pub spared: AtomicUsize,
}

#[async_trait]
impl Hooks for Alterations {
    async fn get(
        &self,
        store: &dyn ObjectStore,
        key: &str,
        range: Option<Range<u64>>,
    ) -> Result<Bytes, StoreError> {
        let mut bytes = store.get(key, range).await?.to_vec();
        let left = self.damaging.load(Ordering::Relaxed);
        if left > 0 && bytes.len() > self.spared.load(Ordering::Relaxed) {
            self.damaging.store(left - 1, Ordering::Relaxed);
            let place = bytes.len() * 2 / 3;
            bytes[place] ^= 1;
        }
        Ok(bytes.into())
    }
}
