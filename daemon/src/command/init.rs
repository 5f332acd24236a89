//! `walvaultd init`: writes a configuration for the PostgreSQL it finds.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use walvault_config::{ArchiveUrl, DEFAULT_PATH, env_lookup};
use walvault_protocol::client::{ConnInfo, ConnInfoError};

use crate::stream::{StreamError, connect};

/// Where Debian, and PostgreSQL itself unless told otherwise, put the sockets.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// What is written.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Where the archive is to be: s3://bucket/prefix or file:///path
    #[arg(long, value_name = "URL")]
    archive: String,
    /// The server's connection string [default: the one that listens on a local socket]
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,
    /// The key file to name in it
    #[arg(long, value_name = "FILE", default_value = "/etc/walvault/key")]
    key_file: PathBuf,
    /// Where to write it
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    out: PathBuf,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// No server, or several.
    #[error("{0}; name the server with --postgres 'postgresql://…'")]
    Server(String),
    /// The connection string.
    #[error("--postgres: {0}")]
    ConnInfo(#[from] ConnInfoError),
    /// The archive's URL.
    #[error("--archive: {0}")]
    Archive(String),
    /// The server does not let us in.
    #[error("{0}; nothing was written")]
    Connect(#[from] StreamError),
    /// The file.
    #[error("{path}: {source}; name another with --out")]
    Write {
        /// Where it was to be.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
}

/// Connects to the server, writes the file, and says what comes next.
///
/// # Errors
/// When there is no server, it refuses, or the file is there already.
pub async fn run(arguments: Arguments) -> Result<(), InitError> {
    ArchiveUrl::parse(&arguments.archive).map_err(InitError::Archive)?;
    let url = match arguments.postgres {
        Some(url) => url,
        None => {
            let sockets = SOCKET_DIRECTORIES.map(Path::new);
            find(&sockets).map_err(InitError::Server)?
        }
    };
    let info = ConnInfo::parse(&url, &env_lookup)?.with_application_name("walvault");
    let server = connect(&info).await?;
    let version = server.session.server_version();
    server.session.close().await;
    let failed = |source| InitError::Write {
        path: arguments.out.clone(),
        source,
    };
    // It may hold a password.
    let mut file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&arguments.out)
        .map_err(failed)?;
    file.write_all(contents(&url, &arguments.archive, &arguments.key_file).as_bytes())
        .map_err(failed)?;
    let (out, key) = (arguments.out.display(), arguments.key_file.display());
    println!(
        "{out} is written for PostgreSQL {version} at {}.",
        info.endpoint()
    );
    if !arguments.key_file.exists() {
        println!("Make the key:      walvault keys generate --out {key}");
    }
    println!("Try everything:    walvaultd check --config {out}");
    println!("Begin:             walvaultd run --config {out}");
    Ok(())
}

fn contents(url: &str, archive: &str, key_file: &Path) -> String {
    // JSON's strings are TOML's basic strings.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    format!(
        "# Every other key has a default: docs/configuration.md.\n\
         [postgres]\nurl = {}\n\n[archive]\nurl = {}\n\n[encryption]\nkey_file = {}\n\n\
         [backup]\n# Daily at 02:00 UTC.\nschedule = \"0 2 * * *\"\n",
        quoted(url),
        quoted(archive),
        quoted(&key_file.display().to_string()),
    )
}

/// The connection string of the one server that has a socket in one of these directories.
fn find(directories: &[&Path]) -> Result<String, String> {
    let mut found = Vec::new();
    for directory in directories {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let port = name.strip_prefix(".s.PGSQL.");
            if let Some(port) = port.and_then(|port| port.parse::<u16>().ok()) {
                let host = directory.display();
                found.push(format!("postgresql:///postgres?host={host}&port={port}"));
            }
        }
    }
    found.sort();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => {
            let looked: Vec<String> = directories
                .iter()
                .map(|directory| directory.display().to_string())
                .collect();
            Err(format!(
                "no PostgreSQL has a socket in {}",
                looked.join(" or ")
            ))
        }
        several => Err(format!("there are several: {}", several.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_one_server() {
        let home = tempfile::tempdir().unwrap();
        let look = || find(&[home.path()]);
        assert!(look().unwrap_err().contains("no PostgreSQL"));
        std::fs::write(home.path().join(".s.PGSQL.5433"), "").unwrap();
        std::fs::write(home.path().join(".s.PGSQL.5433.lock"), "").unwrap();
        assert!(look().unwrap().ends_with("port=5433"));
        std::fs::write(home.path().join(".s.PGSQL.5434"), "").unwrap();
        assert!(look().unwrap_err().contains("several"));
    }
}
