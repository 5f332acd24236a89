//! One world from its beginning to its end.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use walvault_archive::Archive;
use walvault_archive::format::Codec;
use walvault_config::Ack;
use walvault_daemon::metrics::Metrics;
use walvault_daemon::pipeline::Settings;
use walvault_layout::LOCKS_PREFIX;
use walvault_protocol::segment::segment_name;
use walvault_protocol::wal::synthetic::SYSTEM;
use walvault_protocol::{Lsn, LsnRange, SegmentNumber, TimelineId};
use walvault_restore::wal::{Fetched, Holes, WalFile, fetch};
use walvault_store::simulated;
use walvault_upkeep::retention::RetentionPolicy;

use crate::sidecar::{Process, key};
use crate::store::SimulatedStore;
use crate::upkeep::{Upkeep, plan_restores};
use crate::world::{BEGIN, Node, Planted, World};

/// How many things happen before all comes to rest.
const STEPS: u64 = 40;
/// How long everything may take once nothing goes wrong any more.
const REST: Duration = Duration::from_secs(180);

/// How a world ended.
pub struct Outcome {
    pub trace: Vec<String>,
    pub violation: Option<String>,
}

/// Runs the world of `seed`.
pub fn run(seed: u64, planted: Planted) -> Outcome {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            simulated::simulate(seed, BEGIN);
            let world = World::new(seed, planted);
            Chaos::new(&world).live().await;
            let mut state = world.lock();
            Outcome {
                trace: std::mem::take(&mut state.trace),
                violation: state.violation.take(),
            }
        })
    })
    .join()
    .expect("a world does not panic")
}

/// A process that was started.
struct Running {
    task: JoinHandle<()>,
    stop: CancellationToken,
    metrics: Arc<Metrics>,
}

struct Chaos {
    world: World,
    /// The process beside each node, if one runs.
    processes: Vec<Option<Running>>,
    /// The backup that is taken. PostgreSQL sees to it that there is one at a time.
    backup: Option<JoinHandle<()>>,
    prunes: Vec<JoinHandle<()>>,
    started: u32,
    settings: Settings,
}

impl Chaos {
    fn new(world: &World) -> Chaos {
        let settings = Settings {
            ack: Ack::First,
            max_delay: Duration::from_millis([0, 100, 1000][world.draw(3) as usize]),
            memory: (1 + world.draw(8)) << 20,
            uploads: 1 + world.draw(4) as usize,
            receiver_timeout: Duration::from_secs(60),
            codec: Codec::Lz4,
        };
        Chaos {
            world: world.clone(),
            processes: vec![None],
            backup: None,
            prunes: Vec::new(),
            started: 0,
            settings,
        }
    }

    async fn live(&mut self) {
        self.begin().await;
        self.start(0);
        for _ in 0..STEPS {
            let pause = match self.world.draw(10) {
                0 => 40_000,
                1..4 => 1500,
                _ => 60,
            };
            sleep(Duration::from_millis(self.world.draw(pause))).await;
            self.step();
            self.check_wal();
            if self.world.lock().violation.is_some() {
                return;
            }
        }
        self.rest().await;
        self.kill_all();
        self.world.lock().lose_node();
        if self.world.lock().violation.is_none() {
            self.restore().await;
        }
    }

    /// The archive with its data key, whose name the operating system draws: were there two, chance
    /// would choose between them.
    async fn begin(&self) {
        let store = Arc::new(SimulatedStore::calm(&self.world));
        let size = self.world.lock().segment();
        let archive = Archive::open_or_begin(store, vec![key()], SYSTEM, size).await;
        let sealer = archive.expect("an archive").sealer(Codec::Lz4).await;
        sealer.map(drop).expect("a data key");
    }

    fn step(&mut self) {
        let primary = self.world.lock().nodes.len() - 1;
        let node = self.world.draw(primary as u64 + 1) as usize;
        match self.world.draw(120) {
            0..45 => {
                let bytes = match self.world.draw(4) {
                    0 => 1_200_000,
                    1 => 200_000,
                    _ => 3000,
                };
                let bytes = self.world.draw(bytes);
                let mut state = self.world.lock();
                let line = state.nodes[node].line;
                if state.nodes[node].up {
                    state.write(line, bytes);
                }
            }
            45..50 => {
                let mut state = self.world.lock();
                let line = state.nodes[node].line;
                state.note("pg_switch_wal()".to_owned());
                state.switch_wal(line);
            }
            50..58 => {
                let waits = self.world.one_in(2);
                self.world.lock().commits_wait = waits;
            }
            58..68 => {
                self.kill(node);
                self.start(node);
            }
            68..72 => {
                if let Some(running) = &self.processes[node] {
                    running.stop.cancel();
                }
            }
            72..78 => self.world.lock().nodes[node].connections += 1,
            78..82 => {
                let mut state = self.world.lock();
                let up = !state.nodes[node].up;
                state.note(format!("node {node} is {}", if up { "up" } else { "down" }));
                state.nodes[node].up = up;
            }
            82..87 => {
                let outage = Duration::from_millis(self.world.draw(20_000));
                self.world.lock().outage_until = Instant::now() + outage;
            }
            87..92 => {
                let slow = Duration::from_millis(self.world.draw(20_000));
                self.world.lock().slow_until = Instant::now() + slow;
            }
            92..96 if primary < 3 => self.fail_over(primary),
            100..107 => self.back_up(node),
            107..114 => self.prune(),
            114..116 => self.kill_upkeep(),
            116..119 => self.world.lock().lose_node(),
            _ => {
                for node in 0..=primary {
                    self.start(node);
                }
            }
        }
        self.world.tell();
    }

    /// What the servers sent is sound WAL.
    fn check_wal(&self) {
        for running in self.processes.iter().flatten() {
            let refused = running
                .metrics
                .stream_errors_total
                .with_label_values(&["wal"]);
            if refused.get() > 0 {
                self.world
                    .lock()
                    .violate("sound WAL was refused".to_owned());
            }
        }
    }

    /// Another server is promoted. The old one is dead, or does not know.
    fn fail_over(&mut self, old: usize) {
        let dies = self.world.one_in(2);
        let mut state = self.world.lock();
        let parent = state.nodes[old].line;
        let line = state.fork(parent);
        state.nodes[old].up &= !dies;
        state.note(format!(
            "node {} is promoted to timeline {}",
            old + 1,
            line + 1
        ));
        state.nodes.push(Node {
            line,
            up: true,
            connections: 0,
            slot: None,
            slot_holder: None,
        });
        state.write(line, 500);
        drop(state);
        self.processes.push(None);
        self.start(old + 1);
    }

    fn start(&mut self, node: usize) {
        if self.processes[node]
            .as_ref()
            .is_some_and(|running| !running.task.is_finished())
        {
            return;
        }
        self.started += 1;
        let metrics = Arc::new(Metrics::new());
        let process = Process {
            world: self.world.clone(),
            number: self.started,
            node,
            settings: self.settings,
            metrics: metrics.clone(),
        };
        self.world.lock().note(format!(
            "process {} starts beside node {node}",
            self.started
        ));
        let stop = CancellationToken::new();
        let task = tokio::spawn(process.run(stop.clone()));
        self.processes[node] = Some(Running {
            task,
            stop,
            metrics,
        });
    }

    fn kill(&mut self, node: usize) {
        if let Some(running) = self.processes[node].take() {
            self.world
                .lock()
                .note(format!("the process beside node {node} is killed"));
            running.task.abort();
        }
    }

    fn back_up(&mut self, node: usize) {
        let busy = self.backup.as_ref().is_some_and(|task| !task.is_finished());
        if !busy && self.world.lock().nodes[node].up {
            let task = self.upkeep().back_up(node);
            self.backup = Some(tokio::spawn(task));
        }
    }

    fn prune(&mut self) {
        let mut policy = RetentionPolicy {
            grace: Duration::from_secs(self.world.draw(60)),
            ..RetentionPolicy::default()
        };
        match self.world.draw(3) {
            0 => policy.window = Some(Duration::from_secs(1 + self.world.draw(60))),
            count => policy.keep_last = Some(count as u32),
        }
        let task = self.upkeep().prune(policy);
        self.prunes.push(tokio::spawn(task));
    }

    fn upkeep(&mut self) -> Upkeep {
        self.started += 1;
        Upkeep {
            world: self.world.clone(),
            number: self.started,
        }
    }

    /// Ends backups and prunes wherever they are. Their lock expires before anybody else comes.
    fn kill_upkeep(&mut self) {
        for task in self.backup.take().into_iter().chain(self.prunes.drain(..)) {
            task.abort();
        }
        let mut state = self.world.lock();
        state.note("backups and prunes are killed".to_owned());
        state
            .objects
            .retain(|key, _| !key.starts_with(LOCKS_PREFIX));
    }

    fn kill_all(&mut self) {
        self.kill_upkeep();
        for node in 0..self.processes.len() {
            self.kill(node);
        }
    }

    /// Nothing goes wrong any more: what the primary wrote must come to be archived.
    async fn rest(&mut self) {
        let primary = self.processes.len() - 1;
        for node in 0..primary {
            self.kill(node);
        }
        let end = {
            let mut state = self.world.lock();
            let now = Instant::now();
            (state.outage_until, state.slow_until) = (now, now);
            state.nodes[primary].up = true;
            let line = state.nodes[primary].line;
            state.write(line, 10);
            state.note("all is well from here on".to_owned());
            state.end(line)
        };
        let deadline = Instant::now() + REST;
        loop {
            self.start(primary);
            self.world.tell();
            sleep(Duration::from_millis(500)).await;
            let mut state = self.world.lock();
            let line = state.nodes[primary].line;
            if state
                .promises
                .get(&line)
                .is_some_and(|promised| *promised >= end)
            {
                return;
            }
            if Instant::now() > deadline {
                let reach = state
                    .needed_from(line)
                    .map(|from| state.stored_from(line, from));
                return state.violate(format!(
                    "{end} is not archived though all is well, only {reach:?}"
                ));
            }
        }
    }

    /// What was reported is restored from the store alone, by the restore's own way to WAL.
    async fn restore(&self) {
        let home = tempfile::tempdir().expect("a directory");
        let store = Arc::new(SimulatedStore::calm(&self.world));
        let archive = match Archive::open(store, vec![key()]).await {
            Ok(archive) => archive,
            Err(error) => {
                return self
                    .world
                    .lock()
                    .violate(format!("the archive does not open: {error}"));
            }
        };
        let (line, promised, begin, size) = {
            let state = self.world.lock();
            let line = state.nodes[self.processes.len() - 1].line;
            let begin = state.needed_from(line).unwrap_or(Lsn::INVALID);
            (line, state.promised(line), begin, state.segment())
        };
        if let Err(wrong) = plan_restores(&self.world, &archive, line).await {
            return self.world.lock().violate(wrong);
        }
        let mut at = begin;
        while at < promised {
            let number = SegmentNumber::containing(at, size);
            let segment = number.range(size);
            // PostgreSQL asks for the newest timeline that has the segment.
            let (mut on, mut found) = (Some(line), None);
            while let Some(index) = on {
                let (parent, begins) = match self.world.lock().lines[index].parent {
                    Some((parent, left)) => (Some(parent), left),
                    None => (None, Lsn::INVALID),
                };
                on = parent;
                if begins >= segment.end {
                    continue;
                }
                let timeline = TimelineId::new(index as u32 + 1).expect("not zero");
                let name = segment_name(timeline, number, size);
                let path = home.path().join(&name);
                let mut file = WalFile::create(&path).expect("a file");
                // What was stored behind the promise may have holes: a restore's plan ends before them.
                let holes = Holes::EndAt(promised);
                match fetch(&archive, &name, holes, &mut file).await {
                    Ok(Fetched::Found) => {
                        file.finish().expect("published");
                        found = Some(std::fs::read(&path).expect("the file"));
                        break;
                    }
                    Ok(Fetched::Absent) => {}
                    Err(error) => return self.world.lock().violate(format!("{name}: {error}")),
                }
            }
            let mut state = self.world.lock();
            let end = segment.end.min(promised);
            let expected = state.wal(line, LsnRange::new(at, end));
            let right = found.is_some_and(|bytes| bytes.starts_with(expected));
            if !right {
                return state.violate(format!(
                    "the segment of {at} is restored wrong, or not at all"
                ));
            }
            at = segment.end;
        }
    }
}
