//! Objects in memory, for tests.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use walvault_layout::{Purpose, purpose};

use crate::{Body, Capabilities, ListPage, Locks, ObjectMeta, ObjectStore, StoreError, clock, key};

/// How many objects a page of a listing holds.
const PAGE: usize = 1000;

/// A store that lives as long as the process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    objects: Mutex<BTreeMap<String, Stored>>,
    time: Mutex<Option<jiff::Timestamp>>,
    retention: Mutex<Option<Duration>>,
}

#[derive(Debug, Clone)]
struct Stored {
    bytes: Bytes,
    modified: jiff::Timestamp,
    locked_until: Option<jiff::Timestamp>,
}

impl Stored {
    fn meta(&self, key: &str) -> ObjectMeta {
        ObjectMeta {
            key: key.to_owned(),
            size: self.bytes.len() as u64,
            modified: self.modified,
        }
    }
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// Stops the store's clock at `time`.
    pub fn set_time(&self, time: jiff::Timestamp) {
        *self.time.lock().unwrap_or_else(PoisonError::into_inner) = Some(time);
    }

    /// Locks what is put from now on for so long, as a bucket with Object Lock does.
    pub fn set_retention(&self, length: Duration) {
        *self
            .retention
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(length);
    }

    fn now(&self) -> jiff::Timestamp {
        let time = *self.time.lock().unwrap_or_else(PoisonError::into_inner);
        time.unwrap_or_else(clock::now)
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Stored>> {
        // Every change is a single call on the map, so a panic elsewhere leaves it whole.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    fn url(&self) -> &str {
        "memory:"
    }

    async fn put(&self, key: &str, body: Body) -> Result<(), StoreError> {
        key::check(self.url(), "put", key)?;
        let mut objects = self.objects();
        if objects.contains_key(key) {
            return Err(StoreError::exists(self.url(), key));
        }
        let stored = Stored {
            bytes: body.bytes,
            modified: self.now(),
            locked_until: Held(self).retention(key).map(|length| self.now() + length),
        };
        objects.insert(key.to_owned(), stored);
        Ok(())
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        key::check(self.url(), "get", key)?;
        let stored = self.objects().get(key).cloned();
        let bytes = stored
            .ok_or_else(|| StoreError::missing(self.url(), key))?
            .bytes;
        StoreError::check_size(self.url(), key, bytes.len() as u64)?;
        let Some(range) = range else {
            return Ok(bytes);
        };
        let cut = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        let (start, end) = (cut(range.start), cut(range.end));
        Ok(bytes.slice(start..end.max(start)))
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        key::check(self.url(), "head", key)?;
        Ok(self.objects().get(key).map(|stored| stored.meta(key)))
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<ListPage, StoreError> {
        key::check_prefix(self.url(), prefix)?;
        let objects = self.objects();
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut found = objects
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, stored)| stored.meta(key));
        let page: Vec<ObjectMeta> = found.by_ref().take(PAGE).collect();
        let more = found.next().is_some();
        Ok(ListPage {
            next: page.last().filter(|_| more).map(|last| last.key.clone()),
            objects: page,
        })
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        key::check(self.url(), "delete", key)?;
        if let Some(until) = Held(self).locked_until(key).await? {
            return Err(StoreError::Locked {
                store: self.url().to_owned(),
                key: key.to_owned(),
                until,
            });
        }
        self.objects().remove(key);
        Ok(())
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            locks: Some(Box::new(Held(self))),
            versions: None,
            leftovers: None,
            overwrites: None,
            batches: None,
            replicas: Vec::new(),
        }
    }
}

/// The locks on what is held in memory.
struct Held<'a>(&'a MemoryStore);

#[async_trait]
impl Locks for Held<'_> {
    async fn locked_until(&self, key: &str) -> Result<Option<jiff::Timestamp>, StoreError> {
        let until = self.0.objects().get(key).and_then(|held| held.locked_until);
        Ok(until.filter(|until| *until > self.0.now()))
    }

    fn retention(&self, key: &str) -> Option<Duration> {
        let length = *self
            .0
            .retention
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        length.filter(|_| purpose(key) != Purpose::Passing)
    }

    async fn retain(&self, key: &str, until: jiff::Timestamp) -> Result<(), StoreError> {
        let mut objects = self.0.objects();
        let held = objects.get_mut(key);
        let held = held.ok_or_else(|| StoreError::missing(self.0.url(), key))?;
        held.locked_until = held.locked_until.max(Some(until));
        Ok(())
    }
}
