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

    /// How long until the next is due; `None` when there is none.
    pub(super) fn due_in(&self) -> Option<Duration> {
        let passed = self.last.map_or(self.every, |last| last.elapsed());
        (!self.every.is_zero()).then(|| self.every.saturating_sub(passed))
    }

    /// Writes one over `sql`, a connection to a primary, if it is time. That the server does not let us is
    /// said once and is no error: nothing but drills depends on it.
    pub(super) async fn write_if_due(
        &mut self,
        sql: &mut Session,
        metrics: &Metrics,
    ) -> Result<(), ClientError> {
        if self.due_in() != Some(Duration::ZERO) {
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
