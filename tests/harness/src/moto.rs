//! moto, a server of AWS's interfaces: S3 with versions, Object Lock and conditional PUT, KMS, STS,
//! and IAM whose policies it enforces when asked to. What it holds is in its memory.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::outcome::Outcome;
use crate::process::Process;
use crate::{cache, wait};

/// A server that runs, with one bucket. Dropping it kills it, and with it what it held.
#[derive(Debug)]
pub struct Moto {
    process: Process,
    scheme: &'static str,
    port: u16,
    /// Of whoever `environment` is for, and of the administrator.
    actor: (String, String),
    user: String,
    administrator: (String, String),
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
        Moto::start("http", &[])
    }

    /// As [`Moto::start_new`], over TLS with this certificate for 127.0.0.1.
    #[must_use]
    pub fn start_over_tls(certificate: &Path, key: &Path) -> Moto {
        let paths = [certificate, key].map(|path| path.display().to_string());
        let [certificate, key] = &paths;
        Moto::start("https", &["--ssl-cert", certificate, "--ssl-key", key])
    }

    fn start(scheme: &'static str, more: &[&str]) -> Moto {
        let home = tempfile::Builder::new()
            .prefix("wv-")
            .tempdir()
            .expect("a directory");
        let mut command = python();
        // It chooses a port itself, and says which.
        command
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"])
            .args(more)
            .env("PYTHONUNBUFFERED", "1");
        let process = Process::spawn("moto", command, &home.path().join("moto.log"));
        let port = wait::poll(|| {
            let log = process.log();
            let (_, rest) = log.split_once(&format!("Running on {scheme}://127.0.0.1:"))?;
            rest.split_once('\n')?.0.trim().parse().ok()
        });
        let Some(port) = port else {
            panic!("moto does not start:\n{}", process.log());
        };
        let moto = Moto {
            process,
            scheme,
            port,
            actor: any_credentials(),
            user: String::new(),
            administrator: any_credentials(),
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
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    /// The variables that an AWS SDK takes credentials from. Any will do until policies are
    /// enforced.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        let (key, secret) = &self.actor;
        vec![
            ("AWS_ACCESS_KEY_ID".to_owned(), key.clone()),
            ("AWS_SECRET_ACCESS_KEY".to_owned(), secret.clone()),
        ]
    }

    /// From now on policies are enforced, and [`Moto::environment`] is a new user's who has this one.
    pub fn act_under(&mut self, policy: &str) {
        if self.administrator == any_credentials() {
            let everything = r#"{"Version":"2012-10-17","Statement":
                [{"Effect":"Allow","Action":"*","Resource":"*"}]}"#;
            self.administrator = self.create_user("administrator", everything);
            let _ = self.boto(&format!(
                "import urllib.request\n\
                 url = '{}/moto-api/reset-auth'\n\
                 plain = {{'Content-Type': 'text/plain'}}\n\
                 urllib.request.urlopen(urllib.request.Request(url, b'0', plain, method='POST'))",
                self.endpoint()
            ));
        }
        self.user = format!("user-{:016x}", rand::random::<u64>());
        self.actor = self.create_user(&self.user, policy);
    }

    /// Gives the user of the last [`Moto::act_under`] another policy, while it is at work.
    pub fn limit_to(&self, policy: &str) {
        let _ = self.boto(&put_policy(&self.user, policy));
    }

    fn create_user(&self, name: &str, policy: &str) -> (String, String) {
        let put_policy = put_policy(name, policy);
        let said = self.boto(&format!(
            "iam = client('iam')\n\
             iam.create_user(UserName='{name}')\n\
             {put_policy}\n\
             made = iam.create_access_key(UserName='{name}')['AccessKey']\n\
             print(made['AccessKeyId'], made['SecretAccessKey'])"
        ));
        let (key, secret) = said.split_once(' ').expect("two words");
        (key.to_owned(), secret.to_owned())
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
             def client(service, key='{}', secret='{}'):\n\
             \x20   return boto3.client(service, endpoint_url='{}', region_name='{}',\n\
             \x20       aws_access_key_id=key, aws_secret_access_key=secret, verify=False,\n\
             \x20       config=Config(s3={{'addressing_style': 'path'}}))\n\
             {lines}\n",
            self.administrator.0,
            self.administrator.1,
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

fn put_policy(user: &str, policy: &str) -> String {
    let policy = serde_json::Value::from(policy).to_string();
    format!(
        "client('iam').put_user_policy(UserName='{user}', PolicyName='it', PolicyDocument={policy})"
    )
}

/// What is as good as any other until policies are enforced.
fn any_credentials() -> (String, String) {
    ("AKIATESTTESTTESTTEST".to_owned(), "test".to_owned())
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
