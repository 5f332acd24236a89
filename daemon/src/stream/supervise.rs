//! Keeping the stream alive: reconnecting for ever, with jittered backoff.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use walvault_archive::Archive;
use walvault_archive::keys::KeyAccess;
use walvault_store::Backoff;
use walvault_store::SharedStore;

use super::begin::open_or_begin;
use super::connect::{Server, connect, recreate_slot};
use super::error::StreamError;
use super::follow::{Context, Followed, Writer, follow};
use super::gap::record_gap;
use super::standby::wait_for_promotion;
use super::standby_slot::keep_advancing;
use crate::observed::StreamState;
use crate::pipeline::Resume;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// The longest pause while the server cannot be connected to, which costs nothing: waiting commits go
/// on as soon as it is back.
const LONGEST_AWAY: Duration = Duration::from_millis(500);
/// The shortest pause once another server took over: each look lists the archive, and only an operator, or
/// `pg_rewind`, changes anything.
const SUPERSEDED: Duration = Duration::from_secs(15);
/// The pauses between looks whether somebody settled a conflict. Each reads the archive's newest WAL.
const FIRST_CONFLICT: Duration = Duration::from_secs(15);
const LONGEST_CONFLICT: Duration = Duration::from_secs(300);
/// How often the same complaint is repeated.
const REPEATED: Duration = Duration::from_secs(10);
/// How long a server that answers and refuses is asked again at the start: a slot may still be
/// held by the connection of a process that was killed.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(10);

/// Streams until asked to stop.
///
/// What can pass by itself is waited out: a server that is not there yet, an archive that is
/// away. Before the first connection has streamed, what only somebody can mend ends the run, so
/// that a wrong configuration is seen at once.
///
/// A conflict between server and archive never does: whoever starts a process that ended would have it
/// take the archive, or compare, again and again. It stays, stores nothing, says so, and looks now
/// and then whether somebody settled it.
///
/// # Errors
/// See above.
pub async fn supervise(
    context: &Context,
    store: &SharedStore,
    keys: &KeyAccess,
    stop: &CancellationToken,
) -> Result<(), StreamError> {
    let mut archive: Option<Archive> = None;
    let mut writer = Writer::Epoch(None);
    let started = Instant::now();
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut conflicts = Backoff::new(FIRST_CONFLICT, LONGEST_CONFLICT);
    let mut streamed = false;
    let mut said: Option<(String, Instant)> = None;
    loop {
        let attempt = async {
            let mut advancing = JoinSet::new();
            let on_standby = || {
                context.metrics.live.standby();
                let (store, keys) = (store.clone(), keys.clone());
                advancing.spawn(keep_advancing(context.clone(), store, keys));
            };
            let (info, mut server) = (&context.info, connect(&context.info).await?);
            if context.standby_waits
                && wait_for_promotion(&mut server.session, info, on_standby).await?
            {
                // Whoever wrote meanwhile did so rightly; with the promotion it is our turn again.
                writer = Writer::Epoch(None);
                server = connect(info).await?;
            }
            let opened = open(store, keys, &mut server, context, archive.clone()).await?;
            archive = Some(opened.clone());
            Ok::<_, StreamError>((server, opened))
        };
        let connected = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            connected = attempt => connected,
        };
        let mut lasted = None;
        let error = match connected {
            Ok((server, archive)) => {
                let following = follow(server, &archive, context, &mut writer, stop);
                let (followed, streaming) = timed(following, context.state.subscribe()).await;
                context.writing.send_replace(None);
                lasted = streaming;
                match followed {
                    Ok(Followed::Stopped) => return Ok(()),
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        context.metrics.stream_ended(&error.interruption());
        streamed |= lasted.is_some();
        if let (StreamError::WalRemoved { place, cause }, Some(archive)) = (&error, &archive) {
            if !context.copies.is_whole() {
                tracing::error!(%error, "a copy of the archive that is away, or not compared yet, may hold that WAL; no gap is recorded before it was asked");
            } else {
                let noted = tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    noted = note_gap(context, archive, *place, cause) => noted,
                };
                match noted {
                    Ok(()) => continue,
                    Err(error) => {
                        tracing::error!(%error, "a gap could not be recorded; trying again");
                    }
                }
            }
        }
        if error.is_slot_invalid() {
            context.metrics.live.slot_invalid();
            let remade = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                remade = remake_slot(context) => remade,
            };
            match remade {
                Ok(()) => continue,
                Err(error) => {
                    tracing::error!(%error, "the replication slot could not be made anew; trying again");
                }
            }
        }
        let futile =
            error.is_permanent() || error.is_refusal() && started.elapsed() >= REFUSAL_PATIENCE;
        if !streamed && futile && !error.is_conflict() {
            return Err(error);
        }
        // However long an attempt took that did not stream, or not for long, it has failed.
        if lasted.is_some_and(|lasted| lasted > LONGEST_PAUSE) {
            backoff.succeeded();
            conflicts.succeeded();
        }
        let wait = match &error {
            error if error.is_conflict() => conflicts.pause(),
            StreamError::Client(error) if error.is_transient() => backoff.pause().min(LONGEST_AWAY),
            StreamError::Superseded(_) => backoff.pause().max(SUPERSEDED),
            _ => backoff.pause(),
        };
        let text = error.to_string();
        if said
            .as_ref()
            .is_none_or(|(before, at)| *before != text || at.elapsed() >= REPEATED)
        {
            let (server, retry_in_ms) = (context.info.endpoint(), wait.as_millis() as u64);
            if error.is_conflict() {
                tracing::error!(%error, server, retry_in_ms, "a conflict: nothing is archived until somebody settles it");
            } else {
                tracing::warn!(%error, server, retry_in_ms, "not streaming");
            }
            said = Some((text, Instant::now()));
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Awaits the end of a stream; how long it streamed, by the first progress it published in `state`, if it did.
async fn timed(
    following: impl Future<Output = Result<Followed, StreamError>>,
    mut state: watch::Receiver<StreamState>,
) -> (Result<Followed, StreamError>, Option<Duration>) {
    let mut following = std::pin::pin!(following);
    tokio::select! {
        biased;
        ended = &mut following => return (ended, None),
        Ok(()) = state.changed() => {}
    }
    let began = Instant::now();
    (following.await, Some(began.elapsed()))
}

/// PostgreSQL keeps no WAL for the slot any more. What was to come next may be there all the same.
async fn remake_slot(context: &Context) -> Result<(), StreamError> {
    let mut server = connect(&context.info).await?;
    recreate_slot(&mut server.session, &context.info, &context.slot)
        .await
        .map(drop)
}

async fn note_gap(
    context: &Context,
    archive: &Archive,
    place: Resume,
    cause: &str,
) -> Result<(), StreamError> {
    let mut server = connect(&context.info).await?;
    // The backup that it takes is seen to when streaming goes on: the archive tells of the gap.
    record_gap(archive, &mut server, context, place, cause)
        .await
        .map(drop)
}

async fn open(
    store: &SharedStore,
    keys: &KeyAccess,
    server: &mut Server,
    context: &Context,
    known: Option<Archive>,
) -> Result<Archive, StreamError> {
    match known {
        Some(archive) => {
            archive.belongs_to(server.identity.system_id, server.segment_size)?;
            Ok(archive)
        }
        None => {
            let archive = open_or_begin(store, keys, server, context).await?;
            if store
                .ignores_conditions()
                .await
                .map_err(walvault_archive::Error::from)?
            {
                tracing::warn!(
                    archive = archive.url(),
                    "the store ignores If-None-Match: walvault looks before it writes, and two writers that start in the same moment may not notice each other at once (docs/streaming.md, \"One writer\")"
                );
            }
            Ok(archive)
        }
    }
}
