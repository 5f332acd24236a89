//! Sessions of the client with a server of the harness.

use std::fs::{Permissions, set_permissions};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use walvault_harness::Postgres;
use walvault_harness::cache::DEBIAN_MAJOR;
use walvault_harness::user::{give_to_server_user, write_as_server_user};
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

/// A server that asks for passwords, each role in its own way.
pub struct Server(Postgres);

impl Deref for Server {
    type Target = Postgres;

    fn deref(&self) -> &Postgres {
        &self.0
    }
}

impl DerefMut for Server {
    fn deref_mut(&mut self) -> &mut Postgres {
        &mut self.0
    }
}

impl Server {
    pub async fn start() -> Server {
        Server::of(DEBIAN_MAJOR).await
    }

    /// Of a major version.
    pub async fn of(major: u32) -> Server {
        let server = Postgres::builder().major(major).password(PASSWORD).tcp();
        let server = server.hba(HBA).setting("lc_messages", "C").start();
        Server(server)
    }

    /// Starts it again and waits until it takes commands that write.
    pub async fn launch(&mut self) {
        self.0.start();
        self.wait_until_recovered();
    }

    /// Writes a file that belongs to the server and that nobody else can read.
    pub fn write(&self, name: &str, content: &str) {
        write_as_server_user(&self.path(name), content);
        self.own(name, 0o600);
    }

    /// Gives a file to the server's user, with this mode.
    pub fn own(&self, name: &str, mode: u32) {
        let path = self.path(name);
        set_permissions(&path, Permissions::from_mode(mode)).expect("a mode");
        give_to_server_user(&path);
    }

    /// The superuser over the Unix socket.
    pub fn local(&self) -> String {
        format!(
            "host={} port={} user=postgres password='{PASSWORD}' dbname=postgres",
            self.host(),
            self.port()
        )
    }

    /// The superuser over TCP.
    pub fn tcp(&self) -> String {
        format!(
            "host=localhost hostaddr=127.0.0.1 port={} user=postgres password='{PASSWORD}' dbname=postgres",
            self.port()
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
