//! What there is, and the plain model that it is held against.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Notify;
use tokio::time::Instant;
use walvault_layout::{ObjectKey, WalObject};
use walvault_protocol::wal::synthetic::{MAGICS, RM_HEAP, Writer};
use walvault_protocol::{Lsn, LsnRange, SegmentSize, TimelineId};

use crate::backups::Backup;

/// A bug that is let loose to see whether it is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    Nothing,
    /// What was received is reported as flushed.
    EarlyAcknowledgement,
    /// The end of whatever is stored is reported as flushed, holes or not.
    WatermarkOverHole,
    /// Chunks are removed when their unit's PUT begins.
    EarlyRemoval,
    /// Nobody looks whether another writer took over.
    StaleWriter,
    /// A prune takes one segment more than it planned.
    PruneTooFar,
    /// What is seen in the store is never put again, for it to answer for.
    SeenIsStored,
}

/// When worlds begin.
pub const BEGIN: Timestamp = Timestamp::constant(1_800_000_000, 0);

/// How long a writer that was overtaken may go on: it looks every few seconds, and the store may
/// be slow to answer.
pub const GRACE: Duration = Duration::from_secs(60);

/// A timeline.
pub struct Line {
    pub writer: Writer,
    /// Where it may be left, each with the start of the record before.
    places: Vec<(Lsn, Lsn)>,
    /// The timeline it came from, and where it left that.
    pub parent: Option<(usize, Lsn)>,
}

/// A server.
pub struct Node {
    /// Index of the timeline it is on.
    pub line: usize,
    pub up: bool,
    /// Counts connections that were broken off.
    pub connections: u64,
    /// The slot's `restart_lsn`, once there is one.
    pub slot: Option<Lsn>,
    /// The process id of the connection that streams from the slot.
    pub slot_holder: Option<i32>,
}

/// Everything but the store's delays.
pub struct State {
    pub random: StdRng,
    pub planted: Planted,
    pub lines: Vec<Line>,
    pub nodes: Vec<Node>,
    /// Whether commits wait for the archive.
    pub commits_wait: bool,
    /// The process ids that the servers gave out.
    pub pids: i32,
    pub objects: BTreeMap<String, Bytes>,
    /// Whether the store is made of nodes, each of which may be lost.
    pub has_nodes: bool,
    /// The objects that only one node has: its PUT was not answered.
    pub partial: BTreeSet<String>,
    /// When each object was stored.
    pub stored: BTreeMap<String, Timestamp>,
    /// The backups that were begun.
    pub backups: Vec<Backup>,
    /// The processes that removed what they had planned to remove.
    pub pruners: BTreeSet<u32>,
    /// The highest position reported as flushed, by timeline.
    pub promises: BTreeMap<usize, Lsn>,
    /// When each epoch was taken, and by which process.
    epochs: BTreeMap<u64, (Instant, u32)>,
    pub outage_until: Instant,
    pub slow_until: Instant,
    pub trace: Vec<String>,
    pub violation: Option<String>,
    begun: Instant,
}

/// The world, shared by all who act in it.
#[derive(Clone)]
pub struct World {
    state: Arc<Mutex<State>>,
    pub changed: Arc<Notify>,
}

impl World {
    pub fn new(seed: u64, planted: Planted) -> World {
        let now = Instant::now();
        let writer = Writer::new(8192, MAGICS[2]);
        let place = (writer.position(), writer.previous);
        let state = State {
            random: StdRng::seed_from_u64(seed),
            planted,
            lines: vec![Line {
                writer,
                places: vec![place],
                parent: None,
            }],
            nodes: vec![Node {
                line: 0,
                up: true,
                connections: 0,
                slot: None,
                slot_holder: None,
            }],
            commits_wait: false,
            pids: 0,
            objects: BTreeMap::new(),
            has_nodes: seed.is_multiple_of(2),
            partial: BTreeSet::new(),
            stored: BTreeMap::new(),
            backups: Vec::new(),
            pruners: BTreeSet::new(),
            promises: BTreeMap::new(),
            epochs: BTreeMap::new(),
            outage_until: now,
            slow_until: now,
            trace: Vec::new(),
            violation: None,
            begun: now,
        };
        World {
            state: Arc::new(Mutex::new(state)),
            changed: Arc::new(Notify::new()),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number below `below`.
    pub fn draw(&self, below: u64) -> u64 {
        self.lock().random.random_range(0..below.max(1))
    }

    pub fn one_in(&self, times: u64) -> bool {
        self.draw(times) == 0
    }

    pub fn tell(&self) {
        self.changed.notify_waiters();
    }
}

impl State {
    pub fn note(&mut self, what: String) {
        let at = self.begun.elapsed().as_millis();
        self.trace.push(format!("{at:>8} {what}"));
    }

    pub fn violate(&mut self, what: String) {
        self.note(format!("VIOLATION {what}"));
        self.violation.get_or_insert(what);
    }

    pub fn segment(&self) -> SegmentSize {
        self.lines[0].writer.segment
    }

    pub fn end(&self, line: usize) -> Lsn {
        self.lines[line].writer.position()
    }

    /// Writes records of about `bytes` bytes, and a commit.
    pub fn write(&mut self, line: usize, bytes: u64) {
        let end = self.end(line) + bytes;
        while self.end(line) < end {
            let left = (end - self.end(line)).clamp(1, 20_000);
            let length = self.random.random_range(1..=left) as usize;
            let fill = self.random.random::<u8>();
            let body: Vec<u8> = (0..length)
                .map(|at| fill.wrapping_add((at / 7) as u8))
                .collect();
            self.lines[line].writer.main_data(RM_HEAP, 0, 1, &body);
            self.place(line);
        }
        self.lines[line].writer.commit(2, 1_000_000);
        self.place(line);
    }

    /// As `pg_switch_wal()`.
    pub fn switch_wal(&mut self, line: usize) {
        self.lines[line].writer.switch(0);
        self.place(line);
    }

    fn place(&mut self, line: usize) {
        let line = &mut self.lines[line];
        line.places
            .push((line.writer.position(), line.writer.previous));
    }

    /// A new timeline that leaves `parent` at one of its last places; its index.
    pub fn fork(&mut self, parent: usize) -> usize {
        let places = &self.lines[parent].places;
        let back = self.random.random_range(0..places.len().min(20));
        let (at, previous) = places[places.len() - 1 - back];
        let index = self.lines.len();
        let writer = self.lines[parent]
            .writer
            .fork(at, previous, index as u32 + 1);
        self.lines.push(Line {
            places: vec![(at, previous)],
            writer,
            parent: Some((parent, at)),
        });
        index
    }

    /// The content of the timeline's history file; `None` for the first.
    pub fn history(&self, line: usize) -> Option<String> {
        let mut switches = Vec::new();
        let mut at = line;
        while let Some((parent, left)) = self.lines[at].parent {
            switches.push(format!(
                "{}\t{left}\tno recovery target specified\n",
                parent + 1
            ));
            at = parent;
        }
        switches.reverse();
        (!switches.is_empty()).then(|| switches.concat())
    }

    /// The bytes of a run of a timeline's WAL.
    pub fn wal(&self, line: usize, range: LsnRange) -> &[u8] {
        let writer = &self.lines[line].writer;
        &writer.bytes[writer.offset(range.start)..writer.offset(range.end)]
    }

    pub fn report(&mut self, line: usize, flush: Lsn) {
        let promised = self.promises.entry(line).or_insert(Lsn::INVALID);
        if flush <= *promised {
            return;
        }
        *promised = flush;
        self.note(format!("timeline {}: flushed to {flush}", line + 1));
        if flush > self.end(line) {
            self.violate(format!("{flush} was reported, which was never written"));
        }
        self.check_promises();
    }

    /// What was reported must be stored, whatever else is.
    pub fn check_promises(&mut self) {
        let lost: Vec<String> = self
            .promises
            .iter()
            .filter_map(|(line, promised)| {
                let from = self.needed_from(*line)?;
                let reach = self.stored_from(*line, from);
                let timeline = line + 1;
                (reach < *promised).then(|| {
                    format!("{promised} of timeline {timeline} was reported, stored is {reach}")
                })
            })
            .collect();
        for lost in lost {
            self.violate(lost);
        }
    }

    /// Where `line` may be left, each with the start of the record before.
    pub fn places(&self, line: usize) -> impl Iterator<Item = (Lsn, Lsn)> {
        self.lines[line].places.iter().copied()
    }

    /// How far the store holds a timeline from `from` on, without a hole. Below its switch point a
    /// timeline's WAL is its parent's too.
    pub fn stored_from(&self, line: usize, from: Lsn) -> Lsn {
        let mut ranges = Vec::new();
        let (mut at, mut limit) = (line, Lsn(u64::MAX));
        loop {
            let held = self.held(at).filter(|range| range.start < limit);
            ranges.extend(held.map(|range| LsnRange::new(range.start, range.end.min(limit))));
            match self.lines[at].parent {
                Some((parent, left)) => (at, limit) = (parent, left.min(limit)),
                None => break,
            }
        }
        ranges.sort_by_key(|range| range.start);
        ranges.iter().fold(from, |reach, range| {
            if range.start <= reach {
                reach.max(range.end)
            } else {
                reach
            }
        })
    }

    /// The end of whatever is stored of a timeline.
    pub fn newest(&self, line: usize) -> Lsn {
        let ends = self.held(line).map(|range| range.end);
        ends.max().unwrap_or(Lsn::INVALID)
    }

    fn held(&self, line: usize) -> impl Iterator<Item = LsnRange> {
        let size = self.segment();
        let timeline = TimelineId::new(line as u32 + 1);
        let wal = move |key: &String| match ObjectKey::parse(key, size)? {
            ObjectKey::Wal(WalObject { timeline, range }) | ObjectKey::Tail(timeline, range) => {
                Some((timeline, range))
            }
            _ => None,
        };
        let held = self.objects.keys().filter_map(wal);
        held.filter_map(move |(on, range)| (Some(on) == timeline).then_some(range))
    }

    /// Notes that an epoch's object was stored.
    pub fn epoch_taken(&mut self, epoch: u64, process: u32) {
        self.note(format!("process {process} took epoch {epoch}"));
        self.epochs.insert(epoch, (Instant::now(), process));
    }

    /// The highest epoch that a process took.
    pub fn epoch_of(&self, process: u32) -> Option<u64> {
        let own = self.epochs.iter().filter(|(_, (_, by))| *by == process);
        own.map(|(epoch, _)| *epoch).max()
    }

    /// A PUT of WAL begins: whoever was overtaken long ago must not come so far.
    pub fn check_writer(&mut self, process: u32, key: &str) {
        let Some(own) = self.epoch_of(process) else {
            return;
        };
        let overtaken = self.epochs.range(own + 1..).next();
        if overtaken.is_some_and(|(_, (at, _))| at.elapsed() > GRACE) {
            self.violate(format!(
                "process {process} was overtaken and still writes {key}"
            ));
        }
    }
}
