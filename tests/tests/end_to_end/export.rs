//! A copy for offline media: written, broken off and taken up again, checked, and restored from when
//! nothing else is left.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use walvault_tests::commit_log::assert_rows;
use walvault_tests::user::{give_to_server_user, needs_to_administer, server_command};
use walvault_tests::wait::wait_for;
use walvault_tests::{ArchiveKind, CommitLog, Outcome, Postgres, Scenario, cache, test};

/// A server's archive with two backups and WAL behind each, which nobody writes to any more.
struct Archived {
    server: Postgres,
    scenario: Scenario,
    log: CommitLog,
    backups: Vec<String>,
    /// The time of a commit between the backups, and the rows that were there then.
    between: (jiff::Timestamp, Vec<i64>),
}

impl Archived {
    fn create(kind: ArchiveKind) -> Archived {
        let server = Postgres::builder().segment_size(1).start();
        let scenario = Scenario::new(kind);
        let signing = scenario.path("signing.key");
        let made = ["keys", "generate", "--signing", "--out"];
        let _ = scenario.walvault_alone(&made, "signing.key").succeeded();
        let mut config = scenario.config(&server.url());
        config.set("backup", "part_size", "1MiB").set(
            "audit",
            "signing_key_file",
            signing.display(),
        );
        scenario.configure(&config);
        let log = CommitLog::create(&server);
        let daemon = scenario.run_and_back_up(&server);
        let time = log.commit(&server).time;
        let between = (time, log.rows(&server));
        server.switch_wal();
        let _ = log.commit(&server);
        let _ = scenario.walvaultd(&["backup"]).succeeded();
        for _ in 0..2 {
            server.switch_wal();
            let _ = log.commit(&server);
        }
        daemon.wait_until_archived(&server);
        assert!(daemon.stop().success());
        let listed = json(&scenario.walvault(&["list", "--json"]));
        let id = |backup: &Value| backup["id"].as_str().expect("an ID").to_owned();
        let backups = listed["backups"].as_array().expect("a list");
        Archived {
            backups: backups.iter().map(id).collect(),
            server,
            scenario,
            log,
            between,
        }
    }

    fn export(&self, to: &str, arguments: &[&str]) -> Outcome {
        let to = self.scenario.path(to);
        let to = to.to_str().expect("UTF-8");
        let arguments = [&["export", "--to", to], arguments].concat();
        self.scenario.walvault(&arguments)
    }

    /// The command line of walvault on a machine that has the key file and no configuration.
    fn offline(&self, arguments: &[&str], archive: &Path) -> Command {
        let mut command = server_command(self.scenario.path("walvault"));
        command
            .args(arguments)
            .args(["--archive", &format!("file://{}", archive.display())])
            .arg("--identity")
            .arg(self.scenario.path("walvault.key"));
        command
    }

    /// Restores there, and the rows that are found.
    fn rows_of(&self, archive: &Path, name: &str, target: &[&str]) -> Vec<i64> {
        let pgdata = self.scenario.path(name);
        let mut arguments = vec!["restore", "--pgdata", pgdata.to_str().expect("UTF-8")];
        arguments.extend(target);
        let _ = Outcome::of(self.offline(&arguments, archive)).succeeded();
        let server = Postgres::start_on(cache::DEBIAN_MAJOR, &pgdata, Vec::new());
        let server = server.unwrap_or_else(|error| panic!("{error}"));
        server.wait_until_recovered();
        self.log.rows(&server)
    }
}

fn json(outcome: &Outcome) -> Value {
    assert_eq!(outcome.code, Some(0), "{outcome}");
    serde_json::from_str(&outcome.stdout).expect("JSON")
}

fn sha256sum(dir: &Path, list: &str) -> Outcome {
    let mut command = Command::new("sha256sum");
    command
        .args(["--check", "--quiet", "--strict", list])
        .current_dir(dir);
    Outcome::of(command)
}

/// Every file below a directory, relative to it, in order.
fn files(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => found.push(path.strip_prefix(root).expect("below").to_owned()),
            }
        }
    }
    found.sort();
    found
}

fn flip(file: &Path) {
    let mut bytes = fs::read(file).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).expect("written");
}

fn read_only(root: &Path) {
    for path in files(root) {
        let path = root.join(path);
        fs::set_permissions(path, fs::Permissions::from_mode(0o444)).expect("chmod");
    }
}

#[test]
fn a_copy_of_s3_restores_when_the_source_is_gone() {
    let mut archived = Archived::create(ArchiveKind::Garage);
    let (time, before) = archived.between.clone();
    let rows = archived.log.rows(&archived.server);
    let told = json(&archived.export("cold", &["--all", "--open", "--json", "--reason", "yearly"]));
    assert_eq!(told["export"]["backups"].as_array().map(Vec::len), Some(2));
    assert!(told["opened"].as_u64() > Some(10), "{told:#}");
    let events = archived
        .scenario
        .walvault(&["audit", "list", "--action", "export", "--json"]);
    let events = json(&events);
    assert_eq!(events[1]["outcome"], "succeeded", "{events:#}");
    assert_eq!(events[1]["reason"], "yearly");
    let sums = &told["volumes"][0]["sha256sums"];
    assert_eq!(events[1]["details"]["volumes"][0]["sha256sums"], *sums);

    // Everything is lost but the medium, which is read-only, and the key file.
    archived.server.lose();
    archived.scenario.archive_mut().garage().kill();
    fs::remove_file(archived.scenario.path("walvault.toml")).expect("removed");
    let cold = archived.scenario.path("cold");
    read_only(&cold);
    let _ = sha256sum(&cold, "SHA256SUMS").succeeded();
    let listed = fs::read_to_string(cold.join("SHA256SUMS")).expect("the list");
    let beside = 2; // Itself and its signature.
    assert_eq!(listed.lines().count() + beside, files(&cold).len());
    let inside = files(&cold);
    let verified = Outcome::of(archived.offline(&["verify", "--deep", "--json"], &cold));
    assert_eq!(json(&verified)["findings"], serde_json::json!([]));
    let target = [
        "--target-time",
        &time.to_string(),
        "--target-action",
        "promote",
    ];
    assert_eq!(archived.rows_of(&cold, "then", &target), before);
    assert_rows(&archived.rows_of(&cold, "latest", &[]), &rows, &"offline");
    assert_eq!(files(&cold), inside, "reading it writes nothing to it");

    // Who signed it is known by openssl, from the key in the readme.
    let readme = fs::read_to_string(cold.join("README.txt")).expect("the readme");
    let begin = readme.find("-----BEGIN").expect("a public key");
    fs::write(archived.scenario.path("signer.pem"), &readme[begin..]).expect("written");
    let verify = |sums: &Path| {
        let mut openssl = Command::new("openssl");
        openssl
            .args(["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey"])
            .arg(archived.scenario.path("signer.pem"))
            .arg("-in")
            .arg(sums)
            .arg("-sigfile")
            .arg(cold.join("SHA256SUMS.sig"));
        Outcome::of(openssl)
    };
    assert!(verify(&cold.join("SHA256SUMS")).stdout.contains("Success"));
    let forged = archived.scenario.path("forged");
    fs::write(&forged, listed.replacen('0', "1", 1)).expect("written");
    assert_ne!(verify(&forged).code, Some(0));
}

#[test]
fn by_hand_without_walvault() {
    let archived = Archived::create(ArchiveKind::Directory);
    let rows = archived.log.rows(&archived.server);
    let _ = archived.export("cold", &[]).succeeded();
    fs::remove_dir_all(archived.scenario.path("archive")).expect("removed");
    let (cold, key) = (
        archived.scenario.path("cold"),
        archived.scenario.path("walvault.key"),
    );
    let opener = |arguments: &[&Path]| {
        let mut command = Command::new(cache::python());
        command
            .arg("-B")
            .arg(cold.join("by-hand/opener.py"))
            .args(arguments);
        Outcome::of(command).succeeded().stdout
    };
    let [opened, pgdata, wal] =
        ["opened", "pgdata", "wal"].map(|name| archived.scenario.path(name));
    let [open, assemble, flag] = ["open", "assemble", "--key-file"].map(Path::new);
    let _ = opener(&[open, &cold, &opened, flag, &key]);
    let newest = Path::new(archived.backups.last().expect("a backup"));
    let said = opener(&[assemble, &opened, newest, &pgdata, &wal]);
    let settings = said.split("\n\n").nth(1).expect("the settings");
    let conf = pgdata.join("postgresql.auto.conf");
    let before = fs::read_to_string(&conf).expect("read");
    fs::write(&conf, format!("{before}\n{settings}\n")).expect("written");
    for root in [&pgdata, &wal] {
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            give_to_server_user(&folder);
            if folder.is_dir() {
                let inner = fs::read_dir(&folder).expect("a directory").flatten();
                folders.extend(inner.map(|entry| entry.path()));
            }
        }
    }
    let server = Postgres::start_on(cache::DEBIAN_MAJOR, &pgdata, Vec::new());
    let server = server.unwrap_or_else(|error| panic!("{error}"));
    server.wait_until_recovered();
    assert_rows(&archived.log.rows(&server), &rows, &server.log());
}

#[test]
fn what_is_chosen_is_enough_and_no_more() {
    let archived = Archived::create(ArchiveKind::Directory);
    let (time, before) = archived.between.clone();
    let [first, second] = [0, 1].map(|n| archived.backups[n].as_str());
    // The newest alone.
    let told = json(&archived.export("latest", &["--json"]));
    assert_eq!(told["export"]["backups"][0]["id"], second);
    let cold = archived.scenario.path("latest");
    let has = |path: &Path| path.to_string_lossy().contains(first);
    assert!(!files(&cold).iter().any(|path| has(path)));
    // The first alone, up to an instant.
    let until = time.to_string();
    let told = json(&archived.export("until", &["--backup", first, "--until", &until, "--json"]));
    let short = archived.scenario.path("until");
    let wal = |root: &Path| files(&root.join("wal")).len();
    assert!(
        wal(&short) < wal(&archived.scenario.path("archive")),
        "{told:#}"
    );
    let target = ["--target-time", &until, "--target-action", "promote"];
    assert_eq!(archived.rows_of(&short, "then", &target), before);
    let verified = Outcome::of(archived.offline(&["verify", "--deep"], &short));
    let _ = verified.succeeded();

    // What cannot be restored is refused before anything is written.
    archived
        .export("no", &["--backup", "20200101T000000Z-0000"])
        .failed_saying(&["holds no backup 20200101T000000Z-0000", first]);
    archived
        .export("no", &["--backup", second, "--until", &until])
        .failed_saying(&["before the first backup"]);
    archived
        .export("no", &["--until", "2099-01-01 00:00:00Z"])
        .failed_saying(&["last transaction of"]);
    assert!(files(&archived.scenario.path("no")).is_empty());
    // Nor goes it where something else is.
    archived
        .export("latest", &[])
        .failed_saying(&["finished export"]);
    fs::create_dir(archived.scenario.path("other")).expect("a directory");
    fs::write(archived.scenario.path("other/thesis.txt"), "mine").expect("written");
    archived
        .export("other", &[])
        .failed_saying(&["something else", "thesis.txt"]);
    archived
        .export("volumes", &["--volume-size", "100kB"])
        .failed_saying(&["too small", "Nothing was written"]);

    // A hole that nobody chose is told; one that is on the way is refused, with what can be had.
    let segments = archived.scenario.archive().files("wal/");
    let hole = segments.last().expect("a segment");
    fs::remove_file(hole).expect("removed");
    let rows = archived.log.rows(&archived.server);
    let told = json(&archived.export("gap", &["--json"]));
    assert!(
        told["export"]["notes"][0]
            .as_str()
            .expect("a note")
            .contains("lacks WAL")
    );
    assert!(
        archived
            .rows_of(&archived.scenario.path("gap"), "gap-data", &[])
            .len()
            < rows.len()
    );
    // A damaged object is named, and nothing is claimed.
    let part = format!("backups/{second}/part-00000001");
    flip(&archived.scenario.path("archive").join(&part));
    let refused = archived.export("damaged", &[]);
    refused.failed_saying(&[&part, "no complete copy"]);
    assert_eq!(refused.code, Some(4), "{refused}");
    assert!(!archived.scenario.path("damaged/SHA256SUMS").exists());
    // Mended, it goes on.
    flip(&archived.scenario.path("archive").join(&part));
    archived
        .export("damaged", &["--all"])
        .failed_saying(&["was begun as '--latest'"]);
    let told = json(&archived.export("damaged", &["--json"]));
    assert!(told["present"].as_u64() > Some(3), "{told:#}");
    let _ = sha256sum(&archived.scenario.path("damaged"), "SHA256SUMS").succeeded();
}

#[test]
fn volumes_are_taken_away_broken_off_and_put_together_again() {
    let archived = Archived::create(ArchiveKind::Directory);
    let rows = archived.log.rows(&archived.server);
    let whole = json(&archived.export("whole", &["--all", "--json"]));
    assert_eq!(whole["volumes"].as_array().map(Vec::len), Some(1));
    // Killed in the middle, over and over.
    let sized = ["--all", "--volume-size", "2500kB"];
    let to = archived.scenario.path("cold");
    let line = ["export", "--to", to.to_str().expect("UTF-8")];
    let line = [line.as_slice(), &sized].concat();
    let mut killed = 0;
    for goal in [3, 9, 12] {
        let mut child = archived
            .scenario
            .command("walvault", &line)
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("it starts");
        wait_for("some files", || {
            files(&to).len() >= goal || child.try_wait().expect("asked").is_some()
        });
        killed += u32::from(child.try_wait().expect("asked").is_none());
        child.kill().expect("killed");
        let _ = child.wait().expect("its end");
        // What was finished is put away, one at a time.
        let volume = to.join("volume-001");
        if volume.join("SHA256SUMS.001").exists() && to.join("export.unfinished.json").exists() {
            let away = archived.scenario.path("away");
            let state = fs::read_to_string(to.join("export.unfinished.json")).expect("read");
            let state: Value = serde_json::from_str(&state).expect("JSON");
            if state["done"].get("0").is_some() && !away.exists() {
                fs::rename(&volume, &away).expect("taken away");
            }
        }
    }
    assert!(killed > 0);
    // What was written meanwhile is not trusted: of two files one is cut and one is altered.
    let there: Vec<PathBuf> = files(&to)
        .into_iter()
        .filter(|path| path.components().any(|part| part.as_os_str() == "wal"))
        .collect();
    if let Some(altered) = there.last() {
        flip(&to.join(altered));
    }
    if let Some(cut) = there.first().filter(|_| there.len() > 1) {
        let bytes = fs::read(to.join(cut)).expect("read");
        fs::write(to.join(cut), &bytes[..bytes.len() / 2]).expect("cut");
    }
    let told = match to.join("export.unfinished.json").exists() {
        true => json(&archived.export("cold", &[&sized[..], &["--json"]].concat())),
        false => panic!("it was finished before it could be killed"),
    };
    let volumes = told["volumes"].as_array().expect("a list").len();
    assert!(volumes >= 3, "{told:#}");
    assert!(!to.join("export.unfinished.json").exists());

    // Each is within its size, whole by itself, and says which it is.
    let away = archived.scenario.path("away");
    let mut merged = Command::new("cp");
    merged.arg("-r");
    for number in 1..=volumes {
        let mut dir = to.join(format!("volume-{number:03}"));
        if !dir.exists() {
            assert_eq!(number, 1);
            dir.clone_from(&away);
        }
        let size: u64 = files(&dir)
            .iter()
            .map(|file| fs::metadata(dir.join(file)).expect("a file").len())
            .sum();
        assert!(size <= 2_500_000, "{} has {size}", dir.display());
        // As it says itself.
        let readme = fs::read_to_string(dir.join("README.txt")).expect("the readme");
        let command = readme
            .lines()
            .find(|line| line.contains("sha256sum --check"));
        let mut check = Command::new("sh");
        check
            .args(["-c", command.expect("a command")])
            .current_dir(&dir);
        let checked = Outcome::of(check).succeeded();
        assert_eq!((&*checked.stdout, &*checked.stderr), ("", ""));
        assert!(dir.join(format!("SHA256SUMS.{number:03}")).exists());
        let record = fs::read_to_string(dir.join(format!("EXPORT.{number:03}.json")));
        let record: Value = serde_json::from_str(&record.expect("read")).expect("JSON");
        assert_eq!(
            [&record["volume"], &record["volumes"]],
            [&Value::from(number), &Value::from(volumes)]
        );
        merged.arg(dir.join("."));
    }
    // Together they are what one copy is, byte by byte.
    let all = archived.scenario.path("all");
    fs::create_dir(&all).expect("a directory");
    give_to_server_user(&all);
    let _ = Outcome::of({
        merged.arg(&all);
        merged
    })
    .succeeded();
    let one = archived.scenario.path("whole");
    for file in files(&one) {
        let name = file.to_string_lossy().into_owned();
        let own = ["SHA256SUMS", "EXPORT", "README", "audit/"];
        if !own.iter().any(|own| name.starts_with(own)) {
            let [ours, theirs] = [&one, &all].map(|root| fs::read(root.join(&file)).expect("read"));
            assert!(ours == theirs, "{name}");
        }
    }
    assert_rows(
        &archived.rows_of(&all, "restored", &[]),
        &rows,
        &"from volumes",
    );

    // A flipped bit is found by either, and the object is named.
    let part = files(&all)
        .into_iter()
        .find(|path| path.to_string_lossy().contains("/part-"))
        .expect("a part");
    flip(&all.join(&part));
    let name = part.to_string_lossy();
    let found: String = (1..=volumes)
        .map(|number| sha256sum(&all, &format!("SHA256SUMS.{number:03}")))
        .map(|outcome| outcome.stdout)
        .collect();
    assert!(found.contains(&*name), "{found}");
    let verified = Outcome::of(archived.offline(&["verify"], &all));
    assert_eq!(verified.code, Some(1), "{verified}");
    assert!(verified.stdout.contains(&*name), "{verified}");
}

#[test]
fn no_identity_is_needed_to_copy_everything() {
    let archived = Archived::create(ArchiveKind::Directory);
    let rows = archived.log.rows(&archived.server);
    let made = ["keys", "generate", "--age", "--out"];
    let made = archived.scenario.walvault_alone(&made, "other.txt");
    let _ = made.succeeded();
    let mut config = archived.scenario.config("postgresql:///");
    let identity = archived.scenario.path("other.txt");
    config.unset("encryption", "key_file").set_raw(
        "encryption",
        "identities",
        &format!("[\"{}\"]", identity.display()),
    );
    archived.scenario.configure(&config);
    archived
        .export("cold", &[])
        .failed_saying(&["--all", "--identity"]);
    let told = json(&archived.export("cold", &["--all", "--json"]));
    assert_eq!(told["export"]["backups"], Value::Null);
    let cold = archived.scenario.path("cold");
    assert_rows(
        &archived.rows_of(&cold, "restored", &[]),
        &rows,
        &"copied blindly",
    );
    let readme = fs::read_to_string(cold.join("README.txt")).expect("the readme");
    assert!(readme.contains("key-file:"), "{readme}");
}

/// A medium mounted at a volume's directory, until this is dropped.
struct Medium<'a>(&'a Path);

impl<'a> Medium<'a> {
    fn mount(at: &'a Path, options: &str) -> Medium<'a> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "none"]).arg(at);
        let _ = Outcome::of(mount).succeeded();
        give_to_server_user(at);
        Medium(at)
    }
}

impl Drop for Medium<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).output();
    }
}

/// Only root mounts anything.
#[test]
fn a_medium_that_is_full_is_changed() {
    needs_to_administer();
    let archived = Archived::create(ArchiveKind::Directory);
    let volume = archived.scenario.path("cold/volume-001");
    fs::create_dir_all(&volume).expect("a directory");
    give_to_server_user(&archived.scenario.path("cold"));
    let sized = ["--volume-size", "64MiB"];
    // Looked at beforehand.
    let medium = Medium::mount(&volume, "size=1m");
    archived
        .export("cold", &sized)
        .failed_saying(&["are free there", "mount another medium"]);
    assert!(files(&archived.scenario.path("cold")).is_empty());
    drop(medium);
    // Room for bytes and not for files, which nobody sees beforehand.
    let medium = Medium::mount(&volume, "size=128m,nr_inodes=14");
    archived
        .export("cold", &sized)
        .failed_saying(&["the medium is full", "same command"]);
    assert!(!volume.join("SHA256SUMS.001").exists());
    drop(medium);
    let medium = Medium::mount(&volume, "size=128m");
    let told = json(&archived.export("cold", &[&sized[..], &["--json"]].concat()));
    assert_eq!(told["present"], 0, "{told:#}");
    let _ = sha256sum(&volume, "SHA256SUMS.001").succeeded();
    let rows = archived.log.rows(&archived.server);
    assert_rows(
        &archived.rows_of(&volume, "restored", &[]),
        &rows,
        &"a volume",
    );
    drop(medium);
}
