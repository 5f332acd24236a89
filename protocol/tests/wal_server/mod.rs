//! A throwaway PostgreSQL for the tests of what it leaves on disk: reached by a Unix socket only,
//! gone with its directory when dropped.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

/// The running server.
pub struct Server {
    directory: TempDir,
    bin: PathBuf,
    as_root: bool,
}

impl Server {
    /// `initdb` with `initdb_options`, then `settings` into postgresql.conf, then start.
    pub fn start(initdb_options: &[&str], settings: &str) -> Server {
        let directory = TempDir::with_prefix("walvault-wal-").expect("a temporary directory");
        let as_root = fs::metadata(directory.path()).expect("its owner").uid() == 0;
        let server = Server {
            directory,
            bin: installed(),
            as_root,
        };
        if as_root {
            let chown = Command::new("chown")
                .arg("postgres")
                .arg(server.path(""))
                .output();
            succeed("chown", chown.expect("chown runs"));
        }
        let data = server.path("data").display().to_string();
        let mut options = vec!["-D", &data, "-U", "postgres", "-A", "trust", "-N"];
        options.extend(initdb_options);
        server.run("initdb", &options);
        server.configure(&format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nfsync = off\n{settings}\n",
            server.path("").display()
        ));
        server.resume();
        server
    }

    /// Adds lines to postgresql.conf.
    pub fn configure(&self, settings: &str) {
        let file = self.path("data/postgresql.conf");
        let before = fs::read_to_string(&file).expect("postgresql.conf");
        fs::write(file, before + settings).expect("postgresql.conf");
    }

    /// Starts it again after [`Server::stop`].
    pub fn resume(&self) {
        let (data, log) = (self.path("data"), self.path("log"));
        let (data, log) = (data.display().to_string(), log.display().to_string());
        self.run(
            "pg_ctl",
            &["-D", &data, "-l", &log, "-w", "-t", "120", "start"],
        );
    }

    /// Stops it in one of `pg_ctl`'s modes.
    pub fn stop(&self, mode: &str) {
        let data = self.path("data").display().to_string();
        self.run("pg_ctl", &["-D", &data, "-m", mode, "-w", "stop"]);
    }

    /// Runs one SQL command after the other; the last one's output, without decoration.
    pub fn sql(&self, commands: &[&str]) -> String {
        let socket = self.path("").display().to_string();
        let mut options = vec![
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            &socket,
        ];
        options.extend(["-U", "postgres"]);
        for command in commands {
            options.extend(["-c", command]);
        }
        let output = self.run("psql", &options);
        output.lines().last().unwrap_or_default().to_owned()
    }

    /// Runs one of PostgreSQL's programs that connects to the server.
    pub fn client(&self, program: &str, options: &[&str]) -> String {
        let socket = self.path("").display().to_string();
        let mut all = vec!["-h", &socket, "-U", "postgres"];
        all.extend(options);
        self.run(program, &all)
    }

    /// Runs one of PostgreSQL's programs to success, as an ordinary user; its output.
    pub fn run(&self, program: &str, options: &[&str]) -> String {
        succeed(
            program,
            self.command(program, options)
                .output()
                .expect("it can be run"),
        )
    }

    /// A path in the server's temporary directory.
    pub fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() {
            return self.directory.path().to_owned();
        }
        self.directory.path().join(name)
    }

    fn command(&self, program: &str, options: &[&str]) -> Command {
        let path = self.bin.join(program);
        let mut command = if self.as_root {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(path);
            command
        } else {
            Command::new(path)
        };
        command
            .args(options)
            .env("TZ", "UTC")
            .env("LC_ALL", "C")
            .current_dir(self.path(""));
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.path("data").display().to_string();
        // It may have been stopped before.
        let _ = self
            .command("pg_ctl", &["-D", &data, "-m", "immediate", "-w", "stop"])
            .output();
    }
}

/// Where Debian's packages put the newest PostgreSQL that is known.
fn installed() -> PathBuf {
    let versions = (13..=18)
        .rev()
        .map(|major| format!("/usr/lib/postgresql/{major}/bin"));
    let mut found = versions
        .map(PathBuf::from)
        .filter(|bin| bin.join("initdb").exists());
    found
        .next()
        .expect("PostgreSQL is installed; on Debian: apt-get install postgresql")
}

fn succeed(program: &str, output: Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success(),
        "{program}: {}\n{stdout}\n{stderr}",
        output.status
    );
    stdout
}
