//! An object store that delays, fails, loses answers and answers late.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use walvault_archive::clock;
use walvault_archive::layout::{ObjectKey, unit_containing};
use walvault_archive::store::{
    Body, ConditionalPut, ListPage, ObjectMeta, ObjectStore, StoreError,
};

use crate::world::{Planted, State, World};

const URL: &str = "simulated:";
/// So few that every listing takes several requests, between which the world goes on.
const PAGE: usize = 25;

/// One process's way to the store.
#[derive(Clone)]
pub struct SimulatedStore {
    world: World,
    process: u32,
    /// Whether nothing goes wrong: for whoever looks on.
    calm: bool,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    /// It never arrives.
    Lost,
    /// It is carried out, and nobody hears of it.
    Unanswered,
    /// It is carried out long after its sender gave up.
    Late,
}

impl SimulatedStore {
    pub fn of(world: &World, process: u32) -> SimulatedStore {
        SimulatedStore {
            world: world.clone(),
            process,
            calm: false,
        }
    }

    /// For whoever looks on.
    pub fn calm(world: &World) -> SimulatedStore {
        SimulatedStore {
            world: world.clone(),
            process: 0,
            calm: true,
        }
    }

    fn fate(&self) -> Fate {
        if self.calm {
            return Fate::Done;
        }
        if self.world.lock().outage_until > Instant::now() {
            return Fate::Lost;
        }
        match self.world.draw(100) {
            0..2 => Fate::Lost,
            2..5 => Fate::Unanswered,
            5 => Fate::Late,
            _ => Fate::Done,
        }
    }

    fn delay(&self) -> Duration {
        if self.calm {
            return Duration::ZERO;
        }
        let slow = self.world.lock().slow_until > Instant::now();
        let most = match (slow, self.world.one_in(20)) {
            (true, _) => 4000,
            (false, true) => 800,
            (false, false) => 20,
        };
        Duration::from_millis(self.world.draw(most))
    }

    /// Carries `change` out as fate has it, whether or not its sender is still there.
    async fn request<T: Send + 'static>(
        &self,
        action: &'static str,
        key: &str,
        change: impl FnOnce(&World) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let failed = |reason: &str| StoreError::unavailable(URL, action, key, reason);
        let (fate, there, back) = (self.fate(), self.delay(), self.delay());
        if fate == Fate::Lost {
            sleep(there).await;
            return Err(failed("no answer"));
        }
        let late = match fate {
            Fate::Late => Duration::from_millis(self.world.draw(5000)),
            _ => Duration::ZERO,
        };
        let world = self.world.clone();
        let (done, result) = oneshot::channel();
        // A request that was sent is carried out though its sender is killed.
        tokio::spawn(async move {
            sleep(there + late).await;
            let _ = done.send(change(&world));
        });
        match fate {
            Fate::Late => {
                sleep(there).await;
                Err(failed("timed out"))
            }
            Fate::Unanswered => {
                let _ = result.await;
                sleep(back).await;
                Err(failed("the connection was reset"))
            }
            Fate::Done | Fate::Lost => {
                let done = result.await.map_err(|_| failed("the store is gone"))?;
                sleep(back).await;
                Ok(done)
            }
        }
    }
}

impl fmt::Debug for SimulatedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(URL)
    }
}

impl State {
    /// Removes the segment after the one called `name`.
    fn remove_next(&mut self, name: &str) {
        let size = self.segment();
        let Some(ObjectKey::Wal(gone)) = ObjectKey::parse(name, size) else {
            return;
        };
        let follows = |key: &String| match ObjectKey::parse(key, size) {
            Some(ObjectKey::Wal(unit)) => {
                unit.timeline == gone.timeline && unit.range.start == gone.range.end
            }
            _ => false,
        };
        self.objects.retain(|key, _| !follows(key));
    }
}

#[async_trait]
impl ObjectStore for SimulatedStore {
    fn url(&self) -> &str {
        URL
    }

    async fn put(&self, key: &str, body: Body) -> Result<(), StoreError> {
        let size = self.world.lock().segment();
        let (name, process) = (key.to_owned(), self.process);
        let parsed = ObjectKey::parse(key, size);
        if let Some(ObjectKey::Wal(_) | ObjectKey::Tail(..)) = parsed {
            self.world.lock().check_writer(process, key);
        }
        let planted = self.world.lock().planted;
        if let (Planted::EarlyRemoval, Some(ObjectKey::Wal(unit))) = (planted, &parsed) {
            let (timeline, range) = (unit.timeline, unit.range);
            let chunk_of_it = |key: &String| match ObjectKey::parse(key, size) {
                Some(ObjectKey::Tail(on, chunk)) => {
                    on == timeline && unit_containing(chunk.start, size) == range
                }
                _ => false,
            };
            let mut state = self.world.lock();
            state.objects.retain(|key, _| !chunk_of_it(key));
            state.check_promises();
        }
        let put = move |world: &World| {
            let mut state = world.lock();
            if state.objects.contains_key(&name) {
                return Err(StoreError::exists(URL, &name));
            }
            // A data key's name is drawn by the operating system.
            let named = if name.starts_with("keys/") {
                "a data key"
            } else {
                &name
            };
            state.note(format!("process {process} stored {named}"));
            if let Some(ObjectKey::Writer(epoch)) = parsed {
                state.epoch_taken(epoch, process);
            }
            state.stored.insert(name.clone(), clock::now());
            state.objects.insert(name, body.bytes);
            Ok(())
        };
        self.request("put", key, put).await?
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let name = key.to_owned();
        let get = move |world: &World| {
            let held = world.lock().objects.get(&name).cloned();
            held.ok_or_else(|| StoreError::missing(URL, &name))
        };
        let bytes = self.request("get", key, get).await??;
        Ok(match range {
            Some(range) => {
                let cut = |at: u64| (at as usize).min(bytes.len());
                bytes.slice(cut(range.start)..cut(range.end))
            }
            None => bytes,
        })
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        let name = key.to_owned();
        let head = move |world: &World| {
            let state = world.lock();
            let held = state.objects.get(&name);
            held.map(|bytes| meta(&state, &name, bytes))
        };
        self.request("head", key, head).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<ListPage, StoreError> {
        let (begin, after) = (prefix.to_owned(), after.map(str::to_owned));
        let list = move |world: &World| {
            let state = world.lock();
            let under = state.objects.range(begin.clone()..);
            let under = under.take_while(|(key, _)| key.starts_with(&begin));
            let mut rest = under.filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after));
            let objects: Vec<_> = rest
                .by_ref()
                .take(PAGE)
                .map(|(key, bytes)| meta(&state, key, bytes))
                .collect();
            let more = rest.next().is_some();
            let last = objects.last().map(|object| object.key.clone());
            ListPage {
                next: last.filter(|_| more),
                objects,
            }
        };
        self.request("list", prefix, list).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let (name, process) = (key.to_owned(), self.process);
        let delete = move |world: &World| {
            let mut state = world.lock();
            if state.objects.remove(&name).is_some() {
                state.note(format!("process {process} removed {name}"));
                if state.planted == Planted::PruneTooFar && state.pruners.contains(&process) {
                    state.remove_next(&name);
                }
                state.check_promises();
            }
        };
        self.request("delete", key, delete).await
    }

    async fn conditional_put(&self) -> Result<ConditionalPut, StoreError> {
        Ok(ConditionalPut::Enforced)
    }
}

fn meta(state: &State, key: &str, bytes: &Bytes) -> ObjectMeta {
    ObjectMeta {
        key: key.to_owned(),
        size: bytes.len() as u64,
        modified: state.stored[key],
    }
}
