//! One Garage server: S3 as another implementation than AWS's speaks it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A running server with one bucket, `wal`, and a key that may do everything with it. Stopped
/// when dropped.
pub struct Garage {
    server: Child,
    binary: PathBuf,
    folder: TempDir,
    pub endpoint: String,
    pub key_id: String,
    pub secret: String,
}

/// Where the binary is: `WALVAULT_GARAGE`, else the user's cache. `None` if it is in neither.
pub fn binary() -> Option<PathBuf> {
    let cached = || {
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(home)?;
        Some(cache.join("walvault/garage/bin/garage"))
    };
    let named = std::env::var_os("WALVAULT_GARAGE").map(PathBuf::from);
    named.or_else(cached).filter(|path| path.exists())
}

impl Garage {
    pub fn start() -> Garage {
        let binary = binary().expect(
            "no Garage to test with: set WALVAULT_GARAGE to its binary \
             (https://garagehq.deuxfleurs.fr)",
        );
        let folder = tempfile::tempdir().unwrap();
        let [s3, rpc] = free_ports();
        let config = format!(
            "metadata_dir = {meta:?}\ndata_dir = {data:?}\ndb_engine = \"sqlite\"\n\
             replication_factor = 1\nrpc_bind_addr = \"{rpc}\"\nrpc_public_addr = \"{rpc}\"\n\
             rpc_secret = \"{secret}\"\n[s3_api]\ns3_region = \"garage\"\napi_bind_addr = \"{s3}\"\n",
            meta = folder.path().join("meta"),
            data = folder.path().join("data"),
            secret = "5f".repeat(32),
        );
        let path = folder.path().join("garage.toml");
        std::fs::write(&path, config).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let server = Command::new(&binary)
            .arg("-c")
            .arg(&path)
            .arg("server")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut garage = Garage {
            server,
            binary,
            folder,
            endpoint: format!("http://{s3}"),
            key_id: String::new(),
            secret: String::new(),
        };
        garage.wait("its RPC", |garage| {
            garage.run(&["node", "id", "-q"]).is_ok()
        });
        let node = garage.cli(&["node", "id", "-q"]);
        let node = node.split('@').next().unwrap().trim().to_owned();
        garage.wait("the node", |garage| garage.run(&["status"]).is_ok());
        garage.cli(&["layout", "assign", "-z", "z", "-c", "1G", &node]);
        garage.cli(&["layout", "apply", "--version", "1"]);
        garage.wait("the layout", |garage| {
            garage.run(&["bucket", "list"]).is_ok()
        });
        garage.cli(&["bucket", "create", "wal"]);
        (garage.key_id, garage.secret) = garage.create_key("owner");
        garage.allow("owner", &["--read", "--write"]);
        garage.wait("S3", |_| TcpStream::connect(s3).is_ok());
        garage
    }

    /// Makes a key that may do nothing yet: its id and its secret.
    pub fn create_key(&self, name: &str) -> (String, String) {
        let text = self.cli(&["key", "create", name]);
        let find = |label: &str| {
            let line = text.lines().find(|line| line.trim().starts_with(label));
            let value = line.and_then(|line| line.split(':').nth(1));
            value
                .unwrap_or_else(|| panic!("no '{label}' in {text}"))
                .trim()
                .to_owned()
        };
        (find("Key ID"), find("Secret key"))
    }

    /// Gives a key rights on the bucket.
    pub fn allow(&self, key: &str, rights: &[&str]) {
        self.cli(&[&["bucket", "allow"], rights, &["wal", "--key", key]].concat());
    }

    /// The server's process.
    pub fn pid(&self) -> u32 {
        self.server.id()
    }

    fn cli(&self, arguments: &[&str]) -> String {
        self.run(arguments).unwrap_or_else(|error| {
            panic!("garage {arguments:?}: {error}\n{}", self.log());
        })
    }

    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(&self.binary)
            .arg("-c")
            .arg(self.folder.path().join("garage.toml"))
            .args(arguments)
            .output()
            .unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    fn wait(&mut self, what: &str, ready: impl Fn(&Garage) -> bool) {
        let begun = Instant::now();
        while !ready(self) {
            let ended = self.server.try_wait().unwrap();
            assert!(ended.is_none(), "Garage ended: {}", self.log());
            let waited = begun.elapsed();
            assert!(
                waited < Duration::from_secs(60),
                "no {what}: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn log(&self) -> String {
        read(&self.folder.path().join("log"))
    }
}

impl Drop for Garage {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Ports that were free a moment ago, all different.
fn free_ports<const N: usize>() -> [SocketAddr; N] {
    let listeners = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}
