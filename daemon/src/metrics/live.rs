//! What is known at the moment: told by the parts that know, asked by whoever looks.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use walvault_archive::record::RpoSeries;
use walvault_protocol::{Lsn, TimelineId};
use walvault_store::StoreError;
use walvault_store::clock;
use walvault_store::metered::Operation;

use super::Metrics;
use super::rpo::{Commits, Rpo};
use super::series::Series;
use crate::observed::{Interruption, Outlook, SlotState, StreamState};

/// A PUT that failed and was given up tells nothing any more after so long: there may be no other for hours.
const FORGOTTEN: Duration = Duration::from_secs(120);

/// How far apart the samples of [`Live::history`] are, and how many are kept: an hour.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(10);
const SAMPLES: usize = 360;

/// What the sidecar is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// It has not reached the server yet.
    Starting,
    /// The server is a standby; its promotion is waited for.
    Standby,
    /// WAL is streamed.
    Streaming,
    /// It is not, for this reason; it is tried again.
    Interrupted(String),
    /// It is not, and must not be before somebody decides which side is right.
    Conflict(String),
}

/// A sample of the past hour.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// When it was taken.
    pub at: jiff::Timestamp,
    /// The worst RPO since the sample before.
    pub rpo: Duration,
}

/// The slot, as the server last told.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    /// What it said.
    pub state: SlotState,
    /// What follows from it.
    pub outlook: Outlook,
    /// Bytes a second that the server writes.
    pub rate: f64,
}

/// What is known at the moment.
pub struct Live(Mutex<State>);

/// A copy of it, for who reports.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What is done.
    pub phase: Phase,
    /// Where the stream is.
    pub stream: StreamState,
    /// The age of the oldest commit that may be missing.
    pub rpo: Duration,
    /// Whether everything that the server has was received.
    pub is_current: bool,
    /// Since when the watermark stands though there is something to store.
    pub stalled: Option<Duration>,
    /// Since when the store does not answer, and what it last said.
    pub store_failing: Option<(Duration, String)>,
    /// The slot.
    pub slot: Option<Slot>,
    /// Whether streaming did not begin because PostgreSQL had invalidated the slot.
    pub slot_invalid: bool,
    /// Bytes free on the disk of `pg_wal`; `None` where that cannot be seen.
    pub wal_disk: Option<u64>,
    /// The time of the newest commit that was received and is in the archive, by the server's clock.
    pub last_commit_archived: Option<jiff::Timestamp>,
    /// Why the archive's keys cannot be used, if they cannot.
    pub key_trouble: Option<String>,
    /// Whether commits wait for the archive.
    pub commits_wait: bool,
    /// Whether it ever streamed, or was found to be beside a standby.
    pub started: bool,
    /// Since when it runs.
    pub up: Duration,
    /// When the main loop last turned.
    pub beat: Duration,
}

/// Requests of a store that fail.
struct Failing {
    since: Instant,
    last: Instant,
    error: String,
}

struct State {
    begun: Instant,
    beat: Instant,
    phase: Phase,
    started: bool,
    streamed: bool,
    stream: StreamState,
    rpo: Rpo,
    worst_rpo: Duration,
    samples: VecDeque<Sample>,
    /// What the audit trail is to be told, if it is.
    series: Option<Series>,
    /// When the watermark moved, or there was nothing to move it over.
    moved: Instant,
    /// How many stores hold the archive, and those that do not answer.
    stores: usize,
    /// By whether it is PUTs that fail.
    stores_failing: BTreeMap<(usize, bool), Failing>,
    slot: Option<Slot>,
    slot_invalid: bool,
    wal_disk: Option<u64>,
    key_trouble: Option<String>,
    commits_wait: bool,
}

impl State {
    /// What a store has failed at the longest, and still does.
    fn failing(&self, store: usize, now: Instant) -> Option<&Failing> {
        let kinds = self.stores_failing.range((store, false)..=(store, true));
        let kinds = kinds
            .filter(|((_, puts), failing)| !puts || now.duration_since(failing.last) < FORGOTTEN);
        kinds
            .map(|(_, failing)| failing)
            .min_by_key(|failing| failing.since)
    }
}

impl Default for Live {
    fn default() -> Live {
        let now = Instant::now();
        Live(Mutex::new(State {
            begun: now,
            beat: now,
            phase: Phase::Starting,
            started: false,
            streamed: false,
            stream: StreamState::default(),
            rpo: Rpo::new(now),
            worst_rpo: Duration::ZERO,
            samples: VecDeque::new(),
            series: None,
            moved: now,
            stores: 1,
            stores_failing: BTreeMap::new(),
            slot: None,
            slot_invalid: false,
            wal_disk: None,
            key_trouble: None,
            commits_wait: false,
        }))
    }
}

impl Live {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The main loop turns. Told every second; also takes the samples of the past hour.
    pub fn beat(&self) {
        let mut state = self.state();
        let now = Instant::now();
        state.beat = now;
        let age = state.rpo.age(now);
        state.worst_rpo = state.worst_rpo.max(age);
        let at = clock::now();
        let (is_ours, durable) = (state.phase != Phase::Standby, state.stream.durable);
        match &mut state.series {
            Some(series) if is_ours => series.observe(at, now, age, durable),
            Some(series) => series.pause(),
            None => {}
        }
        let due = state
            .samples
            .back()
            .is_none_or(|last| at.duration_since(last.at).unsigned_abs() >= SAMPLE_EVERY);
        if due {
            let rpo = std::mem::take(&mut state.worst_rpo);
            if state.samples.len() == SAMPLES {
                state.samples.pop_front();
            }
            state.samples.push_back(Sample { at, rpo });
        }
    }

    /// The worst RPO of every ten seconds of the past hour, oldest first.
    #[must_use]
    pub fn history(&self) -> Vec<Sample> {
        self.state().samples.iter().copied().collect()
    }

    /// Remembers how old commits become, against this objective, until [`Live::take_series`].
    pub fn keep_series(&self, objective: Duration) {
        self.state().series = Some(Series::new(objective));
    }

    /// When what [`Live::take_series`] would give begins.
    #[must_use]
    pub fn series_begins(&self) -> Option<jiff::Timestamp> {
        self.state().series.as_ref()?.begins()
    }

    /// How old commits became since this was last called; see [`Series::take`].
    #[must_use]
    pub fn take_series(&self, even_if_idle: bool) -> Option<RpoSeries> {
        self.state().series.as_mut()?.take(even_if_idle)
    }

    /// The server is a standby.
    pub fn standby(&self) {
        let mut state = self.state();
        state.phase = Phase::Standby;
        state.started = true;
        state.rpo.not_ours(Instant::now());
    }

    /// Streaming begins; whether it did before.
    pub fn stream_began(&self, timeline: TimelineId, start: Lsn, durable: Lsn) -> bool {
        let mut state = self.state();
        state.phase = Phase::Streaming;
        state.started = true;
        state.key_trouble = None;
        state.slot_invalid = false;
        state.moved = Instant::now();
        state.rpo.connected(start, durable);
        state.stream.timeline = Some(timeline);
        state.stream.received = start;
        state.stream.durable = durable;
        std::mem::replace(&mut state.streamed, true)
    }

    /// Streaming ended, or did not begin.
    pub fn stream_ended(&self, why: &Interruption) {
        let mut state = self.state();
        state.phase = match why.conflict {
            true => Phase::Conflict(why.reason.clone()),
            false => Phase::Interrupted(why.reason.clone()),
        };
        // A start that is never over would have Kubernetes start it again and again.
        state.started |= why.conflict;
        if why.key_trouble.is_some() {
            state.key_trouble.clone_from(&why.key_trouble);
        }
        let now = Instant::now();
        state.rpo.disconnected(now);
        state.slot = None;
        state.wal_disk = None;
        state.commits_wait = false;
    }

    /// WAL up to `position` was received.
    pub fn received(&self, position: Lsn, commits: Option<Commits>) {
        let mut state = self.state();
        let now = Instant::now();
        if state.stream.durable >= state.stream.received {
            state.moved = now;
        }
        state.stream.received = position;
        state.rpo.received(position, commits, now);
    }

    /// The server's WAL reaches `end`.
    pub fn heard(&self, end: Lsn) {
        let mut state = self.state();
        state.stream.server_end = state.stream.server_end.max(end);
        state.rpo.heard(end, Instant::now());
    }

    /// Where the stream is. Returns how long ago what became durable was received.
    pub fn progressed(&self, stream: StreamState) -> Vec<Duration> {
        let mut state = self.state();
        let now = Instant::now();
        if stream.durable > state.stream.durable || stream.durable >= stream.received {
            state.moved = now;
        }
        let server_end = state.stream.server_end.max(stream.server_end);
        state.stream = StreamState {
            server_end,
            ..stream
        };
        state.rpo.durable(stream.durable, now)
    }

    /// So many stores hold the archive.
    pub fn stores(&self, count: usize) {
        self.state().stores = count;
    }

    /// A store answered. One that is full, or may only be read, answers all but PUTs.
    pub fn store_answered(&self, store: usize, operation: Operation) {
        let puts = operation == Operation::Put;
        self.state().stores_failing.remove(&(store, puts));
    }

    /// A store did not do what it was asked.
    pub fn store_failed(&self, store: usize, operation: Operation, error: &StoreError) {
        let mut state = self.state();
        let now = Instant::now();
        let failing = state
            .stores_failing
            .entry((store, operation == Operation::Put));
        let failing = failing.or_insert_with(|| Failing {
            since: now,
            last: now,
            error: String::new(),
        });
        (failing.last, failing.error) = (now, error.to_string());
    }

    /// Whether commits wait for the archive.
    pub fn commits_wait(&self, wait: bool) {
        self.state().commits_wait = wait;
    }

    /// How the slot stands.
    pub fn slot(&self, slot: Option<Slot>) {
        self.state().slot = slot;
    }

    /// PostgreSQL invalidated the slot; so until streaming begins.
    pub fn slot_invalid(&self) {
        self.state().slot_invalid = true;
    }

    /// The room on the disk of `pg_wal`, in bytes.
    pub fn wal_disk(&self, free: Option<u64>) {
        self.state().wal_disk = free;
    }

    /// A copy of everything.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let state = self.state();
        let now = Instant::now();
        let behind = state.stream.durable < state.stream.received;
        Snapshot {
            phase: state.phase.clone(),
            stream: state.stream,
            rpo: state.rpo.age(now),
            is_current: state.rpo.is_current(),
            stalled: behind.then(|| now.duration_since(state.moved)),
            // One of several that answers is enough.
            store_failing: (0..state.stores)
                .map(|store| state.failing(store, now))
                .min_by_key(|failing| failing.map(|failing| Reverse(failing.since)))
                .flatten()
                .map(|failing| (now.duration_since(failing.since), failing.error.clone())),
            slot: state.slot,
            slot_invalid: state.slot_invalid,
            wal_disk: state.wal_disk,
            last_commit_archived: state
                .rpo
                .newest_durable()
                .and_then(|time| jiff::Timestamp::from_microsecond(time.unix_micros()).ok()),
            key_trouble: state.key_trouble.clone(),
            commits_wait: state.commits_wait,
            started: state.started,
            up: now.duration_since(state.begun),
            beat: now.duration_since(state.beat),
        }
    }

    /// Fills the gauges of what is known at the moment.
    pub(super) fn fill(&self, metrics: &Metrics) {
        let now = self.snapshot();
        let stream = now.stream;
        metrics
            .streaming
            .set((now.phase == Phase::Streaming).into());
        let conflict = matches!(now.phase, Phase::Conflict(_));
        metrics.conflict.set(conflict.into());
        metrics.rpo_seconds.set(now.rpo.as_secs_f64());
        let unarchived = stream.server_end.max(stream.received);
        metrics
            .wal_unarchived_bytes
            .set(unarchived.saturating_sub(stream.durable) as f64);
        metrics.wal_server_lsn_bytes.set(unarchived.0 as f64);
        metrics.wal_received_lsn_bytes.set(stream.received.0 as f64);
        metrics.wal_archived_lsn_bytes.set(stream.durable.0 as f64);
        let timeline = stream.timeline.map_or(0, TimelineId::get);
        metrics.timeline.set(timeline.into());
        metrics
            .memory_in_flight_bytes
            .set(i64::try_from(stream.memory).unwrap_or(i64::MAX));
        metrics.commits_wait.set(now.commits_wait.into());
        let limit = |bytes: Option<u64>| bytes.map_or(f64::INFINITY, |bytes| bytes as f64);
        let slot = now.slot.map(|slot| slot.state);
        let retained = slot.map_or(0, |slot| slot.retained);
        metrics.slot_retained_bytes.set(retained as f64);
        metrics
            .slot_headroom_bytes
            .set(limit(slot.and_then(|slot| slot.safe)));
        metrics.wal_disk_free_bytes.set(limit(now.wal_disk));
        let headroom = limit(slot.map_or(now.wal_disk, |slot| slot.headroom()));
        let rate = now.slot.map_or(0.0, |slot| slot.rate);
        // What is archived is let go: only a stream that does not keep up uses the room up.
        let exhaustion = match rate > 0.0 && headroom.is_finite() {
            true => headroom / rate,
            false => f64::INFINITY,
        };
        metrics.slot_exhaustion_seconds.set(exhaustion);
        let lost = now.slot.is_some_and(|slot| slot.outlook == Outlook::Lost);
        metrics.slot_lost.set((lost || now.slot_invalid).into());
        metrics.key_trouble.set(now.key_trouble.is_some().into());
    }
}
