//! Server and sidecar that end at the same time.
//!
//! PostgreSQL ends a fast shutdown once its WAL senders have had the last of the WAL flushed
//! (`WalSndDone` in `walsender.c`): the archive gets the shutdown's own checkpoint as long as the sidecar
//! stays, and an archive that takes nothing would hold the server up for ever.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use walvault_protocol::Lsn;
use walvault_protocol::client::{ConnInfo, Mode, Session};

use crate::metrics::Metrics;
use crate::metrics::live::Phase;
use crate::observed::StreamState;

/// After so long without progress the server is asked whether it shuts down.
const STANDING: Duration = Duration::from_secs(5);
/// A server that shuts down waits for so long for an archive that takes nothing.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the server may take for an answer.
const ANSWER: Duration = Duration::from_secs(1);
/// How often a server that shuts down is asked whether it has ended.
const INTERVAL: Duration = Duration::from_millis(200);

/// Whether the server, from which WAL is streamed, lets nobody in any more
/// (`57P03 cannot_connect_now`): then it is shutting down.
async fn is_shutting_down(info: &ConnInfo) -> bool {
    match timeout(ANSWER, Session::connect(info, Mode::Replication)).await {
        Ok(Ok(session)) => {
            session.close().await;
            false
        }
        Ok(Err(error)) => error.sqlstate() == Some("57P03"),
        Err(_) => false,
    }
}

/// Returns once a server that shuts down has waited long enough for an archive that takes nothing: what
/// it held back is in PostgreSQL, and is archived when it is started again.
pub async fn held_up(info: &ConnInfo, state: &watch::Sender<StreamState>) -> Lsn {
    loop {
        let stands = *state.borrow();
        let begun = Instant::now();
        let waits = stands.durable < stands.received;
        if moves(state, stands.durable, STANDING).await || !waits || !is_shutting_down(info).await {
            continue;
        }
        tracing::error!(
            archived_to = %stands.durable,
            "the server is shutting down and waits for the archive, which takes nothing; it is let go {} s after the last progress",
            PATIENCE.as_secs()
        );
        let left = PATIENCE.saturating_sub(begun.elapsed());
        if !moves(state, stands.durable, left).await {
            return stands.durable;
        }
    }
}

/// Whether the watermark moves from `durable` on within `limit`.
async fn moves(state: &watch::Sender<StreamState>, durable: Lsn, limit: Duration) -> bool {
    let mut state = state.subscribe();
    let moved = state.wait_for(|now| now.durable > durable);
    timeout(limit, moved).await.is_ok()
}

/// Returns when a sidecar that is told to stop may leave: at once, unless its server is shutting down as
/// well, which then has a last word, for `limit` at most.
pub async fn may_leave(info: &ConnInfo, metrics: &Metrics, limit: Duration) {
    let until = Instant::now() + limit;
    let streams = || metrics.live.snapshot().phase == Phase::Streaming;
    let mut said = false;
    while streams() && Instant::now() < until && is_shutting_down(info).await {
        if !said {
            tracing::info!("the server is shutting down as well; staying until it has ended");
            said = true;
        }
        sleep(INTERVAL).await;
    }
}
