//! WAL for a backup when nobody streams: from a temporary slot, for as long as the backup takes.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use walvault_archive::{Archive, Catalog};
use walvault_protocol::replication::SlotName;
use walvault_protocol::{Lsn, LsnRange, TimelineId};

use super::{BackupError, WalSecured, attempt};
use crate::observed::StreamState;
use crate::pipeline::Removals;
use crate::stream::Server;
use crate::stream::StreamError;
use crate::stream::follow::{Context, Followed, Origin, Writer, follow};

/// A stream beside a backup. It ends with its owner.
pub struct BringAlong {
    archive: Archive,
    state: watch::Receiver<StreamState>,
    stream: JoinHandle<Result<Followed, StreamError>>,
    removals: Removals,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

impl BringAlong {
    /// Begins to stream over `server` from its temporary slot `slot`, which has WAL reserved already: the
    /// server keeps whatever a backup begun from now on needs.
    ///
    /// # Errors
    /// When the stream does not begin.
    pub async fn start(
        archive: &Archive,
        like: &Context,
        server: Server,
        slot: SlotName,
    ) -> Result<BringAlong, StreamError> {
        let info = like
            .info
            .clone()
            .with_application_name(attempt::APPLICATION_NAME);
        let context = Context {
            info,
            slot,
            temporary: true,
            from: Origin::Slot,
            state: watch::Sender::new(StreamState::default()),
            writing: watch::Sender::new(None),
            removals: Removals::default(),
            archive: watch::Sender::new(None),
            // What is known of the sidecar's own stream is not to be confused with this one.
            metrics: Arc::default(),
            ..like.clone()
        };
        let removals = context.removals.clone();
        let stop = CancellationToken::new();
        let mut state = context.state.subscribe();
        let mut stream = tokio::spawn({
            let (archive, stop) = (archive.clone(), stop.clone());
            async move { follow(server, &archive, &context, &mut Writer::Beside, &stop).await }
        });
        tokio::select! {
            Ok(_) = state.wait_for(|state| state.timeline.is_some()) => {}
            ended = &mut stream => {
                ended.expect("streaming does not panic")?;
            }
        }
        Ok(BringAlong {
            archive: archive.clone(),
            state,
            stream,
            removals,
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
        })
    }
}

#[derive(Debug, thiserror::Error)]
#[error(
    "the stream of timeline {timeline:?} ended at {reached}, and the backup needs {range}; take the backup again"
)]
struct Missing {
    timeline: TimelineId,
    range: LsnRange,
    reached: Lsn,
}

#[async_trait]
impl WalSecured for BringAlong {
    async fn secure(&mut self, timeline: TimelineId, range: LsnRange) -> Result<(), BackupError> {
        let there = |state: &StreamState| {
            state.timeline.is_some_and(|on| on > timeline) || state.durable >= range.end
        };
        // A stream that fails closes `state` a moment before it returns: its error says what happened.
        let early = tokio::select! {
            Ok(_) = self.state.wait_for(there) => None,
            ended = &mut self.stream => Some(ended),
        };
        self.stop.cancel();
        let ended = match early {
            Some(ended) => ended,
            None => (&mut self.stream).await,
        };
        ended
            .expect("streaming does not panic")
            .map_err(|error| BackupError::Wal(Box::new(error)))?;
        self.removals.settled(Removals::GRACE).await;
        let catalog = Catalog::load_wal(&self.archive).await?;
        let reached = catalog.reach(&catalog.history(timeline), range.start);
        if reached >= range.end {
            Ok(())
        } else {
            Err(BackupError::Wal(Box::new(Missing {
                timeline,
                range,
                reached,
            })))
        }
    }
}
