//! The loop between the socket and the archive.
//!
//! Owns the moment: when to read, when to cut, when to tell PostgreSQL. It validates what it
//! reads before anything of it is kept. How WAL is cut, stored and accounted for is the chunker's,
//! the uploader's and the watermark's concern.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use walvault_archive::catalog::WalHeld;
use walvault_archive::seal::Sealer;
use walvault_archive::{Archive, Catalog};
use walvault_config::Ack;
use walvault_layout::unit_containing;
use walvault_protocol::client::{ClientError, WalMessage};
use walvault_protocol::replication::StandbyStatus;
use walvault_protocol::wal::{MarkKind, ScanStart, WalError, WalScanner};
use walvault_protocol::{Lsn, LsnRange, PgTimestamp, TimelineId};
use walvault_store::clock;

use super::Settings;
use super::catch_up::CatchUp;
use super::chunker::{Chunker, Cut};
use super::destination::Destination;
use super::group_commit::{GATHER_LIMIT, GroupCommit};
use super::proven::{Begin, Proven};
use super::removals::Removals;
use super::resume::Resume;
use super::source::WalSource;
use super::tail_ledger::TailLedger;
use super::tail_merge::TailMerge;
use super::upload::{Uploaded, Uploader};
use super::watermark::Watermark;
use super::watermarks::Watermarks;
use crate::metrics::Metrics;
use crate::metrics::rpo::Commits;
use crate::observed::StreamState;

mod laggards;

/// How often PostgreSQL hears from us when nothing happens, well within the 30 s (half of
/// `wal_sender_timeout`) after which it asks.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// The same while the socket is not read, so that its questions are not heard: `wal_sender_timeout` may be
/// seconds.
const UNREAD_INTERVAL: Duration = Duration::from_secs(1);
/// How often it hears of WAL that was received and not stored, while commits wait: those under
/// `remote_write` wait for this.
const WRITE_INTERVAL: Duration = Duration::from_millis(1);

/// How long archives that are behind when the stream ends may take what is on its way.
const LINGER: Duration = Duration::from_secs(2);

/// How a stream came to its end. Whatever was received is in the archive by then.
#[derive(Debug)]
pub enum PumpEnd {
    /// The server says the timeline ends here; the next one follows.
    TimelineEnded,
    /// We were asked to stop.
    Stopped,
    /// The connection was lost.
    Lost(ClientError),
    /// The server said nothing for so long, though it was asked to.
    Silent(Duration),
}

/// Why a stream must not go on.
#[derive(Debug, thiserror::Error)]
pub enum PumpError {
    /// What the server sends is not sound WAL. Nothing of it was stored or acknowledged.
    #[error("the WAL that was received is not sound: {0}")]
    Wal(#[from] WalError),
    /// The server skipped or repeated WAL.
    #[error(
        "the server sent WAL from {found}, {expected} was expected; reconnecting asks for it again"
    )]
    Continuity {
        /// The position reached.
        expected: Lsn,
        /// Where the message began.
        found: Lsn,
    },
    /// An upload panicked.
    #[error(
        "storing the WAL {range} of timeline {timeline:?} panicked ({cause}); it is not acknowledged, and reconnecting fetches it again; report this fault with the log"
    )]
    Panicked {
        /// The timeline.
        timeline: TimelineId,
        /// The WAL.
        range: LsnRange,
        /// What the panic said.
        cause: String,
    },
    /// The archive contradicts what we store.
    #[error(transparent)]
    Archive(#[from] walvault_archive::Error),
}

/// Where a pump tells how far it is.
#[derive(Clone)]
pub struct Reports {
    /// For whoever waits for a position.
    pub state: watch::Sender<StreamState>,
    /// For whoever looks.
    pub metrics: Arc<Metrics>,
    /// For whoever brings an archive what it missed.
    pub copies: CatchUp,
    /// For whoever records what no replay passes over.
    pub impassable: mpsc::UnboundedSender<Impassable>,
}

/// WAL that is archived and that no replay passes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Impassable {
    /// Where.
    pub range: LsnRange,
    /// Why.
    pub cause: &'static str,
}

impl Impassable {
    const MINIMAL: &'static str =
        "the server was started with wal_level = minimal, and WAL from then on lacks changes";
    const ANEW: &'static str =
        "pg_resetwal began the server's WAL anew, and it does not go on from the WAL before it";
}

/// One timeline's stream on its way into the archive.
pub struct Pump {
    settings: Settings,
    timeline: TimelineId,
    /// What of the archive's WAL before it is known to be this server's.
    proven: Proven,
    scanner: WalScanner,
    chunker: Chunker,
    tail: TailMerge,
    watermarks: Watermarks,
    /// By archive.
    places: Vec<PlaceState>,
    uploader: Uploader,
    removals: Removals,
    copies: CatchUp,
    passes: watch::Receiver<u64>,
    /// Since when some archives hold up others.
    held_up_since: Option<Instant>,
    events: mpsc::UnboundedReceiver<Uploaded>,
    state: watch::Sender<StreamState>,
    metrics: Arc<Metrics>,
    impassable: mpsc::UnboundedSender<Impassable>,
    /// Whether commits wait for us.
    commits_wait: watch::Receiver<bool>,
    server_end: Lsn,
    /// When the oldest byte that no chunk holds arrived.
    uncut_since: Option<Instant>,
    group: GroupCommit,
    last_heard: Instant,
    asked: bool,
    status_due: bool,
    last_status: Instant,
    last_written: Lsn,
}

/// What the pump knows of one archive.
struct PlaceState {
    archive: Archive,
    ledger: TailLedger,
    /// Up to where it lacks what was stored elsewhere, unless its watermark is there.
    joined_at: Lsn,
    /// How far it is behind the server.
    lag: prometheus::Gauge,
}

impl Pump {
    /// A pump from `begin` on into all `destinations`, of which there is at least one that answers.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn new(
        destinations: &[Destination<'_>],
        sealer: Sealer,
        begin: Begin<'_>,
        settings: Settings,
        reports: Reports,
        removals: Removals,
        commits_wait: watch::Receiver<bool>,
    ) -> Pump {
        let Reports {
            state,
            metrics,
            copies,
            impassable,
        } = reports;
        let Begin { place, proven } = begin;
        let Some(Destination { archive, .. }) = destinations.first() else {
            panic!("a stream is stored somewhere");
        };
        let segment_size = archive.segment_size();
        let Resume {
            timeline, start, ..
        } = place;
        let nothing = Catalog::from_listing(segment_size, []);
        let is_whole = |one: &Destination<'_>| one.whole && one.catalog.is_some();
        // Where none is, what was reported lies in several; each counts with what it has.
        let some_whole = destinations.iter().any(is_whole);
        let watermarks = destinations.iter().map(|one| {
            let catalog = one.catalog.unwrap_or(&nothing);
            let either = !some_whole && settings.ack == Ack::First && one.catalog.is_some();
            let watermark = Watermark::resume(catalog, timeline, start);
            (watermark, is_whole(one) || either)
        });
        let watermarks = Watermarks::new(settings.ack, watermarks);
        let archives = destinations.iter();
        let archives = archives.map(|one| (one.archive.clone(), one.catalog.is_some()));
        let (uploader, events) = Uploader::new(archives, settings.ack, sealer, settings.uploads);
        let furthest = (0..destinations.len()).map(|place| watermarks.of(place));
        let furthest = furthest.max().unwrap_or(start).max(start);
        let mut places = Vec::new();
        for (number, one) in destinations.iter().enumerate() {
            let catalog = one.catalog.unwrap_or(&nothing);
            let here = match one.only {
                true => proven.clone(),
                false => proven.in_replica(&BTreeSet::new(), timeline),
            };
            let (ledger, superfluous) = TailLedger::open(catalog, timeline, &here);
            removals.remove(number, &one.archive, timeline, superfluous);
            if !is_whole(one) {
                copies.leave(number);
            }
            let lag = &metrics.archive_lag_bytes;
            places.push(PlaceState {
                archive: one.archive.clone(),
                ledger,
                joined_at: furthest,
                lag: lag.with_label_values(&[one.archive.url()]),
            });
        }
        if metrics
            .live
            .stream_began(timeline, start, watermarks.durable().lsn())
        {
            metrics.reconnects_total.inc();
        }
        let scan = ScanStart {
            system_id: archive.record().system_id,
            segment_size,
            timeline,
            start: place.segment_start(segment_size),
        };
        let scanner = WalScanner::new(scan);
        let scanner = match proven.last_record {
            Some(record) if scan.start == start => scanner.after(record),
            _ => scanner,
        };
        Pump {
            scanner,
            tail: TailMerge::resume(chunks_before(destinations, timeline, start, furthest)),
            chunker: Chunker::new(timeline, segment_size, start, furthest),
            settings,
            timeline,
            proven: proven.clone(),
            watermarks,
            places,
            uploader,
            removals,
            passes: copies.passes(),
            copies,
            held_up_since: None,
            events,
            state,
            metrics,
            impassable,
            commits_wait,
            server_end: start,
            uncut_since: None,
            group: GroupCommit::default(),
            last_heard: Instant::now(),
            asked: false,
            status_due: true,
            last_status: Instant::now(),
            last_written: Lsn::INVALID,
        }
    }

    /// Moves WAL until the timeline ends, the connection is lost or `stop` asks for an end, then
    /// stores what was received.
    ///
    /// # Errors
    /// When the WAL is not sound, or contradicts the archive.
    pub async fn run<S: WalSource>(
        mut self,
        source: &mut S,
        stop: &CancellationToken,
    ) -> Result<PumpEnd, PumpError> {
        let end = self.stream(source, stop).await;
        // What is in flight contradicts the archive as well, or cannot be told from it. After a
        // panic the receipt of one upload never comes.
        if let Err(error @ (PumpError::Archive(_) | PumpError::Panicked { .. })) = end {
            self.leave_unfinished();
            return Err(error);
        }
        let lost = matches!(end, Err(_) | Ok(PumpEnd::Lost(_) | PumpEnd::Silent(_)));
        let drained = self.drain(if lost { None } else { Some(source) }).await;
        if let Err(error) = drained {
            self.leave_unfinished();
            return Err(end.err().unwrap_or(error));
        }
        self.uploader.finish().await;
        end
    }

    async fn stream<S: WalSource>(
        &mut self,
        source: &mut S,
        stop: &CancellationToken,
    ) -> Result<PumpEnd, PumpError> {
        loop {
            while self.has_room() {
                match source.try_next() {
                    Ok(Some(WalMessage::EndOfTimeline)) => return Ok(PumpEnd::TimelineEnded),
                    Ok(Some(message)) => self.take(message)?,
                    Ok(None) => break,
                    Err(error) => return Ok(PumpEnd::Lost(error)),
                }
            }
            self.cut_if_due();
            self.leave_behind();
            if let Err(error) = self.tell(source).await {
                return Ok(PumpEnd::Lost(error));
            }
            let wake = self.next_wake();
            let has_room = self.has_room();
            if !has_room {
                // Whoever does not listen cannot complain of silence.
                self.heard();
            } else if self.last_heard.elapsed() >= self.settings.receiver_timeout {
                return Ok(PumpEnd::Silent(self.settings.receiver_timeout));
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(PumpEnd::Stopped),
                Some(event) = self.events.recv() => self.settle(event)?,
                message = source.next(), if has_room => match message {
                    Ok(WalMessage::EndOfTimeline) => return Ok(PumpEnd::TimelineEnded),
                    Ok(message) => self.take(message)?,
                    Err(error) => return Ok(PumpEnd::Lost(error)),
                },
                Ok(()) = self.commits_wait.changed() => {}
                Ok(()) = self.passes.changed() => self.take_back(),
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Cuts what is left and waits for every receipt, telling the server of each advance as long
    /// as it listens.
    async fn drain<S: WalSource>(&mut self, mut source: Option<&mut S>) -> Result<(), PumpError> {
        self.cut_chunk();
        while self.uploader.under_way() > 0 {
            let Some(event) = self.events.recv().await else {
                break;
            };
            self.settle(event)?;
            self.status_due = true;
            if let Some(listening) = source.as_mut()
                && self.tell(*listening).await.is_err()
            {
                source = None;
            }
        }
        self.linger().await
    }

    /// Gives archives that are behind a moment to take what is on its way, and then leaves it to
    /// whoever brings them what they missed.
    async fn linger(&mut self) -> Result<(), PumpError> {
        let until = Instant::now() + LINGER;
        loop {
            let is_idle = |place| self.uploader.is_idle(place);
            if self.uploader.live().all(is_idle) {
                return Ok(());
            }
            match tokio::time::timeout_at(until, self.events.recv()).await {
                Ok(Some(event)) => self.settle(event)?,
                Ok(None) | Err(_) => break,
            }
        }
        let live: Vec<usize> = self.uploader.live().collect();
        for place in live {
            if !self.uploader.is_idle(place) {
                self.leave(place);
            }
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        let under_way = self.uploader.memory();
        // What is gathered will be sealed, which at worst takes as much again.
        under_way == 0 || under_way + 2 * self.chunker.held() < self.settings.memory
    }

    fn heard(&mut self) {
        self.last_heard = Instant::now();
        self.asked = false;
    }

    fn take(&mut self, message: WalMessage) -> Result<(), PumpError> {
        self.heard();
        match message {
            WalMessage::Data(data) => {
                self.server_end = self.server_end.max(data.server_end);
                self.metrics.live.heard(data.server_end);
                self.append(data.start, &data.bytes, data.sent_at)?;
            }
            WalMessage::Keepalive(keepalive) => {
                self.server_end = self.server_end.max(keepalive.server_end);
                self.metrics.live.heard(keepalive.server_end);
                if keepalive.reply_requested {
                    self.status_due = true;
                    // PostgreSQL shuts down, or waits for a switchover: it ends once everything
                    // it sent is flushed here, so nothing is held back.
                    if self.chunker.position() >= keepalive.server_end {
                        self.cut();
                    }
                }
            }
            WalMessage::EndOfTimeline => {}
        }
        Ok(())
    }

    fn append(&mut self, start: Lsn, bytes: &[u8], sent_at: PgTimestamp) -> Result<(), PumpError> {
        let expected = self.scanner.position();
        if start != expected {
            return Err(PumpError::Continuity {
                expected,
                found: start,
            });
        }
        self.metrics
            .wal_received_bytes_total
            .inc_by(bytes.len() as u64);
        // What the segment holds before the first unit is scanned and not stored.
        let before = self.chunker.position() - self.scanner.position();
        let (before, mut bytes) = bytes.split_at(bytes.len().min(before as usize));
        if !before.is_empty() {
            self.scanner.push(before)?;
            let _ = self.scanner.take_marks();
        }
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_at(self.chunker.room().min(bytes.len()));
            self.scanner.push(head)?;
            let marks = self.scanner.take_marks();
            self.group.received(&marks);
            let ends = marks.iter().filter(
                |mark| matches!(&mark.kind, MarkKind::Parameters(set) if set.ends_replay()),
            );
            for mark in ends {
                let _ = self.impassable.send(Impassable {
                    range: LsnRange::new(mark.start, mark.end),
                    cause: Impassable::MINIMAL,
                });
            }
            let record = self.scanner.take_new_beginning();
            if let (Some(end), Some(record)) = (self.proven.joins, record)
                && end < record
            {
                let _ = self.impassable.send(Impassable {
                    range: LsnRange::new(end, record),
                    cause: Impassable::ANEW,
                });
            }
            let position = self.chunker.position() + head.len() as u64;
            self.metrics
                .live
                .received(position, Commits::of(&marks, sent_at));
            if let Some(unit) = self.chunker.push(head, marks) {
                // A waiting commit is not held back until all of the unit is stored.
                if let Some(rest) = unit.rest.filter(|_| *self.commits_wait.borrow()) {
                    self.submit_chunk(rest);
                }
                self.group.cut(unit.whole.range.end);
                self.uploader.submit(unit.whole);
                self.tail = TailMerge::default();
                self.uncut_since = None;
            }
            self.uncut_since = match self.chunker.uncut() {
                0 => None,
                _ => self.uncut_since.or_else(|| Some(Instant::now())),
            };
            bytes = rest;
        }
        Ok(())
    }

    fn cut(&mut self) {
        self.cut_chunk();
        self.merge_if_due();
    }

    fn cut_chunk(&mut self) {
        if let Some(chunk) = self.chunker.cut() {
            self.tail.cut(chunk.range);
            self.submit_chunk(chunk);
        }
        self.uncut_since = None;
    }

    /// Stores chunks once more as one when there are many. Unlike WAL, that can wait for memory.
    fn merge_if_due(&mut self) {
        // After a restart, WAL that chunks hold already may not have come again yet.
        let here = |range: &LsnRange| range.end <= self.chunker.position();
        let Some(range) = self.tail.due().filter(here) else {
            return;
        };
        let needed = 2 * (range.len() + self.chunker.held());
        if self.uploader.memory() + needed < self.settings.memory {
            self.tail.merged();
            self.uploader.submit(self.chunker.merge(range));
        }
    }

    fn submit_chunk(&mut self, chunk: Cut) {
        self.group.cut(chunk.range.end);
        self.uploader.submit(chunk);
    }

    fn cut_if_due(&mut self) {
        let Some(since) = self.uncut_since else {
            return;
        };
        let gathered = *self.commits_wait.borrow() && self.group.is_gathered(self.settings.uploads);
        let due = gathered || since.elapsed() >= self.patience();
        // While enough are on their way the next chunk gathers.
        if due && self.may_cut() {
            self.cut();
        }
    }

    /// How long what was received may wait for more.
    fn patience(&self) -> Duration {
        match *self.commits_wait.borrow() {
            true => GATHER_LIMIT.min(self.settings.max_delay),
            false => self.settings.max_delay,
        }
    }

    fn may_cut(&self) -> bool {
        self.uploader.chunks_under_way() < self.settings.uploads
    }

    fn settle(&mut self, event: Uploaded) -> Result<(), PumpError> {
        match event {
            Uploaded::Stored {
                visit,
                stored,
                kind,
                size,
                took,
            } => {
                let place = visit.place;
                tracing::debug!(range = %stored.range(), ?kind, size, place, ms = took.as_millis() as u64, "stored");
                self.uploader.settled(visit, kind);
                self.metrics.wal_stored(kind, size);
                if self.settings.ack == Ack::All {
                    // As long as each takes something, the slowest sets the pace.
                    self.held_up_since = None;
                }
                if self.watermarks.advance(place, &stored) {
                    self.moved();
                }
                let superseded = self.places[place]
                    .ledger
                    .stored(stored.range(), kind.is_unit());
                let archive = &self.places[place].archive;
                self.removals
                    .remove(place, archive, self.timeline, superseded);
                self.publish();
                Ok(())
            }
            Uploaded::Freed => Ok(()),
            Uploaded::Damaged { visit, error } => {
                let place = visit.place;
                if self.uploader.live().all(|live| live == place) {
                    return Err(error.into());
                }
                tracing::error!(place, %error, "streaming without this copy of the archive for now");
                self.leave(place);
                Ok(())
            }
            Uploaded::Fatal(error) => Err(error.into()),
            Uploaded::Panicked {
                timeline,
                range,
                cause,
            } => Err(PumpError::Panicked {
                timeline,
                range,
                cause,
            }),
        }
    }

    async fn tell<S: WalSource>(&mut self, source: &mut S) -> Result<(), ClientError> {
        let written = self.chunker.position();
        let received = self.write_due().is_some_and(|due| due <= Instant::now());
        let ask = !self.asked && self.last_heard.elapsed() >= self.settings.receiver_timeout / 2;
        let due = self.last_status.elapsed() >= self.status_interval();
        if !(self.status_due || received || ask || due) {
            return Ok(());
        }
        if self.last_status.elapsed() >= STATUS_INTERVAL && written == self.last_written {
            self.chunker.pack();
        }
        let durable = self.watermarks.durable();
        let status = StandbyStatus {
            write: written.max(durable.lsn()),
            flush: &durable,
            now: PgTimestamp::from(SystemTime::from(clock::now())),
            reply_requested: ask,
        };
        source.send_status(&status).await?;
        self.asked |= ask;
        self.status_due = false;
        self.last_status = Instant::now();
        self.last_written = written;
        self.publish();
        Ok(())
    }

    fn status_interval(&self) -> Duration {
        match self.has_room() {
            true => STATUS_INTERVAL,
            false => UNREAD_INTERVAL,
        }
    }

    /// When the server is to hear how much was received, if it is to.
    fn write_due(&self) -> Option<Instant> {
        let news = self.chunker.position() != self.last_written && *self.commits_wait.borrow();
        news.then(|| self.last_status + WRITE_INTERVAL)
    }

    fn next_wake(&self) -> Instant {
        let status = self
            .write_due()
            .unwrap_or(self.last_status + self.status_interval());
        let silence = match self.asked {
            true => self.settings.receiver_timeout,
            false => self.settings.receiver_timeout / 2,
        };
        let mut wake = status.min(self.last_heard + silence);
        if let Some(since) = self.held_up_since {
            wake = wake.min(since + self.endurance());
        }
        match self.uncut_since {
            Some(since) if self.may_cut() => wake.min(since + self.patience()),
            _ => wake,
        }
    }

    fn publish(&self) {
        let state = StreamState {
            timeline: Some(self.timeline),
            received: self.chunker.position(),
            durable: self.watermarks.durable().lsn(),
            server_end: self.server_end,
            memory: self.uploader.memory() + self.chunker.held(),
        };
        let end = self.server_end.max(self.chunker.position());
        for (number, place) in self.places.iter().enumerate() {
            let lag = end.saturating_sub(self.watermarks.of(number));
            place.lag.set(lag as f64);
        }
        self.metrics.progressed(state);
        self.state.send_replace(state);
    }
}

/// The chunks that earlier streams stored of the unit that begins at `start`, side by side: those of
/// the replica that has the most.
fn chunks_before(
    destinations: &[Destination<'_>],
    timeline: TimelineId,
    start: Lsn,
    held_to: Lsn,
) -> Vec<LsnRange> {
    let chunks = destinations.iter().filter_map(|one| {
        let catalog = one.catalog?;
        let unit = unit_containing(start, catalog.segment_size());
        let path = catalog.path_objects(timeline, start, held_to.min(unit.end));
        let chunks = path
            .into_iter()
            .filter(|(on, held)| *on == timeline && !held.whole && held.range.start >= start);
        let within = |held: WalHeld| LsnRange::new(held.range.start, held.range.end.min(held_to));
        Some(chunks.map(|(_, held)| within(held)).collect::<Vec<_>>())
    });
    chunks.max_by_key(Vec::len).unwrap_or_default()
}

#[cfg(test)]
mod tests;
