//! A throwaway PostgreSQL server: its own directory, socket and port; killed by pid when dropped.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use walvault_protocol::client::{ConnInfo, Mode, Session};

/// The superuser's password.
pub const PASSWORD: &str = "p@ss word";

const HBA: &str = "\
local all,replication all scram-sha-256
host all legacy 127.0.0.1/32 md5
host all clear 127.0.0.1/32 password
hostnossl all encrypted_only 127.0.0.1/32 reject
host all,replication all 127.0.0.1/32 scram-sha-256
";

pub struct Server {
    pub port: u16,
    bin: PathBuf,
    child: Option<Child>,
    directory: TempDir,
}

/// The programs of every supported version that is installed, newest first.
pub fn installed() -> Vec<PathBuf> {
    let places = ["/usr/lib/postgresql", "/var/cache/walvault/postgres"];
    let found = (13..=18).rev().filter_map(|major| {
        let mut bins = places
            .iter()
            .map(|place| Path::new(place).join(format!("{major}/bin")));
        bins.find(|bin| bin.join("initdb").exists())
    });
    let found: Vec<PathBuf> = found.collect();
    assert!(
        !found.is_empty(),
        "no PostgreSQL is installed; run tests/tools/setup.sh"
    );
    found
}

impl Server {
    /// Of one of the installed versions, 15 where it is there.
    pub async fn start() -> Server {
        let installed = installed();
        let usual = installed.iter().find(|bin| bin.ends_with("15/bin"));
        Server::start_version(usual.unwrap_or(&installed[0])).await
    }

    pub async fn start_version(bin: &Path) -> Server {
        // Short: a Unix socket's path has at most 107 bytes.
        let directory = tempfile::Builder::new()
            .prefix("wv-")
            .tempdir()
            .expect("a directory");
        let mut server = Server {
            port: 0,
            bin: bin.to_owned(),
            child: None,
            directory,
        };
        if is_root() {
            run(Command::new("chown")
                .arg("postgres")
                .arg(server.directory.path()));
        }
        server.write("password", PASSWORD);
        let data = server.data();
        let password = server.path("password");
        run(server
            .command("initdb")
            .args([
                "--no-sync",
                "--username=postgres",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
            ])
            .arg(format!("--pwfile={}", password.display()))
            .arg(format!("--pgdata={}", data.display())));
        let socket = server.directory.path().display();
        server.configure(&format!(
            "listen_addresses = '127.0.0.1'\nunix_socket_directories = '{socket}'\nfsync = off\n\
             max_wal_senders = 8\nmax_replication_slots = 4\nwal_level = replica\nlc_messages = 'C'\n"
        ));
        server.write("data/pg_hba.conf", HBA);
        server.launch().await;
        server
    }

    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file that belongs to the server and that nobody else can read.
    pub fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::write(&path, content).expect("written");
        self.own(name, "0600");
    }

    pub fn own(&self, name: &str, mode: &str) {
        run(Command::new("chmod").arg(mode).arg(self.path(name)));
        if is_root() {
            run(Command::new("chown").arg("postgres").arg(self.path(name)));
        }
    }

    /// Appends to the configuration.
    pub fn configure(&self, lines: &str) {
        let path = self.data().join("postgresql.conf");
        let before = fs::read_to_string(&path).expect("a configuration");
        self.write("data/postgresql.conf", &format!("{before}\n{lines}"));
    }

    /// Starts it and waits until it takes commands.
    pub async fn launch(&mut self) {
        for _ in 0..5 {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            self.port = listener.local_addr().expect("an address").port();
            drop(listener);
            let log = fs::File::create(self.path("log")).expect("a log");
            let child = self
                .command("postgres")
                .arg("-D")
                .arg(self.data())
                .args(["-p", &self.port.to_string()])
                .stdout(Stdio::null())
                .stderr(log)
                .spawn();
            self.child = Some(child.expect("postgres starts"));
            if self.came_up().await {
                return;
            }
        }
        panic!("the server does not start: {}", self.log());
    }

    /// Whether it takes commands, or stopped: its port may have been taken in the meantime.
    async fn came_up(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let local = self.info(&self.local());
            if let Ok(mut session) = Session::connect(&local, Mode::Regular).await {
                let recovering = session
                    .query("select pg_is_in_recovery()")
                    .await
                    .expect("an answer");
                if recovering.text(0, 0) == Some("f") {
                    return true;
                }
            }
            let child = self.child.as_mut().expect("it was started");
            if child.try_wait().expect("a status").is_some() {
                self.child = None;
                return false;
            }
            assert!(
                Instant::now() < deadline,
                "the server does not come up: {}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends a signal: `INT` for a fast shutdown, `HUP` to read the configuration again.
    pub fn signal(&self, signal: &str) {
        if let Some(child) = &self.child {
            run(Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]));
        }
    }

    /// Shuts it down and waits for its end.
    pub fn stop(&mut self) {
        self.signal("INT");
        if let Some(mut child) = self.child.take() {
            child.wait().expect("it ends");
        }
    }

    /// Waits for its end.
    pub async fn ended(&mut self) {
        if let Some(mut child) = self.child.take() {
            tokio::task::spawn_blocking(move || child.wait())
                .await
                .expect("joined")
                .expect("it ends");
        }
    }

    /// The superuser over the Unix socket.
    pub fn local(&self) -> String {
        let host = self.directory.path().display();
        format!(
            "host={host} port={} user=postgres password='{PASSWORD}' dbname=postgres",
            self.port
        )
    }

    /// The superuser over TCP.
    pub fn tcp(&self) -> String {
        format!(
            "host=localhost hostaddr=127.0.0.1 port={} user=postgres password='{PASSWORD}' dbname=postgres",
            self.port
        )
    }

    /// Reads a connection string, with nothing of this process's environment.
    pub fn info(&self, text: &str) -> ConnInfo {
        ConnInfo::parse(text, &|_| None).expect("a connection string")
    }

    pub async fn sql(&self) -> Session {
        self.connect(&self.local(), Mode::Regular).await
    }

    pub async fn replication(&self) -> Session {
        self.connect(&self.tcp(), Mode::Replication).await
    }

    pub async fn connect(&self, text: &str, mode: Mode) -> Session {
        match Session::connect(&self.info(text), mode).await {
            Ok(session) => session,
            Err(error) => panic!("{error}"),
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// One of its programs, as the user that owns the server.
    pub fn command(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        let mut command = if is_root() {
            // setpriv becomes the program, so that the pid is the server's.
            let mut command = Command::new("setpriv");
            command
                .args([
                    "--reuid=postgres",
                    "--regid=postgres",
                    "--init-groups",
                    "--",
                ])
                .arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir("/").env("LC_ALL", "C");
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = Command::new("kill")
                .args(["-QUIT", &child.id().to_string()])
                .status();
            let _ = child.wait();
        }
    }
}

/// Runs a command that has to succeed.
pub fn run(command: &mut Command) {
    let output = command.output().expect("it runs");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().expect("id runs");
    output.stdout == b"0\n"
}

/// Waits for a condition.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(
            Instant::now() < deadline,
            "it does not come true that {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
