//! A sidecar: what `walvaultd run` does with a server, on the simulated ones.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use walvault_archive::keys::{KeyAccess, KeyFile, Secret};
use walvault_daemon::journal::Journal;
use walvault_daemon::metrics::Metrics;
use walvault_daemon::observed::StreamState;
use walvault_daemon::pipeline::{CatchUp, Removals, Settings};
use walvault_daemon::stream::follow::{Context, Origin};
use walvault_daemon::stream::histories::Histories;
use walvault_daemon::stream::supervise;
use walvault_protocol::client::{ConnInfo, SlotName};
use walvault_store::{RetryPolicy, Retrying, SharedStore};
use zeroize::Zeroizing;

use crate::server::dial;
use crate::store::SimulatedStore;
use crate::world::World;

/// Where the servers are: nothing is looked up, and nothing is asked of the environment.
const SERVER: &str = "host=/simulated user=walvault password=none dbname=postgres";

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
    pub metrics: Arc<Metrics>,
}

impl Process {
    /// Runs until it is killed, asked to stop, or refused.
    pub async fn run(self, stop: CancellationToken) {
        let store = Arc::new(SimulatedStore::of(&self.world, self.number));
        let store: SharedStore = Arc::new(Retrying::new(store, RetryPolicy::default()));
        let keys = KeyAccess::from(vec![key()]);
        let info = ConnInfo::parse(SERVER, &|_| None).expect("a connection string");
        let context = Context {
            info: info.with_dial(dial(&self.world, self.node)),
            slot: SlotName::new("walvault").expect("a name"),
            wal_dir: None,
            canary_every: Duration::ZERO,
            temporary: false,
            from: Origin::Archive,
            standby_waits: true,
            new_archive: false,
            settings: self.settings,
            state: watch::Sender::new(StreamState::default()),
            writing: watch::Sender::new(None),
            metrics: self.metrics.clone(),
            archive: watch::Sender::new(None),
            journal: Journal::default(),
            removals: Removals::default(),
            histories: Histories::default(),
            copies: CatchUp::default(),
        };
        let ended = supervise(&context, &store, &keys, &stop).await;
        let mut state = self.world.lock();
        match ended {
            Ok(()) => state.note(format!("process {} stopped", self.number)),
            Err(error) => state.note(format!("process {}: refused: {error}", self.number)),
        }
    }
}
