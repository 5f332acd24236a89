//! A directory for an archive on a disk that fills up.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use walvault_tests::clients::{Clients, commit_synchronously, restore_everything, waiting_commits};
use walvault_tests::user::{give_to_server_user, needs_to_administer};
use walvault_tests::wait::wait_for;
use walvault_tests::{ArchiveKind, ArchiveUnderTest, CommitLog, Outcome, Postgres, Scenario, test};

const CLIENTS: usize = 3;

/// A file system of its own, in memory; dropping it unmounts it.
struct Volume {
    path: PathBuf,
}

impl Volume {
    fn mount(path: &Path, size: &str) -> Volume {
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("mode=0700,size={size}"))
            .arg("walvault-test")
            .arg(path);
        let _ = Outcome::of(mount).succeeded();
        let volume = Volume {
            path: path.to_owned(),
        };
        give_to_server_user(path);
        volume
    }

    /// Takes all the room there is at the moment.
    fn fill(&self) {
        let filler = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.filler());
        let mut filler = filler.expect("a file");
        while filler.write_all(&[1; 4096]).is_ok() {}
    }

    /// Gives back what [`Volume::fill`] took.
    fn clear(&self) {
        fs::remove_file(self.filler()).expect("removed");
    }

    fn filler(&self) -> PathBuf {
        self.path.join("somebody-elses")
    }

    fn resize(&self, size: &str) {
        let mut mount = Command::new("mount");
        mount
            .arg("-o")
            .arg(format!("remount,size={size}"))
            .arg(&self.path);
        let _ = Outcome::of(mount).succeeded();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let mut umount = Command::new("umount");
        umount.arg("--lazy").arg(&self.path);
        let _ = Outcome::of(umount);
    }
}

#[test]
fn commits_wait_while_the_disk_is_full_and_go_on_when_there_is_room() {
    needs_to_administer();
    let mut server = Postgres::builder().segment_size(1).start();
    let scenario = Scenario::new(ArchiveKind::Directory);
    let ArchiveUnderTest::Directory(archive) = scenario.archive() else {
        panic!("a directory");
    };
    let volume = Volume::mount(archive, "24m");
    scenario.configure_for(&server);
    let _log = CommitLog::create(&server);
    let daemon = scenario.run_and_back_up(&server);
    commit_synchronously(&server, &[]);
    let clients = Clients::of(&[&server], CLIENTS);
    clients.wait_for_more(30);

    // Random bytes, which no codec makes smaller; nobody waits for them.
    let random = "SET synchronous_commit = local;
        SELECT pg_logical_emit_message(true, '', string_agg(sha512(random()::text::bytea), NULL))
        FROM generate_series(1, 16384)";
    wait_for("the disk to be full", || {
        server.query(random);
        daemon.log().contains("No space left on device")
    });
    // What is written and fails makes room for what is smaller.
    wait_for("all to wait", || {
        volume.fill();
        waiting_commits(&server) == CLIENTS
    });
    daemon.wait_until_saying(&[
        "the archive is away",
        "free space below",
        "or enlarge its volume",
    ]);
    let known = clients.acknowledged().len();
    // Whoever reads meanwhile gets what is there.
    let _ = scenario.walvault(&["list"]).succeeded();
    assert_eq!(clients.acknowledged().len(), known);

    volume.clear();
    volume.resize("200m");
    clients.wait_for_more(30);
    daemon.wait_until_archived(&server);
    server.lose();
    assert!(daemon.stop().success());
    let unfinished: Vec<_> = scenario
        .archive()
        .files("")
        .into_iter()
        .filter(|file| file.to_string_lossy().contains("/.tmp-"))
        .collect();
    assert!(unfinished.is_empty(), "{unfinished:?}");
    let _ = scenario.walvault(&["verify", "--deep"]).succeeded();
    let acknowledged = clients.stop();
    let _ = restore_everything(&scenario, "restored", &acknowledged);
}
