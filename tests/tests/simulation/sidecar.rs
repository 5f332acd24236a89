//! A sidecar: what `walvaultd run` does with a server, on the simulated ones.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use walvault_archive::fence::Epoch;
use walvault_archive::format::Codec;
use walvault_archive::keys::{KeyFile, Secret};
use walvault_archive::record::WriterRecord;
use walvault_archive::{Archive, Error};
use walvault_daemon::copies::Look;
use walvault_daemon::metrics::Metrics;
use walvault_daemon::observed::StreamState;
use walvault_daemon::pipeline::{
    Begin, CatchUp, Destination, Proven, Pump, PumpEnd, Removals, Reports, Settings,
};
use walvault_daemon::stream::held::held;
use walvault_daemon::stream::overlap::vouch;
use walvault_daemon::stream::{fence, histories, resume};
use walvault_protocol::wal::synthetic::SYSTEM;
use walvault_protocol::{Lsn, TimelineHistory, TimelineId};
use walvault_store::{RetryPolicy, Retrying};
use zeroize::Zeroizing;

use crate::server::SimulatedStream;
use crate::store::SimulatedStore;
use crate::world::{Planted, World};

/// The key file that everybody has.
pub fn key() -> KeyFile {
    KeyFile::from_secret(Secret::from_bytes(&Zeroizing::new([7; 32])))
}

/// What the process is given.
#[derive(Clone)]
pub struct Process {
    pub world: World,
    pub number: u32,
    pub node: usize,
    pub settings: Settings,
    pub commits_wait: watch::Receiver<bool>,
}

impl Process {
    /// Runs until it is killed, asked to stop, or refused.
    pub async fn run(self, stop: CancellationToken) {
        let store = Arc::new(SimulatedStore::of(&self.world, self.number));
        let store = Arc::new(Retrying::new(store, RetryPolicy::default()));
        let size = self.world.lock().segment();
        let archive = Archive::open_or_begin(store, vec![key()], SYSTEM, size);
        let archive = match archive.await {
            Ok(archive) => archive,
            Err(error) => return self.note(format!("cannot open the archive: {error}")),
        };
        let removals = Removals::default();
        let mut epoch = None;
        while !stop.is_cancelled() {
            match self.stream(&archive, &mut epoch, &removals, &stop).await {
                Ok(()) => {}
                Err(
                    error @ (Error::Fenced { .. } | Error::Diverged { .. } | Error::Record { .. }),
                ) => {
                    return self.note(format!("refused: {error}"));
                }
                Err(error) => self.note(format!("not streaming: {error}")),
            }
            sleep(Duration::from_millis(50 + self.world.draw(1000))).await;
        }
    }

    fn note(&self, what: String) {
        self.world
            .lock()
            .note(format!("process {}: {what}", self.number));
    }

    async fn stream(
        &self,
        archive: &Archive,
        epoch: &mut Option<Epoch>,
        removals: &Removals,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let mut line = {
            let state = self.world.lock();
            let node = &state.nodes[self.node];
            if !node.up {
                return Ok(());
            }
            node.line
        };
        loop {
            let history = self.archive_history(archive, line).await?;
            let (reserved, end) = {
                let mut state = self.world.lock();
                let (end, begin) = (state.end(line), state.lines[0].writer.start);
                let slot = &mut state.nodes[self.node].slot;
                (slot.get_or_insert(begin).to_owned(), end)
            };
            let copies = CatchUp::default();
            let look = Look::new(archive, &copies, &history);
            let (catalog, _) = held(look, Some(reserved), end).await?;
            let place = match resume::resume(&catalog, &history, Some(reserved), end) {
                Ok(place) => place,
                Err(superseded) => {
                    self.note(superseded.to_string());
                    return Ok(());
                }
            };
            let on = place.timeline.get() as usize - 1;
            if on == line && place.archived_to > end {
                self.note(format!("the server is behind {}", place.archived_to));
                return Ok(());
            }
            let (reserved, known) = (Some(reserved), Lsn::INVALID);
            vouch(archive, &catalog, &history, reserved, known, place).await?;
            let sealer = archive.sealer(Codec::Lz4).await?;
            let mut source = SimulatedStream::open(&self.world, self.node, on, place.start);
            self.claim(archive, epoch, place.timeline).await?;
            let held = epoch.as_ref().expect("claimed");
            self.note(format!(
                "streams timeline {} from {}, archived to {}",
                on + 1,
                place.start,
                place.archived_to
            ));
            let reports = Reports {
                state: watch::Sender::new(StreamState::default()),
                metrics: Arc::new(Metrics::new()),
                copies: CatchUp::default(),
                impassable: tokio::sync::mpsc::unbounded_channel().0,
            };
            let waits = self.commits_wait.clone();
            // Every world has one server to each line of WAL, so that nothing has to be compared.
            let proven = Proven {
                newest: true,
                last_record: None,
                units: catalog
                    .proven_units(archive, place.timeline, Lsn::INVALID)
                    .await?,
            };
            let pump = Pump::new(
                &Destination::only(archive, &catalog),
                sealer,
                Begin {
                    place,
                    proven: &proven,
                },
                self.settings,
                reports,
                removals.clone(),
                waits,
            );
            let watches = self.world.lock().planted != Planted::StaleWriter;
            let ended = tokio::select! {
                biased;
                ended = pump.run(&mut source, stop) => ended,
                fenced = fence::overtaken(held), if watches => return Err(fenced),
            };
            match ended {
                Ok(PumpEnd::TimelineEnded) => line = self.world.lock().nodes[self.node].line,
                Ok(_) => return Ok(()),
                Err(walvault_daemon::pipeline::PumpError::Archive(error)) => return Err(error),
                Err(error) => {
                    self.world
                        .lock()
                        .violate(format!("sound WAL was refused: {error}"));
                    return Ok(());
                }
            }
        }
    }

    async fn claim(
        &self,
        archive: &Archive,
        epoch: &mut Option<Epoch>,
        timeline: TimelineId,
    ) -> Result<(), Error> {
        if let Some(epoch) = epoch {
            if self.world.lock().planted == Planted::StaleWriter {
                return Ok(());
            }
            return epoch.check().await;
        }
        let writer = WriterRecord {
            version: 1,
            host: format!("node-{}", self.node),
            pid: self.number,
            server: format!("node-{}", self.node),
            timeline,
            taken_at: jiff::Timestamp::UNIX_EPOCH,
            token: self.number.to_string(),
        };
        *epoch = Some(Epoch::take(archive, &writer).await?);
        Ok(())
    }

    async fn archive_history(
        &self,
        archive: &Archive,
        line: usize,
    ) -> Result<TimelineHistory, Error> {
        let (mut at, mut newest) = (Some(line), None);
        while let Some(index) = at {
            let (content, parent) = {
                let state = self.world.lock();
                (state.history(index), state.lines[index].parent)
            };
            let timeline = TimelineId::new(index as u32 + 1).expect("not zero");
            let history = match content {
                Some(content) => {
                    let history = TimelineHistory::parse(timeline, content.as_bytes());
                    histories::store(archive, timeline, Bytes::from(content)).await?;
                    history.expect("a history")
                }
                None => TimelineHistory::root(timeline),
            };
            newest.get_or_insert(history);
            at = parent.map(|(parent, _): (usize, Lsn)| parent);
        }
        Ok(newest.expect("at least one"))
    }
}
