//! moto, a server of AWS's interfaces: S3 with versions, Object Lock and conditional PUT, KMS, STS,
//! and IAM whose policies it enforces when asked to. What it holds is in its memory.

use std::process::Command;

use tempfile::TempDir;

use crate::outcome::Outcome;
use crate::process::Process;
use crate::{cache, wait};

/// A server that runs, with one bucket. Dropping it kills it, and with it what it held.
#[derive(Debug)]
pub struct Moto {
    process: Process,
    port: u16,
    _home: TempDir,
}

impl Moto {
    /// The bucket that is there from the beginning, without versions and without Object Lock.
    pub const BUCKET: &'static str = "archive";
    /// The only region that is spoken of.
    pub const REGION: &'static str = "us-east-1";
    /// The account that everything belongs to.
    pub const ACCOUNT: &'static str = "123456789012";

    /// Starts a new server.
    ///
    /// # Panics
    /// With its log, when it does not start.
    #[must_use]
    pub fn start_new() -> Moto {
        let home = tempfile::Builder::new()
            .prefix("wv-")
            .tempdir()
            .expect("a directory");
        let mut command = python();
        // It chooses a port itself, and says which.
        command
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"])
            .env("PYTHONUNBUFFERED", "1");
        let process = Process::spawn("moto", command, &home.path().join("moto.log"));
        let port = wait::poll(|| {
            let log = process.log();
            let (_, rest) = log.split_once("Running on http://127.0.0.1:")?;
            rest.split_once('\n')?.0.trim().parse().ok()
        });
        let Some(port) = port else {
            panic!("moto does not start:\n{}", process.log());
        };
        let moto = Moto {
            process,
            port,
            _home: home,
        };
        let _ = moto.boto(&format!(
            "client('s3').create_bucket(Bucket='{}')",
            Moto::BUCKET
        ));
        moto
    }

    /// The URL of every service it has.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The variables that an AWS SDK takes credentials from. Any will do until policies are
    /// enforced.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        vec![
            (
                "AWS_ACCESS_KEY_ID".to_owned(),
                "AKIATESTTESTTESTTEST".to_owned(),
            ),
            ("AWS_SECRET_ACCESS_KEY".to_owned(), "test".to_owned()),
        ]
    }

    /// Runs lines of Python, in which `client('s3')` is boto3's client of a service of this server,
    /// with the rights of its administrator; returns what they print, without the last newline.
    ///
    /// # Panics
    /// With what Python said, when they fail.
    #[must_use]
    pub fn boto(&self, lines: &str) -> String {
        let mut command = python();
        command.arg("-c").arg(format!(
            "import json, boto3\n\
             from botocore.config import Config\n\
             def client(service, key='AKIATESTTESTTESTTEST', secret='test'):\n\
             \x20   return boto3.client(service, endpoint_url='{}', region_name='{}',\n\
             \x20       aws_access_key_id=key, aws_secret_access_key=secret,\n\
             \x20       config=Config(s3={{'addressing_style': 'path'}}))\n\
             {lines}\n",
            self.endpoint(),
            Moto::REGION
        ));
        let outcome = Outcome::of(command).succeeded();
        outcome.stdout.trim_end_matches('\n').to_owned()
    }

    /// What it said so far: a line for each request.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }
}

fn python() -> Command {
    let mut command = Command::new(cache::python());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    command
}
