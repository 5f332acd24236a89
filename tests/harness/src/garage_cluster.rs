//! Three nodes of Garage that hold three copies of everything.

use std::process::Command;

use tempfile::TempDir;

use crate::garage::{Garage, random_hex};
use crate::outcome::Outcome;
use crate::process::Process;
use crate::{cache, wait};

/// How many nodes there are, and copies. An object is written when two have it
/// (Garage's reference manual, `consistency_mode`).
const NODES: usize = 3;

/// A cluster that runs. Dropping it kills it and removes what it stored.
#[derive(Debug)]
pub struct GarageCluster {
    home: TempDir,
    rpc_secret: String,
    access_key: String,
    secret_key: String,
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    api_port: u16,
    rpc_port: u16,
    process: Option<Process>,
}

impl GarageCluster {
    /// Starts a new, empty cluster.
    ///
    /// # Panics
    /// With a node's log, when it does not start.
    #[must_use]
    pub fn start_new() -> GarageCluster {
        let home = tempfile::Builder::new()
            .prefix("wv-")
            .tempdir()
            .expect("a directory");
        let nodes = (0..NODES).map(|_| Node {
            api_port: wait::free_port(),
            rpc_port: wait::free_port(),
            process: None,
        });
        let mut cluster = GarageCluster {
            home,
            rpc_secret: random_hex(64),
            access_key: format!("GK{}", random_hex(24)),
            secret_key: random_hex(64),
            nodes: nodes.collect(),
        };
        for node in 0..NODES {
            cluster.configure(node, &[]);
            cluster.start(node);
        }
        cluster.join();
        cluster
    }

    /// The URL of the S3 API of a node.
    #[must_use]
    pub fn endpoint(&self, node: usize) -> String {
        format!("http://127.0.0.1:{}", self.nodes[node].api_port)
    }

    /// The variables that an AWS SDK takes credentials from.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        vec![
            ("AWS_ACCESS_KEY_ID".to_owned(), self.access_key.clone()),
            ("AWS_SECRET_ACCESS_KEY".to_owned(), self.secret_key.clone()),
        ]
    }

    /// Kills a node. What it acknowledged is kept.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].process = None;
    }

    /// Starts a node that was killed.
    ///
    /// # Panics
    /// With its log, when it does not start.
    pub fn start(&mut self, node: usize) {
        let mut command = self.command(node);
        command.arg("server");
        let log = self.home.path().join(format!("garage-{node}.log"));
        let mut process = Process::spawn("garage", command, &log);
        let started = wait::poll(|| match process.exit_status() {
            Some(_) => Some(false),
            None => {
                let answers = self.cli(node, &["status"]).code == Some(0);
                answers.then_some(true)
            }
        });
        assert!(started == Some(true), "{}", process.log());
        self.nodes[node].process = Some(process);
    }

    /// Waits until every node that runs sees all others that do.
    ///
    /// # Panics
    /// With what they see, when they do not.
    pub fn wait_until_connected(&self) {
        let nodes = self.nodes.iter().enumerate();
        let run = nodes.filter(|(_, node)| node.process.is_some());
        let run: Vec<usize> = run.map(|(number, _)| number).collect();
        let mut seen = String::new();
        let connected = wait::poll(|| {
            let mut connected = true;
            seen.clear();
            for node in &run {
                let status = self.cli(*node, &["status"]).stdout;
                let (healthy, _) = status.split_once("FAILED").unwrap_or((&status, ""));
                connected &= healthy.matches("127.0.0.1:").count() == run.len();
                seen.push_str(&status);
            }
            connected.then_some(())
        });
        assert!(
            connected.is_some(),
            "{run:?} do not see each other:\n{seen}"
        );
    }

    /// Makes one cluster of the nodes, with a bucket and a key for it.
    fn join(&self) {
        let ids: Vec<String> = (0..NODES)
            .map(|node| {
                let said = self.cli(node, &["node", "id", "--quiet"]).succeeded();
                said.stdout.trim().to_owned()
            })
            .collect();
        let run = |arguments: &[&str]| {
            let _ = self.cli(0, arguments).succeeded();
        };
        for id in &ids[1..] {
            run(&["node", "connect", id]);
        }
        // Whom one looks for that was killed, whatever it remembers.
        for node in 0..NODES {
            self.configure(node, &ids);
        }
        self.wait_until_connected();
        for id in &ids {
            let (id, _) = id.split_once('@').expect("an id and an address");
            run(&["layout", "assign", "--zone", "here", "--capacity", "1G", id]);
        }
        run(&["layout", "apply", "--version", "1"]);
        wait::wait_for("the layout", || {
            self.cli(0, &["bucket", "create", Garage::BUCKET]).code == Some(0)
        });
        run(&["key", "import", "--yes", &self.access_key, &self.secret_key]);
        run(&[
            "bucket",
            "allow",
            "--read",
            "--write",
            Garage::BUCKET,
            "--key",
            &self.access_key,
        ]);
    }

    fn configure(&self, node: usize, peers: &[String]) {
        let secret = &self.rpc_secret;
        let dir = self.home.path().display();
        let Node {
            api_port, rpc_port, ..
        } = &self.nodes[node];
        let conf = format!(
            r#"
metadata_dir = "{dir}/meta-{node}"
data_dir = "{dir}/data-{node}"
db_engine = "lmdb"
replication_factor = {NODES}
rpc_bind_addr = "127.0.0.1:{rpc_port}"
rpc_public_addr = "127.0.0.1:{rpc_port}"
rpc_secret = "{secret}"
bootstrap_peers = {peers:?}

[s3_api]
api_bind_addr = "127.0.0.1:{api_port}"
s3_region = "{}"
"#,
            Garage::REGION
        );
        std::fs::write(self.conf(node), conf).expect("a configuration is written");
    }

    fn cli(&self, node: usize, arguments: &[&str]) -> Outcome {
        let mut command = self.command(node);
        command.args(arguments);
        Outcome::of(command)
    }

    fn command(&self, node: usize) -> Command {
        let mut command = Command::new(cache::garage());
        command
            .arg("-c")
            .arg(self.conf(node))
            .env("RUST_LOG", "garage=info");
        command
    }

    fn conf(&self, node: usize) -> std::path::PathBuf {
        self.home.path().join(format!("garage-{node}.toml"))
    }
}
