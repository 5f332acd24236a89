//! Garage, a real S3 server: one node with one bucket and a key that may use it.

use std::process::Command;

use tempfile::TempDir;

use crate::outcome::Outcome;
use crate::process::Process;
use crate::{cache, wait};

/// A node that runs. Dropping it kills it and removes what it stored.
#[derive(Debug)]
pub struct Garage {
    home: TempDir,
    api_port: u16,
    access_key: String,
    secret_key: String,
    process: Option<Process>,
}

impl Garage {
    /// The bucket that [`Garage::environment`]'s key may use.
    pub const BUCKET: &'static str = "archive";
    /// A bucket that it may not use.
    pub const DENIED_BUCKET: &'static str = "somebody-elses";
    /// What the server calls its region.
    pub const REGION: &'static str = "garage";

    /// Starts a new, empty node.
    ///
    /// # Panics
    /// With its log, when it does not start.
    #[must_use]
    pub fn start_new() -> Garage {
        // Another program may take a port between its choice and its use.
        for _ in 0..5 {
            let mut garage = Garage::prepare();
            if garage.try_start().is_ok() {
                let _ = garage
                    .cli(&["bucket", "create", Garage::DENIED_BUCKET])
                    .succeeded();
                return garage;
            }
        }
        panic!("Garage does not start: {:?}", Garage::prepare().try_start());
    }

    /// The URL of its S3 API.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.api_port)
    }

    /// The variables that an AWS SDK takes credentials from.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        vec![
            ("AWS_ACCESS_KEY_ID".to_owned(), self.access_key.clone()),
            ("AWS_SECRET_ACCESS_KEY".to_owned(), self.secret_key.clone()),
        ]
    }

    /// The id and the secret of the key that may use the bucket.
    #[must_use]
    pub fn key(&self) -> (&str, &str) {
        (&self.access_key, &self.secret_key)
    }

    /// Makes one more key, with these rights on the bucket, such as `--write`: its id and secret.
    ///
    /// # Panics
    /// With what Garage said, when it fails.
    #[must_use]
    pub fn create_key(&self, rights: &[&str]) -> (String, String) {
        let (id, secret) = (format!("GK{}", random_hex(24)), random_hex(64));
        let import = ["key", "import", "--yes", &id, &secret];
        let allow = [
            &["bucket", "allow"],
            rights,
            &[Garage::BUCKET, "--key", &id],
        ]
        .concat();
        for arguments in [&import[..], &allow] {
            let _ = self.cli(arguments).succeeded();
        }
        (id, secret)
    }

    /// Its process id.
    ///
    /// # Panics
    /// When it was killed.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("a running server").pid()
    }

    /// Kills it. What it acknowledged is kept.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again, under the same endpoint.
    ///
    /// # Panics
    /// With its log, when it does not start.
    pub fn restart(&mut self) {
        self.kill();
        self.try_start()
            .unwrap_or_else(|log| panic!("Garage does not start:\n{log}"));
    }

    /// Runs one of Garage's own commands against it.
    #[must_use]
    pub fn cli(&self, arguments: &[&str]) -> Outcome {
        let mut command = self.command();
        command.args(arguments);
        Outcome::of(command)
    }

    fn prepare() -> Garage {
        let home = tempfile::Builder::new()
            .prefix("wv-")
            .tempdir()
            .expect("a directory");
        let (api_port, rpc_port) = (wait::free_port(), wait::free_port());
        let dir = home.path().display();
        let conf = format!(
            r#"
metadata_dir = "{dir}/meta"
data_dir = "{dir}/data"
db_engine = "lmdb"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:{rpc_port}"
rpc_public_addr = "127.0.0.1:{rpc_port}"
rpc_secret = "{}"

[s3_api]
api_bind_addr = "127.0.0.1:{api_port}"
s3_region = "{}"
"#,
            random_hex(64),
            Garage::REGION
        );
        std::fs::write(home.path().join("garage.toml"), conf).expect("garage.toml is written");
        Garage {
            home,
            api_port,
            access_key: format!("GK{}", random_hex(24)),
            secret_key: random_hex(64),
            process: None,
        }
    }

    fn try_start(&mut self) -> Result<(), String> {
        let mut command = self.command();
        command
            .args(["server", "--single-node", "--default-bucket"])
            .env("GARAGE_DEFAULT_ACCESS_KEY", &self.access_key)
            .env("GARAGE_DEFAULT_SECRET_KEY", &self.secret_key)
            .env("GARAGE_DEFAULT_BUCKET", Garage::BUCKET);
        let mut process = Process::spawn("garage", command, &self.home.path().join("garage.log"));
        let started = wait::poll(|| match process.exit_status() {
            Some(_) => Some(false),
            None => self.has_bucket().then_some(true),
        });
        if started != Some(true) {
            return Err(process.log());
        }
        self.process = Some(process);
        Ok(())
    }

    /// The bucket comes after the layout, and a node answers before both.
    fn has_bucket(&self) -> bool {
        std::net::TcpStream::connect(("127.0.0.1", self.api_port)).is_ok()
            && self.cli(&["bucket", "info", Garage::BUCKET]).code == Some(0)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(cache::garage());
        command
            .arg("-c")
            .arg(self.home.path().join("garage.toml"))
            .env("RUST_LOG", "garage=info");
        command
    }
}

pub(crate) fn random_hex(digits: usize) -> String {
    (0..digits)
        .map(|_| char::from_digit(rand::random_range(0..16), 16).expect("a digit"))
        .collect()
}
