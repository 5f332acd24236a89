//! One connection's life: from timeline to timeline until it ends.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use walvault_archive::fence::Epoch;
use walvault_archive::seal::Sealer;
use walvault_archive::{Archive, Catalog};
use walvault_evidence::audit::{Action, Outcome};
use walvault_protocol::client::{ClientError, ConnInfo, Session, StartReplication};
use walvault_protocol::replication::{SlotName, SystemIdentity};
use walvault_protocol::{Lsn, TimelineId};

use super::connect::{Server, ensure_slot};
use super::error::StreamError;
use super::farewell::held_up;
use super::fence;
use super::held::held;
use super::histories::Histories;
use super::impassable::record_impassable;
use super::monitor::watch_server;
use super::overlap::{confirm, vouch};
use super::resume::{beside, resume};
use super::standby::is_standby;
use crate::copies::{Look, Place};
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::observed::StreamState;
use crate::pipeline::{
    Begin, CatchUp, Destination, Proven, Pump, PumpEnd, Removals, Reports, Resume, Settings,
};
use crate::rotation::count_stored;

/// What decides where streaming begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The archive: its WAL is continued without a hole.
    Archive,
    /// The slot: its WAL is brought along for a backup, whatever the archive holds before it.
    Slot,
}

/// What a stream needs to know.
#[derive(Clone)]
pub struct Context {
    /// The server.
    pub info: ConnInfo,
    /// The slot to stream from.
    pub slot: SlotName,
    /// Where the server's `pg_wal` can be seen from here, if it can.
    pub wal_dir: Option<PathBuf>,
    /// `[drill] canary_every`
    pub canary_every: std::time::Duration,
    /// Whether the slot ends with the connection.
    pub temporary: bool,
    /// What decides where streaming begins.
    pub from: Origin,
    /// Whether a standby is left alone until it is promoted.
    pub standby_waits: bool,
    /// Whether an archive is begun though the slot tells of one before.
    pub new_archive: bool,
    /// How WAL is cut and stored.
    pub settings: Settings,
    /// Where progress is published.
    pub state: watch::Sender<StreamState>,
    /// The timeline whose WAL is being written as the archive's writer; `None` while none is.
    pub writing: watch::Sender<Option<TimelineId>>,
    /// What is counted and known.
    pub metrics: Arc<Metrics>,
    /// Where the archive is published once it has a data key to seal under.
    pub archive: watch::Sender<Option<Archive>>,
    /// Where it is noted what is done.
    pub journal: Journal,
    /// Deletions of superseded chunks, which go on from one connection to the next.
    pub removals: Removals,
    /// The histories that the archive is known to hold.
    pub histories: Histories,
    /// Who brings one of several places what it missed.
    pub copies: CatchUp,
}

/// By what right WAL is written.
pub enum Writer {
    /// As the archive's one writer, under an epoch, taken on this timeline once the server's WAL was
    /// confirmed.
    Epoch(Option<(Epoch, TimelineId)>),
    /// Beside it: WAL that a backup brings along, the same that the writer stores.
    Beside,
}

impl Writer {
    /// Takes an epoch, or checks that the one taken is still the highest, or may be taken anew: see
    /// [`may_retake`].
    async fn claim(
        &mut self,
        archive: &Archive,
        context: &Context,
        timeline: TimelineId,
        fresh: bool,
    ) -> Result<(), walvault_archive::Error> {
        if let Writer::Epoch(Some((epoch, taken_on))) = self {
            match epoch.check().await {
                Err(error) if may_retake(&error, timeline, *taken_on, fresh) => {}
                checked => return checked,
            }
        }
        self.take(archive, context, timeline).await
    }

    async fn take(
        &mut self,
        archive: &Archive,
        context: &Context,
        timeline: TimelineId,
    ) -> Result<(), walvault_archive::Error> {
        let Writer::Epoch(taken) = self else {
            return Ok(());
        };
        let server = context.info.endpoint();
        let epoch = fence::take(archive, &server, timeline).await?;
        context
            .journal
            .note(Action::FenceTaken, Outcome::Succeeded, |event| {
                event
                    .with("epoch", epoch.number())
                    .with("server", server)
                    .with("timeline", timeline)
            });
        *taken = Some((epoch, timeline));
        Ok(())
    }

    /// Looks whether the epoch taken, if one is, is still the highest, as [`Writer::claim`] does: a
    /// writer that was taken over does not even take the slot.
    async fn holds(
        &self,
        timeline: TimelineId,
        fresh: bool,
    ) -> Result<(), walvault_archive::Error> {
        let Writer::Epoch(Some((epoch, taken_on))) = self else {
            return Ok(());
        };
        match epoch.check().await {
            Err(error) if may_retake(&error, timeline, *taken_on, fresh) => Ok(()),
            checked => checked,
        }
    }

    /// Whether nobody else was the archive's writer since this process became it, as far as it knows.
    fn goes_on(&self, timeline: TimelineId, fresh: bool) -> bool {
        match self {
            Writer::Epoch(Some((_, taken_on))) => !fresh || timeline <= *taken_on,
            Writer::Epoch(None) | Writer::Beside => false,
        }
    }

    /// Returns when another writer took over, or it cannot be seen. From one of an older timeline than
    /// the one streamed, the archive is taken back while the stream goes on.
    async fn overtaken(
        &mut self,
        archive: &Archive,
        context: &Context,
        timeline: TimelineId,
    ) -> walvault_archive::Error {
        loop {
            let fenced = match self {
                Writer::Epoch(Some((epoch, _))) => fence::overtaken(epoch).await,
                Writer::Epoch(None) | Writer::Beside => std::future::pending().await,
            };
            if !may_retake(&fenced, timeline, timeline, false) {
                return fenced;
            }
            tracing::warn!(error = %fenced, "the sidecar of an older timeline took the archive; taking it back");
            if let Err(error) = self.take(archive, context, timeline).await {
                return error;
            }
        }
    }
}

/// Whether a writer that was overtaken, and streams `timeline`, takes its right anew. A server that was
/// promoted since, seen on a `fresh` connection, gives it back to its sidecar: whoever wrote meanwhile did
/// so for another primary. And a sidecar of an older timeline came too late: it looked at the archive
/// before the promotion was to be seen there, and it will find itself superseded.
fn may_retake(
    error: &walvault_archive::Error,
    timeline: TimelineId,
    taken_on: TimelineId,
    fresh: bool,
) -> bool {
    match error {
        walvault_archive::Error::Fenced { timeline: by, .. } => {
            fresh && timeline > taken_on || by.is_some_and(|by| by < timeline)
        }
        _ => false,
    }
}

/// How following a server came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followed {
    /// We were asked to stop; everything received is stored.
    Stopped,
}

/// Streams from `server` into `archive`, from timeline to timeline, until asked to stop.
///
/// # Errors
/// When the connection is lost, or the stream must not go on.
pub async fn follow(
    server: Server,
    archive: &Archive,
    context: &Context,
    writer: &mut Writer,
    stop: &CancellationToken,
) -> Result<Followed, StreamError> {
    let Server {
        mut session,
        mut identity,
        ..
    } = server;
    let monitor = watch_server(
        &context.info,
        session.backend_pid(),
        &context.slot,
        context.wal_dir.clone(),
        context.canary_every,
        &context.metrics,
    );
    let mut before: Option<Resume> = None;
    let mut counting = JoinSet::new();
    loop {
        // Until WAL is received there is nothing to store: nobody who is to stop waits for this.
        let prepared = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(Followed::Stopped),
            prepared = prepare(session, identity, archive, context, writer, before) => prepared?,
        };
        let Prepared {
            session: ready,
            catalog,
            places,
            place,
            proven,
            sealer,
        } = prepared;
        session = ready;
        let fresh = before.is_none();
        before = Some(place);
        context.archive.send_replace(Some(archive.clone()));
        context.journal.keep_in(archive);
        let refused = |error: ClientError| removed(error.into(), place);
        let from = place.segment_start(archive.segment_size());
        let started = session
            .start_replication(Some(&context.slot), from, place.timeline)
            .await;
        session = match started.map_err(refused)? {
            StartReplication::TimelineEnded(session, _) => session,
            StartReplication::Streaming(mut stream) => {
                // Only now that the slot is ours: whoever merely tries must not fence anybody.
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(Followed::Stopped),
                    claimed = writer.claim(archive, context, place.timeline, fresh) => claimed?,
                }
                if counting.is_empty() && sealer.counts_since().is_some() {
                    counting.spawn(count_stored(archive.clone(), sealer.clone()));
                }
                if let Writer::Epoch(_) = writer {
                    context.writing.send_replace(Some(place.timeline));
                }
                monitor.stream_begins();
                tracing::info!(
                    timeline = place.timeline.get(), start = %place.start, archived_to = %place.archived_to,
                    slot = context.slot.as_str(), "streaming"
                );
                let destinations = match places.len() {
                    0 => Destination::only(archive, &catalog),
                    _ => places.iter().map(Place::destination).collect(),
                };
                let (impassable, found) = mpsc::unbounded_channel();
                // Whoever takes backups looks again whether one is due.
                let recorded = || context.writing.send_modify(|_| ());
                let recording = record_impassable(archive, place.timeline, found, recorded);
                let pump = Pump::new(
                    &destinations,
                    sealer,
                    Begin {
                        place,
                        proven: &proven,
                    },
                    context.settings,
                    Reports {
                        state: context.state.clone(),
                        metrics: context.metrics.clone(),
                        copies: context.copies.clone(),
                        impassable,
                    },
                    context.removals.clone(),
                    monitor.commits_wait(),
                );
                let ended = tokio::select! {
                    biased;
                    ended = pump.run(&mut stream, stop) => ended?,
                    fenced = writer.overtaken(archive, context, place.timeline) => return Err(fenced.into()),
                    never = recording => match never {},
                    archived_to = held_up(&context.info, &context.state) => {
                        (0..places.len()).for_each(|place| context.copies.leave(place));
                        return Err(StreamError::HeldUp { archived_to });
                    }
                };
                match ended {
                    PumpEnd::Stopped => {
                        // Everything is stored and said; how the server takes its leave is its matter.
                        let _ = stream.finish().await;
                        return Ok(Followed::Stopped);
                    }
                    PumpEnd::TimelineEnded => {
                        let (session, next) = stream.finish().await?;
                        if let Some(next) = next {
                            tracing::info!(from = place.timeline.get(), to = next.next.get(), at = %next.at, "the timeline ended");
                        }
                        session
                    }
                    PumpEnd::Lost(error) => return Err(refused(error)),
                    PumpEnd::Silent(waited) => return Err(StreamError::Silent(waited)),
                }
            }
        };
        identity = session.identify_system().await?;
    }
}

/// What is known once nothing is left but to stream.
struct Prepared {
    session: Session,
    /// What the archive holds of the WAL behind the slot.
    catalog: Catalog,
    /// How each replica stands, where there are several.
    places: Vec<Place>,
    place: Resume,
    proven: Proven,
    sealer: Sealer,
}

/// Finds out where to go on, and whether the server's WAL is the archive's. `before` is where the last
/// timeline of this connection was begun.
async fn prepare(
    mut session: Session,
    mut identity: SystemIdentity,
    archive: &Archive,
    context: &Context,
    writer: &Writer,
    before: Option<Resume>,
) -> Result<Prepared, StreamError> {
    let (info, slot) = (&context.info, &context.slot);
    let history = context
        .histories
        .keep(archive, &mut session, identity.timeline)
        .await?;
    let reserved = ensure_slot(&mut session, info, slot, context.temporary)
        .await?
        .lsn();
    let fresh = before.is_none();
    let mut look = Look::new(archive, &context.copies, &history);
    look.ack = context.settings.ack;
    look.writes = writer.goes_on(identity.timeline, fresh);
    let looked = held(look, reserved, identity.flushed_lsn);
    let holds = writer.holds(identity.timeline, fresh);
    let (looked, holds) = tokio::join!(looked, holds);
    let (catalog, places) = looked?;
    let place = match context.from {
        Origin::Archive => resume(&catalog, &history, reserved, identity.flushed_lsn)?,
        Origin::Slot => beside(&catalog, &history, reserved.unwrap_or(identity.flushed_lsn)),
    };
    // A primary that was left behind is no conflict, though another writer took over from it.
    holds?;
    if before == Some(place) {
        return Err(StreamError::DeadEnd(place.timeline));
    }
    if place.timeline == identity.timeline && place.archived_to > identity.flushed_lsn {
        // A backup may have brought WAL that was written since the server was asked.
        identity = session.identify_system().await?;
        if place.timeline == identity.timeline && place.archived_to > identity.flushed_lsn {
            let (timeline, archived_to) = (place.timeline, place.archived_to);
            let server_end = identity.flushed_lsn;
            // One that has just been started tells how far it has replayed, until it receives WAL again.
            return Err(match is_standby(&mut session, info).await? {
                true => StreamError::StandbyBehind {
                    archived_to,
                    server_end,
                },
                false => StreamError::Behind {
                    timeline,
                    archived_to,
                    server_end,
                },
            });
        }
    }
    let known = known(&context.state, place.timeline);
    if let Writer::Epoch(_) = writer {
        vouch(archive, &catalog, &history, reserved, known, place).await?;
    }
    // Whoever writes compares: a backup ordered by a clone writes as well.
    let confirmed = confirm(archive, &catalog, session, context, place, known).await;
    let (session, proven) = confirmed.map_err(|error| removed(error, place))?;
    let sealer = archive.sealer(context.settings.codec).await?;
    Ok(Prepared {
        session,
        catalog,
        places,
        place,
        proven,
        sealer,
    })
}

/// Up to where earlier streams of this process stored `timeline`: the store has answered for that.
fn known(state: &watch::Sender<StreamState>, timeline: TimelineId) -> Lsn {
    let state = state.borrow();
    match state.timeline == Some(timeline) {
        true => state.durable,
        false => Lsn::INVALID,
    }
}

/// Tells WAL that is gone from every other failure.
fn removed(error: StreamError, place: Resume) -> StreamError {
    match error {
        StreamError::Client(error) if error.is_wal_removed() => StreamError::WalRemoved {
            place,
            cause: error.to_string(),
        },
        error => error,
    }
}
