//! Writing canaries: what a drill finds again in the archive.

use std::time::{Duration, Instant};

use walvault_archive::canary;
use walvault_protocol::client::{ClientError, Session};

use crate::metrics::Metrics;

/// Knows when the next is due.
pub(super) struct Canary {
    every: Duration,
    last: Option<Instant>,
    refused: bool,
}

impl Canary {
    /// One after each `every`; none when that is zero.
    pub(super) fn new(every: Duration) -> Canary {
        Canary {
            every,
            last: None,
            refused: false,
        }
    }

    /// Writes one over `sql`, a connection to a primary, if it is time. That the server does not let us is
    /// said once and is no error: nothing but drills depends on it.
    pub(super) async fn write_if_due(
        &mut self,
        sql: &mut Session,
        metrics: &Metrics,
    ) -> Result<(), ClientError> {
        let waited = self.last.is_none_or(|last| last.elapsed() >= self.every);
        if self.every.is_zero() || !waited {
            return Ok(());
        }
        self.last = Some(Instant::now());
        match sql.query(&canary::statement()).await {
            Ok(_) => {
                self.refused = false;
                metrics.canary_written();
                Ok(())
            }
            Err(error) if error.server().is_some_and(|error| !error.is_fatal()) => {
                if !std::mem::replace(&mut self.refused, true) {
                    tracing::warn!(%error, "no canary can be written into WAL; grant EXECUTE on pg_logical_emit_message, or set [drill] canary_every = 0");
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
