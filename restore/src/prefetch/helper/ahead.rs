//! The segments after the one that was asked for last, and the fetches that bring them.

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use walvault_archive::Archive;
use walvault_protocol::WalFileName;
use walvault_protocol::segment::segment_name;
use walvault_store::compute;

use crate::prefetch::site::{Asked, Spool};
use crate::prefetch::window::{Outcome, Position, Window};
use crate::wal::{WalFetchError, WalFile, fetch_whole};

/// How many files are flushed at once.
const FLUSHES: usize = 2;

/// Keeps the segments to come in a spool.
pub(super) struct Ahead {
    archive: Archive,
    spool: Arc<Spool>,
    state: Mutex<State>,
    fetches: Semaphore,
    flushes: Semaphore,
}

struct State {
    window: Window,
    running: HashMap<Position, AbortHandle>,
    asked: Option<Asked>,
    asked_at: Instant,
    stopped: bool,
}

impl Ahead {
    pub(super) fn new(archive: Archive, spool: Arc<Spool>, ahead: u64, at_once: usize) -> Ahead {
        Ahead {
            archive,
            spool,
            state: Mutex::new(State {
                window: Window::new(ahead),
                running: HashMap::new(),
                asked: None,
                asked_at: Instant::now(),
                stopped: false,
            }),
            fetches: Semaphore::new(at_once),
            flushes: Semaphore::new(FLUSHES),
        }
    }

    /// Whether nothing waits to be taken, and nothing is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.state().window.is_empty()
    }

    /// Begins nothing new, and ends what can be ended.
    pub(super) fn stop(&self) {
        let mut state = self.state();
        state.stopped = true;
        for (_, task) in state.running.drain() {
            task.abort();
        }
    }

    /// Moves on to the segment that was asked for last. Returns how long ago that was.
    pub(super) fn follow(self: &Arc<Ahead>) -> Duration {
        let asked = self.spool.asked();
        let mut state = self.state();
        if asked.is_some() && asked != state.asked {
            state.asked_at = Instant::now();
            state.asked.clone_from(&asked);
            drop(state);
            // A name that is not a segment's comes from nobody who reads one after the other.
            if let Some(position) = asked.and_then(|asked| self.position(&asked.name)) {
                self.move_to(position);
            }
            return Duration::ZERO;
        }
        if let Some(position) = state.window.ready()
            && !self.spool.file(&self.name(position)).exists()
        {
            state.window.taken(position);
        }
        state.asked_at.elapsed()
    }

    fn move_to(self: &Arc<Ahead>, position: Position) {
        let unwanted = self.state().window.ask(position);
        for position in unwanted {
            if let Some(task) = self.state().running.remove(&position) {
                task.abort();
            }
            self.discard(position);
        }
        let mut state = self.state();
        while !state.stopped
            && let Some(position) = state.window.next()
        {
            let task = tokio::spawn(self.clone().fetch(position));
            state.running.insert(position, task.abort_handle());
        }
    }

    async fn fetch(self: Arc<Ahead>, position: Position) {
        let fetched = async {
            let _permit = self.fetches.acquire().await;
            let mut file = WalFile::create(&self.spool.file(&self.name(position)))?;
            let (timeline, number) = position;
            match fetch_whole(&self.archive, timeline, number, &mut file).await? {
                true => Ok::<_, WalFetchError>(Some(file.publish()?)),
                false => Ok(None),
            }
        };
        // What went wrong is found again, and told, by whoever asks for it.
        let file = fetched.await.ok().flatten();
        let outcome = match file {
            Some(_) => Outcome::Ready,
            None => Outcome::NotWhole,
        };
        let wanted = {
            let mut state = self.state();
            state.running.remove(&position);
            state.window.fetched(position, outcome)
        };
        if !wanted {
            self.discard(position);
            return;
        }
        if let Some(file) = file {
            // PostgreSQL flushes it before it replays it: the earlier that begins, the less it waits.
            let _permit = self.flushes.acquire().await;
            let _ = compute::elsewhere(move || file.sync_data()).await;
        }
    }

    /// Removes a segment that nobody wants.
    fn discard(&self, position: Position) {
        // Where it is not complete, or taken, there is nothing to remove.
        let _ = fs::remove_file(self.spool.file(&self.name(position)));
    }

    fn position(&self, name: &str) -> Option<Position> {
        match WalFileName::parse(name, self.archive.segment_size())? {
            WalFileName::Segment(timeline, number) => Some((timeline, number)),
            _ => None,
        }
    }

    fn name(&self, (timeline, number): Position) -> String {
        segment_name(timeline, number, self.archive.segment_size())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
