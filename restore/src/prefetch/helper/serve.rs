//! Requests, and the fetches that they lead to.

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{Mutex as AsyncMutex, Semaphore, watch};
use tokio::task::AbortHandle;
use walvault_archive::Archive;
use walvault_protocol::WalFileName;
use walvault_protocol::segment::segment_name;

use crate::prefetch::protocol::{Answer, BEAT, LONGEST, Request};
use crate::prefetch::site::Site;
use crate::prefetch::window::{Outcome, Position, Slot, Window};
use crate::wal::{Fetched, WalFetchError, WalFile, fetch, fetch_whole};

/// How long a client may take to rename or copy a file.
const HAND_OVER: Duration = Duration::from_secs(10);
/// How many files are flushed at once.
const FLUSHES: usize = 2;

/// What all requests share.
pub(super) struct Server {
    archive: Archive,
    site: Site,
    state: Mutex<State>,
    /// Told whenever a fetch has ended.
    changed: watch::Sender<()>,
    fetches: Semaphore,
    flushes: Semaphore,
    /// Held while a file is handed over, so that no two clients are told to take the same.
    turn: AsyncMutex<()>,
    /// Names files that are fetched for one request alone.
    unique: AtomicU64,
}

struct State {
    window: Window,
    running: HashMap<Position, AbortHandle>,
    /// How many requests wait for each segment.
    waiting: HashMap<Position, usize>,
    open: usize,
    last: Instant,
    stopped: bool,
}

impl Server {
    pub(super) fn new(archive: Archive, site: Site, ahead: u64, at_once: usize) -> Server {
        Server {
            archive,
            site,
            state: Mutex::new(State {
                window: Window::new(ahead),
                running: HashMap::new(),
                waiting: HashMap::new(),
                open: 0,
                last: Instant::now(),
                stopped: false,
            }),
            changed: watch::Sender::new(()),
            fetches: Semaphore::new(at_once),
            flushes: Semaphore::new(FLUSHES),
            turn: AsyncMutex::new(()),
            unique: AtomicU64::new(0),
        }
    }

    /// Whether nothing waits to be asked for.
    pub(super) fn is_empty(&self) -> bool {
        self.state().window.is_empty()
    }

    /// Since when nobody has been asking; `None` while somebody is.
    pub(super) fn quiet_since(&self) -> Option<Instant> {
        let state = self.state();
        (state.open == 0).then_some(state.last)
    }

    /// Begins nothing new, and ends what can be ended.
    pub(super) fn stop(&self) {
        let mut state = self.state();
        state.stopped = true;
        for (_, task) in state.running.drain() {
            task.abort();
        }
    }

    /// Answers one client.
    pub(super) async fn converse(self: Arc<Server>, stream: UnixStream) {
        self.state().open += 1;
        // A client that is gone needs no answer.
        let _ = self.answer(stream).await;
        let mut state = self.state();
        state.open -= 1;
        state.last = Instant::now();
    }

    async fn answer(self: &Arc<Server>, stream: UnixStream) -> std::io::Result<()> {
        let mut client = Client::new(stream);
        let name = match client.request().await? {
            Request::Want(name) => name,
            Request::Taken(name) => {
                if let Some(position) = self.position(&name) {
                    self.was_taken(position);
                }
                return Ok(());
            }
        };
        if let Some(position) = self.position(&name) {
            *self.state().waiting.entry(position).or_default() += 1;
            let handed = self.hand_over(&mut client, position).await;
            let mut state = self.state();
            if let Some(waiting) = state.waiting.get_mut(&position) {
                *waiting -= 1;
                if *waiting == 0 {
                    state.waiting.remove(&position);
                }
            }
            drop(state);
            if handed? {
                return Ok(());
            }
        }
        self.fetch_once(&mut client, &name).await
    }

    /// Hands a segment over that is stored whole; `false` if it is not.
    async fn hand_over(
        self: &Arc<Server>,
        client: &mut Client,
        position: Position,
    ) -> std::io::Result<bool> {
        let mut changed = self.changed.subscribe();
        self.want(position);
        loop {
            let slot = self.state().window.slot(position);
            match slot {
                None => return Ok(false),
                Some(Slot::Fetching) => {
                    // The sender lives as long as this.
                    let _ = client.keep_waiting(changed.changed()).await?;
                }
                Some(Slot::Ready) => {
                    let turn = self.turn.lock().await;
                    if self.state().window.slot(position) != Some(Slot::Ready) {
                        // Another client has just taken it.
                        drop(turn);
                        self.want(position);
                        continue;
                    }
                    if !self.set_aside(position)? {
                        self.state().window.taken(position);
                        drop(turn);
                        self.want(position);
                        continue;
                    }
                    let shared = self.state().waiting.get(&position).copied() > Some(1);
                    let file = self.aside(position);
                    let answer = if shared {
                        Answer::Copy(file)
                    } else {
                        Answer::Take(file)
                    };
                    client.tell(&answer).await?;
                    client.gone().await;
                    if !shared {
                        self.state().window.taken(position);
                        // It is there still if the client was gone before it took it.
                        self.discard(position);
                        self.schedule();
                    }
                    return Ok(true);
                }
            }
        }
    }

    /// Gives a segment that waits a name by which no client takes it unasked; `false` if one has just
    /// done so.
    fn set_aside(&self, position: Position) -> std::io::Result<bool> {
        let aside = self.site.file(&self.aside(position));
        if aside.exists() {
            return Ok(true);
        }
        match fs::rename(self.site.file(&self.name(position)), aside) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            renamed => renamed.map(|()| true),
        }
    }

    /// A client has taken a segment that waited, unasked.
    fn was_taken(self: &Arc<Server>, position: Position) {
        // It may be there before it is counted as ready.
        if self.state().window.slot(position).is_some() {
            self.want(position);
            self.state().window.taken(position);
            self.changed.send_replace(());
            self.schedule();
        }
    }

    /// Removes a segment that nobody wants.
    fn discard(&self, position: Position) {
        // It is there under one of its names, or under none.
        let _ = fs::remove_file(self.site.file(&self.name(position)));
        let _ = fs::remove_file(self.site.file(&self.aside(position)));
    }

    /// Fetches a file for one client, as the archive has it at this moment.
    async fn fetch_once(&self, client: &mut Client, name: &str) -> std::io::Result<()> {
        let unique = self.unique.fetch_add(1, Ordering::Relaxed);
        let file = format!("{unique}.asked");
        let path = self.site.file(&file);
        let work = async {
            let _permit = self.fetches.acquire().await;
            let mut target = WalFile::create(&path)?;
            let fetched = fetch(&self.archive, name, &mut target).await?;
            if fetched == Fetched::Found {
                target.publish()?;
            }
            Ok::<_, WalFetchError>(fetched)
        };
        let answer = match client.keep_waiting(work).await? {
            Ok(Fetched::Found) => Answer::Take(file),
            Ok(Fetched::Absent) => Answer::Absent,
            Err(error) => Answer::Failed(error.to_string()),
        };
        let told = client.tell(&answer).await;
        client.gone().await;
        // It is there still if the client was gone before it took it.
        let _ = fs::remove_file(path);
        told
    }

    /// Moves on to a segment that was asked for.
    fn want(self: &Arc<Server>, position: Position) {
        let unwanted = self.state().window.ask(position);
        for position in unwanted {
            if let Some(task) = self.state().running.remove(&position) {
                task.abort();
            }
            self.discard(position);
        }
        // Somebody may have been waiting for one of those.
        self.changed.send_replace(());
        self.schedule();
    }

    /// Begins fetches for all that is wanted.
    fn schedule(self: &Arc<Server>) {
        let mut state = self.state();
        while !state.stopped
            && let Some(position) = state.window.next()
        {
            let task = tokio::spawn(self.clone().fetch_ahead(position));
            state.running.insert(position, task.abort_handle());
        }
    }

    async fn fetch_ahead(self: Arc<Server>, position: Position) {
        let path = self.site.file(&self.name(position));
        let fetched = async {
            let _permit = self.fetches.acquire().await;
            let mut file = WalFile::create(&path)?;
            let (timeline, number) = position;
            match fetch_whole(&self.archive, timeline, number, &mut file).await? {
                true => Ok::<_, WalFetchError>(Some(file.publish()?)),
                false => Ok(None),
            }
        };
        // What went wrong is found again, and told, when it is asked for.
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
            let _ = fs::remove_file(&path);
            return;
        }
        self.changed.send_replace(());
        if let Some(file) = file {
            // PostgreSQL flushes it before it replays it: the earlier that begins, the less it waits.
            let _permit = self.flushes.acquire().await;
            let _ = tokio::task::spawn_blocking(move || file.sync_data()).await;
        }
    }

    fn position(&self, name: &str) -> Option<Position> {
        match WalFileName::parse(name, self.archive.segment_size())? {
            WalFileName::Segment(timeline, number) => Some((timeline, number)),
            _ => None,
        }
    }

    /// What a segment is called while it waits.
    fn name(&self, (timeline, number): Position) -> String {
        segment_name(timeline, number, self.archive.segment_size())
    }

    /// What it is called while it is handed over.
    fn aside(&self, position: Position) -> String {
        format!("{}.aside", self.name(position))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who asked.
struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    fn new(stream: UnixStream) -> Client {
        Client {
            stream: BufReader::new(stream),
        }
    }

    async fn request(&mut self) -> std::io::Result<Request> {
        let mut line = String::new();
        (&mut self.stream)
            .take(LONGEST)
            .read_line(&mut line)
            .await?;
        Request::parse(&line).ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
    }

    async fn tell(&mut self, answer: &Answer) -> std::io::Result<()> {
        self.stream.write_all(answer.to_line().as_bytes()).await
    }

    /// Does `work`, telling the client now and then that it goes on.
    async fn keep_waiting<T>(&mut self, work: impl Future<Output = T>) -> std::io::Result<T> {
        let mut work = std::pin::pin!(work);
        loop {
            match tokio::time::timeout(BEAT, &mut work).await {
                Ok(done) => return Ok(done),
                Err(_) => self.tell(&Answer::Wait).await?,
            }
        }
    }

    /// Waits until the client has done what it was told, which it shows by hanging up.
    async fn gone(&mut self) {
        let mut rest = [0; 16];
        // One that does not hang up is not waited for.
        let _ = tokio::time::timeout(HAND_OVER, self.stream.read(&mut rest)).await;
    }
}

#[cfg(test)]
mod tests;
