//! One connection's life: from timeline to timeline until it ends.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use walvault_archive::fence::Epoch;
use walvault_archive::seal::Sealer;
use walvault_archive::{Archive, Catalog};
use walvault_evidence::audit::{Action, Outcome};
use walvault_protocol::client::{ClientError, ConnInfo, Session, StartReplication};
use walvault_protocol::replication::{SlotName, SystemIdentity};
use walvault_protocol::timeline::TimelineHistoryError;
use walvault_protocol::{Lsn, ServerVersion, TimelineId};

use super::connect::{Server, ensure_slot};
use super::fence;
use super::held::held;
use super::histories::Histories;
use super::monitor::watch_server;
use super::overlap::{confirm, vouch};
use super::resume::{Superseded, beside, resume};
use crate::copies::{Place, look};
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::observed::{Interruption, StreamState};
use crate::pipeline::{
    Begin, CatchUp, Destination, Proven, Pump, PumpEnd, PumpError, Removals, Reports, Resume,
    Settings,
};
use crate::rotation::count_stored;

/// Why a stream ended or never began.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// PostgreSQL, or the way to it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The archive.
    #[error(transparent)]
    Archive(#[from] walvault_archive::Error),
    /// What was received, or what it contradicts.
    #[error(transparent)]
    Pump(#[from] PumpError),
    /// A history file that cannot be believed.
    #[error(transparent)]
    History(#[from] TimelineHistoryError),
    /// Another server took over.
    #[error(transparent)]
    Superseded(#[from] Superseded),
    /// A server of a version that walvault does not speak to.
    #[error("the server is PostgreSQL {0}; walvault needs version 13 or newer")]
    TooOld(ServerVersion),
    /// `wal_segment_size` is not one.
    #[error(
        "the server shows wal_segment_size as '{0}', which is not a segment size; check what [postgres] url points at"
    )]
    SegmentSize(String),
    /// The server's WAL ends before the archive's.
    #[error(
        "the archive holds timeline {timeline:?} up to {archived_to}, but this server's WAL ends at {server_end}: it is a clone, or was set back to an older state; archive it elsewhere, or restore it from the archive and promote it, which gives it a timeline of its own"
    )]
    Behind {
        /// The timeline.
        timeline: TimelineId,
        /// The end of what is archived.
        archived_to: Lsn,
        /// The end of what the server has.
        server_end: Lsn,
    },
    /// The server, or the network, hangs.
    #[error("the server said nothing for {} s, though it was asked to; connecting again", .0.as_secs())]
    Silent(std::time::Duration),
    /// The server no longer has the WAL that comes next.
    #[error("the WAL from {} of timeline {:?} on, which is to be archived next, is gone from the server: {cause}", .place.archived_to, .place.timeline)]
    WalRemoved {
        /// Where streaming was to go on.
        place: Resume,
        /// What the server said.
        cause: String,
    },
    /// WAL is gone, and what the slot still keeps cannot be asked.
    #[error(
        "what the replication slot keeps is not known while the server takes no SQL; asking again before a gap is recorded"
    )]
    SlotUnknown,
    /// The server ended a timeline without saying what follows.
    #[error("timeline {0:?} ended at the server, but nothing follows it there; reconnecting")]
    DeadEnd(TimelineId),
}

impl StreamError {
    /// Whether trying again is futile until somebody changes something.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            StreamError::Client(error) => !error.is_transient(),
            StreamError::Archive(error) | StreamError::Pump(PumpError::Archive(error)) => {
                !error.is_transient()
            }
            StreamError::TooOld(_) | StreamError::SegmentSize(_) | StreamError::Behind { .. } => {
                true
            }
            // The old primary will be rewound and come back as a standby.
            StreamError::Superseded(_)
            | StreamError::Pump(_)
            | StreamError::History(_)
            | StreamError::DeadEnd(_)
            | StreamError::Silent(_)
            | StreamError::SlotUnknown
            | StreamError::WalRemoved { .. } => false,
        }
    }

    /// Whether the server answered and refused, though it is not just starting or stopping.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            StreamError::Client(error) => error
                .sqlstate()
                .is_some_and(|code| !code.starts_with("57P")),
            _ => false,
        }
    }

    /// Whether the server invalidated the slot.
    #[must_use]
    pub fn is_slot_invalid(&self) -> bool {
        matches!(self, StreamError::Client(error) if error.is_slot_invalid())
    }

    /// The same, as metrics and `/status` tell it.
    #[must_use]
    pub fn interruption(&self) -> Interruption {
        let kind = match self {
            StreamError::Client(error) if error.sqlstate().is_some() => "refused",
            StreamError::Client(_) | StreamError::Silent(_) => "connection",
            StreamError::Archive(_) | StreamError::Pump(PumpError::Archive(_)) => "archive",
            StreamError::Pump(_) => "wal",
            StreamError::Superseded(_) | StreamError::Behind { .. } => "superseded",
            StreamError::WalRemoved { .. } => "gap",
            _ => "other",
        };
        let key_trouble = match self {
            StreamError::Archive(walvault_archive::Error::Key(trouble)) => {
                Some(trouble.to_string())
            }
            _ => None,
        };
        Interruption {
            kind,
            reason: self.to_string(),
            key_trouble,
            conflict: self.is_conflict(),
        }
    }

    /// Whether going on could harm the archive, or cannot be: it is another system's, holds other
    /// bytes, or its keys are not here. Somebody has to decide which side is right.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        use walvault_archive::Error;
        match self {
            StreamError::Behind { .. } => true,
            StreamError::Archive(Error::Key(error))
            | StreamError::Pump(PumpError::Archive(Error::Key(error))) => !error.is_transient(),
            StreamError::Archive(error) | StreamError::Pump(PumpError::Archive(error)) => matches!(
                error,
                Error::OtherSystem { .. }
                    | Error::OtherSegmentSize { .. }
                    | Error::Diverged { .. }
                    | Error::Unconfirmed { .. }
                    | Error::Corrupt { .. }
                    | Error::Fenced { .. }
                    | Error::Record { .. }
            ),
            _ => false,
        }
    }
}

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
    /// Takes an epoch, or checks that the one taken is still the highest. A server that was promoted
    /// since, seen on a `fresh` connection, gives the right back to its sidecar: whoever wrote
    /// meanwhile did so for another primary.
    async fn claim(
        &mut self,
        archive: &Archive,
        context: &Context,
        timeline: TimelineId,
        fresh: bool,
    ) -> Result<(), walvault_archive::Error> {
        let Writer::Epoch(taken) = self else {
            return Ok(());
        };
        if let Some((epoch, taken_on)) = taken {
            match epoch.check().await {
                Err(walvault_archive::Error::Fenced { .. }) if fresh && timeline > *taken_on => {}
                checked => return checked,
            }
        }
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
            Err(walvault_archive::Error::Fenced { .. }) if fresh && timeline > *taken_on => Ok(()),
            checked => checked,
        }
    }

    /// Returns when another writer took over.
    async fn overtaken(&self) -> walvault_archive::Error {
        match self {
            Writer::Epoch(Some((epoch, _))) => fence::overtaken(epoch).await,
            Writer::Epoch(None) | Writer::Beside => std::future::pending().await,
        }
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
                    },
                    context.removals.clone(),
                    monitor.commits_wait(),
                );
                let ended = tokio::select! {
                    ended = pump.run(&mut stream, stop) => ended?,
                    fenced = writer.overtaken() => return Err(fenced.into()),
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
    let looked = async {
        // Whether a replica has all of the WAL is seen by all of it.
        let catalog = match context.copies.replicas() {
            Some(_) => Catalog::load_wal(archive).await?,
            None => held(archive, &history, reserved, identity.flushed_lsn).await?,
        };
        let places = look(archive, &catalog, &context.copies).await?;
        Ok::<_, walvault_archive::Error>((catalog, places))
    };
    let holds = writer.holds(identity.timeline, before.is_none());
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
            return Err(StreamError::Behind {
                timeline: place.timeline,
                archived_to: place.archived_to,
                server_end: identity.flushed_lsn,
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
