//! An object store that delays, fails, loses answers and answers late.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use walvault_layout::{ObjectKey, unit_containing};
use walvault_store::{
    Body, Capabilities, ListPage, ObjectMeta, ObjectStore, Overwrites, StoreError, clock,
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
    /// Of the store's nodes only one carries it out.
    Partial,
}

/// How many nodes take a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Enough,
    OneNode,
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
        let has_nodes = self.world.lock().has_nodes;
        if self.world.lock().outage_until > Instant::now() {
            return match has_nodes && self.world.one_in(2) {
                true => Fate::Partial,
                false => Fate::Lost,
            };
        }
        match self.world.draw(100) {
            0..2 => Fate::Lost,
            2..5 => Fate::Unanswered,
            5 => Fate::Late,
            6..8 if has_nodes => Fate::Partial,
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
        change: impl FnOnce(&World, Reach) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let failed = |reason: &str| StoreError::unavailable(URL, action, key, reason);
        let (fate, there, back) = (self.fate(), self.delay(), self.delay());
        if fate == Fate::Lost || fate == Fate::Partial && !matches!(action, "put") {
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
            let reach = match fate {
                Fate::Partial => Reach::OneNode,
                _ => Reach::Enough,
            };
            let _ = done.send(change(&world, reach));
        });
        match fate {
            Fate::Late => {
                sleep(there).await;
                Err(failed("timed out"))
            }
            Fate::Unanswered | Fate::Partial => {
                let _ = result.await;
                sleep(back).await;
                Err(failed(match fate {
                    Fate::Partial => "503, too few nodes answered",
                    _ => "the connection was reset",
                }))
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
    /// The one node is lost that has what no other has.
    pub fn lose_node(&mut self) {
        for name in std::mem::take(&mut self.partial) {
            if self.objects.remove(&name).is_some() {
                self.note(format!("{name} is lost with its node"));
            }
        }
        self.check_promises();
    }

    /// Takes in an object, which has to be written once.
    fn take(&mut self, name: &str, bytes: Bytes, reach: Reach) {
        self.stored.insert(name.to_owned(), clock::now());
        self.objects.insert(name.to_owned(), bytes);
        match reach {
            Reach::Enough => self.partial.remove(name),
            Reach::OneNode => self.partial.insert(name.to_owned()),
        };
    }

    /// Whether the store does not tell a process that another took over from it.
    fn is_hidden(&self, key: &str, process: u32) -> bool {
        match (self.planted, ObjectKey::parse(key, self.segment())) {
            (Planted::StaleWriter, Some(ObjectKey::Writer(epoch))) => {
                self.epoch_of(process).is_some_and(|own| own < epoch)
            }
            _ => false,
        }
    }

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
        let put = move |world: &World, reach: Reach| {
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
            let whole = if reach == Reach::OneNode {
                " on one node"
            } else {
                ""
            };
            state.note(format!("process {process} stored {named}{whole}"));
            if let Some(ObjectKey::Writer(epoch)) = parsed {
                state.epoch_taken(epoch, process);
            }
            state.take(&name, body.bytes, reach);
            Ok(())
        };
        self.request("put", key, put).await?
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let name = key.to_owned();
        let get = move |world: &World, _| {
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
        let head = move |world: &World, _| {
            let state = world.lock();
            let held = state.objects.get(&name);
            held.map(|bytes| meta(&state, &name, bytes))
        };
        self.request("head", key, head).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<ListPage, StoreError> {
        let (begin, after) = (prefix.to_owned(), after.map(str::to_owned));
        let process = self.process;
        let list = move |world: &World, _| {
            let state = world.lock();
            let hidden = |key: &str| state.is_hidden(key, process);
            let under = state.objects.range(begin.clone()..);
            let under = under.take_while(|(key, _)| key.starts_with(&begin));
            let under = under.filter(|(key, _)| !hidden(key));
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
        let delete = move |world: &World, _| {
            let mut state = world.lock();
            if state.objects.remove(&name).is_some() {
                state.partial.remove(&name);
                state.note(format!("process {process} removed {name}"));
                if state.planted == Planted::PruneTooFar && state.pruners.contains(&process) {
                    state.remove_next(&name);
                }
                state.check_promises();
            }
        };
        self.request("delete", key, delete).await
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            overwrites: Some(Box::new(Repeated(self))),
            ..Capabilities::none()
        }
    }
}

/// A store of several nodes lets an object be put again. That it lets others be overwritten is not
/// played.
struct Repeated<'a>(&'a SimulatedStore);

#[async_trait]
impl Overwrites for Repeated<'_> {
    async fn ignores_conditions(&self) -> Result<bool, StoreError> {
        Ok(self.0.world.lock().has_nodes)
    }

    async fn put_again(&self, key: &str, body: Body) -> Result<(), StoreError> {
        if self.0.world.lock().planted == Planted::SeenIsStored {
            return Ok(());
        }
        let name = key.to_owned();
        let put = move |world: &World, reach: Reach| {
            let mut state = world.lock();
            // A PUT that one node takes changes nothing of what the others have.
            let known = state.objects.contains_key(&name);
            if reach == Reach::Enough || !known {
                state.take(&name, body.bytes, reach);
            }
        };
        self.0.request("put", key, put).await
    }
}

fn meta(state: &State, key: &str, bytes: &Bytes) -> ObjectMeta {
    ObjectMeta {
        key: key.to_owned(),
        size: bytes.len() as u64,
        modified: state.stored[key],
    }
}
