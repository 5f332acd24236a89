//! Keeping the stream alive: reconnecting for ever, with jittered backoff.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use walvault_archive::keys::KeyAccess;
use walvault_archive::store::{ConditionalPut, SharedStore};
use walvault_archive::{Archive, Backoff};

use super::connect::{Server, connect};
use super::follow::{Context, Followed, StreamError, Writer, follow};
use super::gap::record_gap;
use super::standby::wait_for_promotion;
use crate::pipeline::Resume;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// How long a server that answers and refuses is asked again at the start: a slot may still be
/// held by the connection of a process that was killed.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(10);

/// Streams until asked to stop.
///
/// What can pass by itself is waited out: a server that is not there yet, an archive that is
/// away. Before the first connection has streamed, what only somebody can mend ends the run, so
/// that a wrong configuration is seen at once; later only what would harm the archive does.
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
    let started = tokio::time::Instant::now();
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut streamed = false;
    loop {
        let attempt = async {
            let on_standby = || context.metrics.live.standby();
            if context.standby_waits && wait_for_promotion(&context.info, on_standby).await? {
                // Whoever wrote meanwhile did so rightly; with the promotion it is our turn again.
                writer = Writer::Epoch(None);
            }
            let server = connect(&context.info).await?;
            let opened = open(store, keys, &server, archive.clone()).await?;
            archive = Some(opened.clone());
            Ok::<_, StreamError>((server, opened))
        };
        let connected = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            connected = attempt => connected,
        };
        let begun = tokio::time::Instant::now();
        let error = match connected {
            Ok((server, archive)) => {
                let followed = follow(server, &archive, context, &mut writer, stop).await;
                context.writing.send_replace(None);
                match followed {
                    Ok(Followed::Stopped) => return Ok(()),
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        context.metrics.stream_ended(&error.interruption());
        streamed |= context.state.borrow().timeline.is_some();
        if let (StreamError::WalRemoved { place, cause }, Some(archive)) = (&error, &archive) {
            if !context.copies.is_whole() {
                tracing::error!(%error, "a copy of the archive that is away, or not compared yet, may hold that WAL; no gap is recorded before it was asked");
            } else {
                match note_gap(context, archive, *place, cause).await {
                    Ok(()) => continue,
                    Err(error) => {
                        tracing::error!(%error, "a gap could not be recorded; trying again");
                    }
                }
            }
        }
        let futile =
            error.is_permanent() || error.is_refusal() && started.elapsed() >= REFUSAL_PATIENCE;
        if error.is_conflict() || !streamed && futile {
            return Err(error);
        }
        if begun.elapsed() > LONGEST_PAUSE {
            backoff.succeeded();
        }
        let wait = backoff.pause();
        tracing::warn!(%error, server = context.info.endpoint(), retry_in_ms = wait.as_millis() as u64, "not streaming");
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
    }
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
    server: &Server,
    known: Option<Archive>,
) -> Result<Archive, StreamError> {
    let (system_id, segment_size) = (server.identity.system_id, server.segment_size);
    match known {
        Some(archive) => {
            archive.belongs_to(system_id, segment_size)?;
            Ok(archive)
        }
        None => {
            let archive =
                Archive::open_or_begin(store.clone(), keys.clone(), system_id, segment_size)
                    .await?;
            if store
                .conditional_put()
                .await
                .map_err(walvault_archive::Error::from)?
                == ConditionalPut::Ignored
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
