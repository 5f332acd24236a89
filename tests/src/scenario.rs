//! One test's archive, key file, configuration and programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::archive::{ArchiveKind, ArchiveUnderTest};
use crate::cache::own_program;
use crate::config_file::ConfigFile;
use crate::http;
use crate::outcome::Outcome;
use crate::postgres::Postgres;
use crate::user::{give_to_server_user, server_command_with, server_dir, write_as_server_user};
use crate::walvaultd::Walvaultd;

/// The key that every configuration of a scenario signs data keys with, besides its key files.
const WRITER_KEY: &str = "writer.key";

/// A directory with everything walvault needs to be run, as the server's user.
#[derive(Debug)]
pub struct Scenario {
    home: TempDir,
    archive: ArchiveUnderTest,
    environment: Vec<(String, String)>,
    writer: String,
}

impl Scenario {
    /// A new archive and a new key file.
    ///
    /// # Panics
    /// With what failed.
    #[must_use]
    pub fn new(kind: ArchiveKind) -> Scenario {
        let home = server_dir();
        for program in ["walvault", "walvaultd"] {
            make_reachable(&own_program(program), &home.path().join(program));
        }
        let archive = ArchiveUnderTest::new(kind, home.path());
        let scenario = Scenario {
            home,
            archive,
            environment: Vec::new(),
            writer: String::new(),
        };
        let _ = scenario.generate_key("walvault.key");
        let signing = ["keys", "generate", "--signing", "--out"];
        let made = scenario.walvault_alone(&signing, WRITER_KEY).succeeded();
        let mut lines = made.stdout.lines();
        let public = lines.find_map(|line| line.strip_prefix("public key: "));
        Scenario {
            writer: public.expect("a public key").to_owned(),
            ..scenario
        }
    }

    /// The public key that its configurations sign data keys with.
    #[must_use]
    pub fn writer(&self) -> &str {
        &self.writer
    }

    /// A path under the scenario's directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Its archive.
    #[must_use]
    pub fn archive(&self) -> &ArchiveUnderTest {
        &self.archive
    }

    /// Its archive, to kill or restart the server of.
    pub fn archive_mut(&mut self) -> &mut ArchiveUnderTest {
        &mut self.archive
    }

    /// Variables that its programs find in their environment besides the archive's.
    pub fn set_environment(&mut self, environment: Vec<(String, String)>) {
        self.environment = environment;
    }

    /// Makes one more key file.
    ///
    /// # Panics
    /// With what failed.
    #[must_use]
    pub fn generate_key(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let _ = self.try_generate_key(name).succeeded();
        path
    }

    /// As [`Scenario::generate_key`], when it is expected to fail.
    #[must_use]
    pub fn try_generate_key(&self, name: &str) -> Outcome {
        self.walvault_alone(&["keys", "generate", "--out"], name)
    }

    /// Runs `walvault` without a configuration, the last argument being a file of the scenario's.
    #[must_use]
    pub fn walvault_alone(&self, arguments: &[&str], file: &str) -> Outcome {
        let mut command = self.program("walvault");
        command.args(arguments).arg(self.path(file));
        Outcome::of(command)
    }

    /// A configuration for this archive and the server at `url`, to be changed as a test likes.
    #[must_use]
    pub fn config(&self, url: &str) -> ConfigFile {
        let mut config = ConfigFile::default();
        config
            .set("postgres", "url", url)
            .set(
                "encryption",
                "key_file",
                self.path("walvault.key").display(),
            )
            // Whoever has no key file signs with it, and whoever has no key file either knows it by that.
            .set("trust", "signing_key_file", self.path(WRITER_KEY).display())
            // Many run at once: each takes a port that is free.
            .set("admin", "listen", "127.0.0.1:0")
            .set("log", "level", "debug");
        self.archive.configure(&mut config);
        config
    }

    /// Writes the configuration that [`Scenario::walvault`] and its kin use.
    pub fn configure(&self, config: &ConfigFile) {
        write_as_server_user(&self.config_path(), config.to_string());
    }

    /// Writes [`Scenario::config`] for a server.
    pub fn configure_for(&self, server: &Postgres) {
        self.configure(&self.config(&server.url()));
    }

    /// Runs `walvault COMMAND … --config FILE` to its end.
    #[must_use]
    pub fn walvault(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.command("walvault", arguments))
    }

    /// Runs `walvaultd COMMAND … --config FILE` to its end.
    #[must_use]
    pub fn walvaultd(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.command("walvaultd", arguments))
    }

    /// Starts `walvaultd run --config FILE`.
    #[must_use]
    pub fn run(&self) -> Walvaultd {
        self.run_with(&[])
    }

    /// As [`Scenario::run`], with more options.
    #[must_use]
    pub fn run_with(&self, options: &[&str]) -> Walvaultd {
        Walvaultd::spawn(
            self.command("walvaultd", &[&["run"][..], options].concat()),
            &self.path("walvaultd.log"),
        )
    }

    /// Runs `walvaultd run --config FILE`, which is expected to end of itself, and returns how it
    /// ended; what it said stands as on standard error.
    ///
    /// # Panics
    /// With its log, when it does not end.
    #[must_use]
    pub fn run_to_its_end(&self) -> Outcome {
        // What an earlier one said is not this one's.
        let _ = fs::remove_file(self.path("walvaultd.log"));
        let mut daemon = self.run();
        let status = daemon.wait_for_exit();
        Outcome {
            command: "walvaultd run".to_owned(),
            code: status.code(),
            stdout: String::new(),
            stderr: daemon.log(),
        }
    }

    /// Runs `walvaultd run`, which is expected to find a conflict between server and archive: waits
    /// until it says each of `texts`, also as the reason for which it is not ready, and requires that
    /// it stays and ends well when it is told to. What it said.
    ///
    /// # Panics
    /// With its log, when it does anything else.
    #[must_use]
    pub fn run_into_conflict(&self, texts: &[&str]) -> String {
        // What an earlier one said is not this one's.
        let _ = fs::remove_file(self.path("walvaultd.log"));
        let daemon = self.run();
        daemon.wait_until_saying(&["nothing is archived until somebody settles it"]);
        daemon.wait_until_saying(texts);
        let admin = daemon.admin();
        let ready = http::get(admin, "/readyz");
        assert_eq!(ready.status, 503, "{}", ready.body);
        let reason = ready.json().to_string().to_lowercase();
        for text in texts {
            let known = serde_json::Value::from(text.to_lowercase()).to_string();
            assert!(reason.contains(known.trim_matches('"')), "{reason}");
        }
        // Nobody is to start it again for that.
        assert_eq!(http::get(admin, "/livez").status, 200);
        assert_eq!(http::get(admin, "/startupz").status, 200);
        let metrics = http::get(admin, "/metrics").body;
        assert!(metrics.contains("\nwalvault_conflict 1\n"), "{metrics}");
        let log = daemon.log();
        assert!(daemon.stop().success(), "{log}");
        log
    }

    /// Runs `walvaultd run`, waits until it streams, and takes a base backup.
    ///
    /// # Panics
    /// With what failed.
    #[must_use]
    pub fn run_and_back_up(&self, server: &Postgres) -> Walvaultd {
        let daemon = self.run();
        daemon.wait_until_streaming(server);
        let _ = self.walvaultd(&["backup"]).succeeded();
        daemon
    }

    /// Runs `walvault restore` into a new directory of this name, promoting at the target, and
    /// returns the directory.
    ///
    /// # Panics
    /// With what failed.
    #[must_use]
    pub fn restore(&self, name: &str, target: &[&str]) -> PathBuf {
        let _ = self.try_restore(name, target).succeeded();
        self.path(name)
    }

    /// As [`Scenario::restore`], for restores that are expected to fail.
    #[must_use]
    pub fn try_restore(&self, name: &str, target: &[&str]) -> Outcome {
        let pgdata = self.path(name);
        let pgdata = pgdata.to_str().expect("a path in UTF-8");
        let mut arguments = vec!["restore", "--pgdata", pgdata];
        arguments.extend(target);
        if !target.is_empty() && !target.contains(&"--target-action") {
            arguments.extend(["--target-action", "promote"]);
        }
        self.walvault(&arguments)
    }

    /// Restores, starts a server on the result, and waits until it has recovered.
    ///
    /// # Panics
    /// With what failed.
    #[must_use]
    pub fn restore_and_start(&self, major: u32, name: &str, target: &[&str]) -> Postgres {
        let pgdata = self.restore(name, target);
        let server = self.start_restored(major, &pgdata);
        server.wait_until_recovered();
        server
    }

    /// Starts a server on a restored directory, with what `restore_command` needs.
    ///
    /// # Panics
    /// With its log, when it does not start.
    #[must_use]
    pub fn start_restored(&self, major: u32, pgdata: &Path) -> Postgres {
        let mut environment = self.archive.environment();
        environment.extend(self.environment.iter().cloned());
        Postgres::start_on(major, pgdata, environment).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A command line of one of the programs, complete with its configuration.
    #[must_use]
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = self.program(program);
        command
            .args(arguments)
            .arg("--config")
            .arg(self.config_path());
        command
    }

    fn program(&self, name: &str) -> Command {
        let mut environment = self.archive.environment();
        environment.extend(self.environment.iter().cloned());
        server_command_with(self.path(name), &environment)
    }

    fn config_path(&self) -> PathBuf {
        self.path("walvault.toml")
    }
}

/// Where the programs were built need not be where the server's user can reach them.
fn make_reachable(program: &Path, reachable: &Path) {
    if fs::hard_link(program, reachable).is_err() {
        fs::copy(program, reachable).expect("a copy of the program");
        give_to_server_user(reachable);
    }
}
