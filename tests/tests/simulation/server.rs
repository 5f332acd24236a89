//! A walsender: what PostgreSQL sends, in runs of any length, until the connection breaks.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};
use walvault_daemon::pipeline::{Durable, WalSource};
use walvault_protocol::client::{ClientError, WalMessage};
use walvault_protocol::replication::{DurablePosition, Keepalive, StandbyStatus, WalData};
use walvault_protocol::{Lsn, LsnRange, PgTimestamp};

use crate::world::{Planted, State, World};

/// What PostgreSQL puts into a message at most.
const MAX_SEND_SIZE: u64 = 128 << 10;
const NOW: PgTimestamp = PgTimestamp(0);

/// An open stream.
pub struct SimulatedStream {
    world: World,
    node: usize,
    line: usize,
    position: Lsn,
    connection: u64,
    keepalive: Instant,
}

impl SimulatedStream {
    /// Streams `line` from `start` on, from a server that is up.
    pub fn open(world: &World, node: usize, line: usize, start: Lsn) -> SimulatedStream {
        let connection = world.lock().nodes[node].connections;
        SimulatedStream {
            world: world.clone(),
            node,
            line,
            position: start,
            connection,
            keepalive: Instant::now() + Duration::from_millis(500),
        }
    }

    /// Where this timeline ends for this server, if it has gone on to another.
    fn left_at(&self, state: &State) -> Option<Lsn> {
        let mut at = state.nodes[self.node].line;
        while at != self.line {
            let (parent, left) = state.lines[at].parent?;
            if parent == self.line {
                return Some(left);
            }
            at = parent;
        }
        None
    }

    fn take(&mut self) -> Result<Option<WalMessage>, ClientError> {
        let longest = 1 + self.world.draw(MAX_SEND_SIZE);
        let state = self.world.lock();
        let node = &state.nodes[self.node];
        if !node.up || node.connections != self.connection {
            return Err(ClientError::Lost {
                endpoint: format!("node {}", self.node),
                source: io::ErrorKind::ConnectionReset.into(),
            });
        }
        let left_at = self.left_at(&state);
        let end = left_at.unwrap_or_else(|| state.end(self.line));
        if self.position < end {
            let range = LsnRange::new(self.position, end.min(self.position + longest));
            let bytes = Bytes::copy_from_slice(state.wal(self.line, range));
            self.position = range.end;
            return Ok(Some(WalMessage::Data(WalData {
                start: range.start,
                server_end: end,
                sent_at: NOW,
                bytes,
            })));
        }
        Ok(left_at.map(|_| WalMessage::EndOfTimeline))
    }
}

impl WalSource for SimulatedStream {
    async fn next(&mut self) -> Result<WalMessage, ClientError> {
        loop {
            let changed = self.world.changed.clone();
            let changed = changed.notified();
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = sleep_until(self.keepalive) => {
                    let pause = Duration::from_millis(200 + self.world.draw(8000));
                    self.keepalive = Instant::now() + pause;
                    let reply_requested = self.world.one_in(3);
                    let server_end = self.position;
                    return Ok(WalMessage::Keepalive(Keepalive { server_end, sent_at: NOW, reply_requested }));
                }
            }
        }
    }

    fn try_next(&mut self) -> Result<Option<WalMessage>, ClientError> {
        if self.world.one_in(2) {
            Ok(None)
        } else {
            self.take()
        }
    }

    async fn send_status(
        &mut self,
        status: &StandbyStatus<'_, Durable>,
    ) -> Result<(), ClientError> {
        let mut state = self.world.lock();
        let flush = match state.planted {
            Planted::EarlyAcknowledgement => status.write,
            Planted::WatermarkOverHole => state.newest(self.line).max(status.flush.durable()),
            _ => status.flush.durable(),
        };
        if flush == Lsn::INVALID {
            return Ok(());
        }
        state.report(self.line, flush);
        let slot = &mut state.nodes[self.node].slot;
        *slot = (*slot).max(Some(flush));
        Ok(())
    }
}
