//! The papers in docs/compliance: every block of shell in them is run, in order, against a real server and
//! a real archive, each document in a world that is as bad as it says.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use walvault_tests::user::{give_to_server_user, server_command, write_as_server_user};
use walvault_tests::{ArchiveKind, CommitLog, Outcome, Postgres, Scenario, Walvaultd, cache, test};

/// The documents whose blocks are run, each by the test of its name.
const RUN: [&str; 12] = [
    "procedures.md",
    "key-management.md",
    "failover.md",
    "incident-response.md",
    "training.md",
    "runbooks/node-lost.md",
    "runbooks/site-lost.md",
    "runbooks/key-lost.md",
    "runbooks/wrong-data.md",
    "runbooks/dropped-table.md",
    "runbooks/ransomware.md",
    "runbooks/archive-damaged.md",
];

fn papers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/compliance")
}

/// The blocks of shell in a document, in order.
fn blocks(document: &str) -> Vec<String> {
    let text = fs::read_to_string(papers().join(document)).expect("the document");
    let blocks = text.split("```sh\n").skip(1);
    blocks
        .map(|rest| rest.split("```").next().expect("its end").to_owned())
        .collect()
}

#[test]
fn every_block_of_every_paper_is_run_by_a_test() {
    let mut folders = vec![papers()];
    let mut found = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).expect("read");
            // Only these fences are there, so that no block is missed because of how it is marked.
            let fences = text.lines().filter(|line| line.starts_with("```"));
            assert!(
                fences.clone().all(|line| ["```sh", "```"].contains(&line)),
                "{}",
                path.display()
            );
            if fences.count() > 0 {
                let name = path.strip_prefix(papers()).expect("below");
                found.insert(name.display().to_string());
            }
        }
    }
    let run: BTreeSet<String> = RUN.iter().map(|&name| name.to_owned()).collect();
    assert_eq!(found, run);
    let source = include_str!("compliance.rs");
    for document in RUN {
        assert!(
            source.contains(&format!(".run(\"{document}\"")),
            "{document}"
        );
    }
}

/// A cluster that was archived in two places, of which each test has copies of its own.
struct Archived {
    scenario: Scenario,
    sockets: PathBuf,
    /// A time between two commits, both behind the first backup.
    right: String,
    rows_then: usize,
    rows: usize,
}

/// One for all tests that run at the same time; what they do to archives, they do to copies.
fn archived() -> Arc<Archived> {
    static ARCHIVED: Mutex<Weak<Archived>> = Mutex::new(Weak::new());
    let mut shared = ARCHIVED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(archived) = shared.upgrade() {
        return archived;
    }
    let archived = Arc::new(Archived::create());
    *shared = Arc::downgrade(&archived);
    archived
}

impl Archived {
    fn create() -> Archived {
        let server = Postgres::builder().segment_size(1).start();
        let scenario = Scenario::new(ArchiveKind::Directory);
        let sockets = scenario.path("s");
        fs::create_dir(&sockets).expect("a directory");
        give_to_server_user(&sockets);
        // What is restored has these, and PGPORT for a port.
        for setting in [
            format!("unix_socket_directories = '{}'", sockets.display()),
            "listen_addresses = ''".to_owned(),
            "fsync = off".to_owned(),
            "logging_collector = off".to_owned(),
        ] {
            server.query(&format!("ALTER SYSTEM SET {setting}"));
        }
        let copy = scenario.path("copy");
        fs::create_dir(&copy).expect("a directory");
        give_to_server_user(&copy);
        let made = ["keys", "generate", "--signing", "--out"];
        let _ = scenario.walvault_alone(&made, "signing.key").succeeded();
        let made = ["keys", "generate", "--age", "--out"];
        let made = scenario.walvault_alone(&made, "escrow.txt").succeeded();
        let public = made
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix("public key: "));
        let mut config = scenario.config(&server.url());
        config
            .set_raw(
                "encryption",
                "recipients",
                &format!("[\"{}\"]", public.expect("a key")),
            )
            .set_raw(
                "archive",
                "copy",
                &format!("[{{ url = \"file://{}\" }}]", copy.display()),
            );
        scenario.configure(&config);
        let log = CommitLog::create(&server);
        let daemon = scenario.run_and_back_up(&server);
        let _ = log.commit(&server);
        let right = log.commit(&server);
        let rows_then = log.rows(&server).len();
        server.switch_wal();
        let _ = log.commit(&server);
        let _ = scenario.walvaultd(&["backup"]).succeeded();
        let _ = log.commit(&server);
        daemon.wait_until_archived(&server);
        assert!(daemon.stop().success());
        Archived {
            rows: log.rows(&server).len(),
            right: right.time.to_string(),
            rows_then,
            sockets,
            scenario,
        }
    }
}

/// What one document finds: archives, keys and a configuration of its own.
struct World {
    archived: Arc<Archived>,
    home: tempfile::TempDir,
    port: u16,
    environment: Vec<(&'static str, String)>,
}

impl World {
    /// `port` tells servers of different tests apart, which share a directory of sockets.
    fn new(port: u16) -> World {
        let home = walvault_tests::user::server_dir();
        let archived = archived();
        let Archived {
            scenario,
            sockets,
            right,
            ..
        } = &*archived;
        let mut copy = server_command("cp");
        copy.arg("-a");
        for name in [
            "archive",
            "copy",
            "walvault.key",
            "escrow.txt",
            "signing.key",
            "writer.key",
        ] {
            copy.arg(scenario.path(name));
        }
        let _ = Outcome::of({
            copy.arg(home.path());
            copy
        })
        .succeeded();
        let mut world = World {
            archived: archived.clone(),
            home,
            port,
            environment: Vec::new(),
        };
        world.configure("walvault.toml", "walvault.key");
        let bin = cache::server_bin(cache::DEBIAN_MAJOR);
        let own = scenario.path("walvault");
        let own = own.parent().expect("a directory").display();
        world.set("PATH", format!("{own}:{}:/usr/bin:/bin", bin.display()));
        world.set("PGHOST", sockets.display());
        world.set("PGPORT", port);
        world.set("PGUSER", "postgres");
        world.set("PGDATABASE", "postgres");
        world.set("WALVAULT_CONFIG", world.path("walvault.toml").display());
        world.set(
            "ARCHIVE_URL",
            format!("file://{}", world.path("archive").display()),
        );
        world.set(
            "COPY_URL",
            format!("file://{}", world.path("copy").display()),
        );
        world.set("ARCHIVE_DIR", world.path("archive").display());
        world.set("TICKET", "OPS-1234");
        world.set("RIGHT", right);
        world.set("WRITER", scenario.writer());
        world.set("BEFORE", right);
        world.set("SIDE_PORT", port + 1);
        world.set("CLEAN_PORT", port + 1);
        world.set("OLD_PORT", port + 1);
        world.set("IDENTITY", world.path("escrow.txt").display());
        world.set("ESCROW", world.path("escrow.txt").display());
        for (name, path) in [
            ("PGDATA", "pgdata"),
            ("OLD_PGDATA", "old"),
            ("SCRATCH", "scratch"),
            ("SIDE", "side"),
            ("CLEAN", "clean"),
            ("NEW", "new"),
            ("NEW_KEY", "new.key"),
            ("COLD", "cold"),
            ("REPORT", "report.html"),
            ("BUNDLE", "bundle"),
            ("EVIDENCE", "evidence"),
            ("ASIDE", "aside"),
        ] {
            world.set(name, world.path(path).display());
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn set(&mut self, name: &'static str, value: impl std::fmt::Display) {
        self.environment.retain(|(known, _)| *known != name);
        self.environment.push((name, value.to_string()));
    }

    fn unset(&mut self, name: &'static str) {
        self.environment.retain(|(known, _)| *known != name);
    }

    /// Writes a configuration for its archives and this key file.
    fn configure(&self, name: &str, key: &str) {
        let archive = self.path("archive");
        let copy = self.path("copy");
        let url = format!(
            "postgresql://postgres@/postgres?host={}&port={}",
            self.archived.sockets.display(),
            self.port
        );
        let text = format!(
            "[postgres]\nurl = \"{url}\"\n\
             [archive]\nurl = \"file://{}\"\ncopy = [{{ url = \"file://{}\" }}]\n\
             [encryption]\nkey_file = \"{}\"\n\
             [audit]\nsigning_key_file = \"{}\"\n\
             [trust]\nsigning_key_file = \"{}\"\n\
             [drill]\nescrow_identities = [\"{}\"]\n\
             [admin]\nlisten = \"127.0.0.1:0\"\n",
            archive.display(),
            copy.display(),
            self.path(key).display(),
            self.path("signing.key").display(),
            self.path("writer.key").display(),
            self.path("escrow.txt").display(),
        );
        write_as_server_user(&self.path(name), text);
    }

    /// Runs shell as the server's user does, in this world.
    fn shell(&self, script: &str) -> Outcome {
        // Documents wait for conditions; one that never comes about is a failure.
        let mut command = server_command("timeout");
        command.args(["300", "bash", "-euo", "pipefail", "-c", script]);
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        command.current_dir(self.home.path());
        Outcome::of(command)
    }

    /// Runs every block of a document, as one script.
    fn run(&self, document: &str) -> Outcome {
        let blocks = blocks(document);
        assert!(!blocks.is_empty(), "{document} has no block");
        let mut script = String::new();
        for (number, block) in blocks.iter().enumerate() {
            script += &format!(
                "echo '=== block {} of {document}' >&2\n{block}\n",
                number + 1
            );
        }
        self.shell(&script).succeeded()
    }

    /// A server on what is archived, which runs until this world ends.
    fn serve(&self) {
        let restore = "walvault restore --pgdata \"$PGDATA\"\n\
             pg_ctl start -D \"$PGDATA\" -l \"$PGDATA/startup.log\" -w\n\
             until [ \"$(psql -XAtc 'SELECT pg_is_in_recovery()')\" = f ]; do sleep 0.1; done";
        let _ = self.shell(restore).succeeded();
    }

    /// The sidecar that this configuration describes.
    fn sidecar(&self, config: &str) -> Walvaultd {
        let mut command = server_command(self.archived.scenario.path("walvaultd"));
        command.args(["run", "--config"]).arg(self.path(config));
        Walvaultd::spawn(command, &self.path("walvaultd.log"))
    }

    fn ask(&self, sql: &str) -> String {
        let outcome = self.shell(&format!("psql -XAtc \"{sql}\"")).succeeded();
        outcome.stdout.trim().to_owned()
    }

    fn rows(&self) -> usize {
        self.ask("SELECT count(*) FROM commits")
            .parse()
            .expect("a number")
    }
}

impl Drop for World {
    /// Ends the servers that documents started.
    fn drop(&mut self) {
        let stop = "for data in */postmaster.pid; do\n\
             [ ! -e \"$data\" ] || pg_ctl stop -D \"${data%/*}\" -m immediate -w || true\ndone";
        let _ = self.shell(stop);
    }
}

#[test]
fn a_node_is_lost() {
    let world = World::new(5501);
    let _ = world.run("runbooks/node-lost.md");
    assert_eq!(world.rows(), world.archived.rows);
}

#[test]
fn a_site_is_lost() {
    let world = World::new(5511);
    fs::remove_dir_all(world.path("archive")).expect("lost");
    fs::remove_file(world.path("walvault.key")).expect("lost");
    // The configuration of the other site.
    let config = fs::read_to_string(world.path("walvault.toml")).expect("read");
    let lines = config.lines().filter(|line| !line.starts_with("copy ="));
    let config: String = lines.map(|line| format!("{line}\n")).collect();
    let copy = world.path("copy").display().to_string();
    let config = config
        .replace(&world.path("archive").display().to_string(), &copy)
        .replace(
            &format!("key_file = \"{}\"", world.path("walvault.key").display()),
            &format!(
                "identities = [\"{0}\"]\nrecipients = [\"{1}\"]",
                world.path("escrow.txt").display(),
                public_key(&world.path("escrow.txt")),
            ),
        );
    write_as_server_user(&world.path("walvault.toml"), config);
    let _ = world.run("runbooks/site-lost.md");
    assert_eq!(world.rows(), world.archived.rows);
}

/// The public key of an age identity, as its file says in a comment.
fn public_key(identity: &Path) -> String {
    let text = fs::read_to_string(identity).expect("an identity");
    let key = text
        .lines()
        .find_map(|line| line.split("public key: ").nth(1));
    key.expect("its public key").to_owned()
}

#[test]
fn a_key_is_lost() {
    let world = World::new(5521);
    fs::remove_file(world.path("walvault.key")).expect("lost");
    let config = fs::read_to_string(world.path("walvault.toml")).expect("read");
    // As the document says: the new key file, and the escrow identity until it is done.
    let config = config.replace(
        &format!("key_file = \"{}\"", world.path("walvault.key").display()),
        &format!(
            "key_file = \"{}\"\nidentities = [\"{}\"]",
            world.path("new.key").display(),
            world.path("escrow.txt").display()
        ),
    );
    write_as_server_user(&world.path("walvault.toml"), config);
    let _ = world.run("runbooks/key-lost.md");
    // Without the escrow identity.
    fs::remove_file(world.path("escrow.txt")).expect("put back");
    world.configure("walvault.toml", "new.key");
    let _ = world
        .shell("walvault list && walvault keys verify")
        .succeeded();
}

#[test]
fn data_is_wrong() {
    let world = World::new(5531);
    world.serve();
    let _ = world.ask("UPDATE commits SET payload = 'wrong'");
    let said = world.run("runbooks/wrong-data.md");
    let then = format!("\n{}|", world.archived.rows_then);
    assert!(said.stdout.contains(&then), "{said}");
    let dump = fs::read_to_string(world.path("side.commits.sql")).expect("a dump");
    assert!(!dump.contains("wrong"), "{dump}");
}

#[test]
fn a_table_is_dropped() {
    let world = World::new(5541);
    world.serve();
    let _ = world.ask("DROP TABLE commits");
    let _ = world.run("runbooks/dropped-table.md");
    assert_eq!(world.rows(), world.archived.rows_then);
}

#[test]
fn an_attacker_was_there() {
    let mut world = World::new(5551);
    let head = world.shell("walvault audit verify --json").succeeded();
    let head: serde_json::Value = serde_json::from_str(&head.stdout).expect("JSON");
    let head = &head["chains"][0];
    let text = |name: &str| head[name].to_string().trim_matches('"').to_owned();
    world.set(
        "HEAD",
        format!("{}:{}:{}", text("writer"), text("number"), text("sha256")),
    );
    let said = world.run("runbooks/ransomware.md");
    assert!(said.stdout.contains("sound"), "{said}");
    let listed = world.shell("walvault list").succeeded();
    assert!(listed.stdout.contains("hold"), "{listed}");
}

#[test]
fn the_archive_is_damaged() {
    let world = World::new(5561);
    world.serve();
    let parts = world
        .shell("find archive/backups -name 'part-*' | sort")
        .succeeded();
    let part = parts.stdout.lines().next().expect("a part").to_owned();
    let path = world.path(&part);
    let mut bytes = fs::read(&path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).expect("damaged");
    let said = world.run("runbooks/archive-damaged.md");
    assert!(said.stdout.contains("altered"), "{said}");
    assert_eq!(
        fs::read(&path).ok(),
        fs::read(world.path(&part.replace("archive/", "copy/"))).ok()
    );
    assert!(
        world
            .path("aside")
            .join(part.strip_prefix("archive/").expect("below"))
            .exists()
    );
}

#[test]
fn keys_are_managed() {
    let mut world = World::new(5571);
    world.unset("ESCROW");
    let _ = world.run("key-management.md");
    let listed = world.shell("walvault keys list").succeeded();
    let new = public_key(&world.path("new/escrow.txt"));
    let check = world.shell(&format!("walvault keys retire --check {new}"));
    let _ = check.succeeded();
    assert_eq!(
        listed.stdout.matches("key-file:").count(),
        listed.stdout.lines().count() - 1
    );
}

#[test]
fn the_year_goes_round() {
    let mut world = World::new(5581);
    world.serve();
    let now = jiff::Timestamp::now();
    world.set("FROM", now - std::time::Duration::from_secs(86_400));
    world.set("TO", now);
    let said = world.run("procedures.md");
    for text in [
        "passed",
        "sound",
        "read back",
        "Certificate of deletion",
        "hold",
    ] {
        assert!(said.stdout.contains(text), "no '{text}' in {said}");
    }
    for made in ["cold/README.txt", "report.html", "bundle/MANIFEST.json"] {
        assert!(world.path(made).exists(), "{made}");
    }
}

#[test]
fn an_incident_is_led() {
    let world = World::new(5591);
    let _ = world.run("incident-response.md");
    let sums = world.shell("cd evidence && sha256sum --check --quiet SHA256SUMS");
    let _ = sums.succeeded();
}

#[test]
fn people_are_trained() {
    let world = World::new(5601);
    let said = world.run("training.md");
    assert!(said.stdout.contains("Reached"), "{said}");
}

#[test]
fn the_primary_moves_and_comes_back() {
    let mut world = World::new(5611);
    // The old primary, which archives, and its standby, each with a sidecar.
    let sockets = world.archived.sockets.display().to_string();
    world.set("PGDATA", world.path("old").display());
    world.set("PGPORT", 5612);
    let config = fs::read_to_string(world.path("walvault.toml")).expect("read");
    write_as_server_user(
        &world.path("old.toml"),
        config.replace("port=5611", "port=5612"),
    );
    world.serve();
    let standby = format!(
        "walvault restore --pgdata pgdata --standby --primary-conninfo 'host={sockets} port=5612 user=postgres'\n\
         pg_ctl start -D pgdata -l pgdata/startup.log -w -o '-p 5611'"
    );
    let _ = world.shell(&standby).succeeded();
    let follow = "until [ \"$(psql -XAtp 5611 -c 'SELECT status FROM pg_stat_wal_receiver')\" = streaming ]; do sleep 0.1; done\n\
         psql -XAtc \"INSERT INTO commits DEFAULT VALUES\"\n\
         until [ \"$(psql -XAtp 5611 -c 'SELECT count(*) FROM commits')\" = \"$(psql -XAtc 'SELECT count(*) FROM commits')\" ]; do sleep 0.1; done\n\
         pg_ctl stop -D old -m immediate -w";
    let _ = world.shell(follow).succeeded();
    world.set("PGDATA", world.path("pgdata").display());
    world.set("PGPORT", 5611);
    world.set("PRIMARY", format!("host={sockets} port=5611 user=postgres"));
    let daemon = world.sidecar("walvault.toml");
    let said = world.run("failover.md");
    assert!(daemon.stop().success());
    assert!(said.stdout.contains("t|"), "{said}");
    assert_eq!(world.rows(), world.archived.rows + 1);
}
