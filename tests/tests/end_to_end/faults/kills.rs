//! SIGKILL for the sidecar, the server and the store, in any order, at any moment.

use std::thread;
use std::time::Instant;

use walvault_tests::chance::soak_until;
use walvault_tests::clients::{Clients, commit_synchronously, restore_everything};
use walvault_tests::process::Process;
use walvault_tests::{ArchiveKind, Chance, CommitLog, Postgres, Scenario, Walvaultd, test};

#[test]
fn killed_in_any_order_no_acknowledged_commit_is_lost() {
    let server = Postgres::builder().segment_size(1).start();
    let scenario = Scenario::new(ArchiveKind::Garage);
    scenario.configure_for(&server);
    let _log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    commit_synchronously(&server, &[]);
    let clients = Clients::of(&[&server], 4);
    let mut world = World {
        scenario,
        server,
        daemon: Some(daemon),
        backup: None,
        chance: Chance::new(),
    };
    let end = soak_until(15);
    let mut rounds = 0;
    while rounds < 4 || Instant::now() < end {
        clients.wait_for_more(20);
        world.round();
        rounds += 1;
    }
    clients.wait_for_more(20);
    println!("{rounds} rounds, {} commits", clients.acknowledged().len());
    world.server.lose();
    drop((world.daemon.take(), world.backup.take()));
    let acknowledged = clients.stop();
    let _ = restore_everything(&world.scenario, "restored", &acknowledged);
}

struct World {
    scenario: Scenario,
    server: Postgres,
    daemon: Option<Walvaultd>,
    backup: Option<Process>,
    chance: Chance,
}

#[derive(Debug, Clone, Copy)]
enum Victim {
    Sidecar,
    Server,
    Store,
}

impl World {
    /// Kills some of them, one after the other, and brings them back in some order.
    fn round(&mut self) {
        if self.chance.happens(50) {
            self.back_up();
        }
        let victims = self.some_in_any_order();
        println!("killing {victims:?}");
        for victim in &victims {
            thread::sleep(self.chance.milliseconds(400));
            match victim {
                Victim::Sidecar => self.daemon.take().expect("one that runs").kill(),
                Victim::Server => self.server.kill(),
                Victim::Store => self.scenario.archive_mut().garage().kill(),
            }
        }
        let mut dead = victims;
        while !dead.is_empty() {
            thread::sleep(self.chance.milliseconds(800));
            let next = self.chance.number(0..dead.len() as u64);
            match dead.remove(usize::try_from(next).expect("an index")) {
                Victim::Sidecar => self.daemon = Some(self.scenario.run()),
                Victim::Server => self.server.start(),
                Victim::Store => self.scenario.archive_mut().garage().restart(),
            }
        }
    }

    fn some_in_any_order(&self) -> Vec<Victim> {
        let mut all = vec![Victim::Sidecar, Victim::Server, Victim::Store];
        let count = self.chance.number(1..4);
        (0..count)
            .map(|_| {
                let next = self.chance.number(0..all.len() as u64);
                all.remove(usize::try_from(next).expect("an index"))
            })
            .collect()
    }

    /// Begins a base backup, which may be in the middle of it when the killing begins; one that is still
    /// under way is killed.
    fn back_up(&mut self) {
        self.backup = None;
        let command = self.scenario.command("walvaultd", &["backup"]);
        let log = self.scenario.path("backups.log");
        self.backup = Some(Process::spawn("walvaultd backup", command, &log));
    }
}
