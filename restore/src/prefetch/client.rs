//! The side of `wal-fetch`: asks the helper, and starts one where there is none.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use walvault_archive::config::Config;

use super::protocol::{Answer, LONGEST, Request, SILENCE};
use super::site::Site;
use crate::wal::{Fetched, WalFetchError, WalFile};

/// How long a helper may take to listen. Most of it is the store's first answer.
const START: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(2);

/// A prefetch that a file of WAL may come from.
#[derive(Debug)]
pub struct Prefetch<'a> {
    site: Site,
    config: Option<&'a Path>,
    arguments: Vec<OsString>,
}

/// Why the helper did not help.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Write(#[from] WalFetchError),
    #[error("it does not start")]
    Start,
    #[error("it gave no answer that can be understood")]
    Answer,
    #[error("{0}")]
    Failed(String),
}

impl<'a> Prefetch<'a> {
    /// The prefetch of the server that wants a file at `path`; `None` where there is none.
    /// `config_path` is the configuration's file, absolute, for the helper.
    #[must_use]
    pub fn of(config: &Config, config_path: Option<&'a Path>, path: &Path) -> Option<Prefetch<'a>> {
        Some(Prefetch {
            site: Site::of(config, path)?,
            config: config_path,
            arguments: Vec::new(),
        })
    }

    /// It, with what else the helper is told on its command line.
    #[must_use]
    pub fn with_arguments(mut self, arguments: Vec<OsString>) -> Prefetch<'a> {
        self.arguments = arguments;
        self
    }

    /// Has the helper fetch the file `name`, and puts it at `path`; starts a helper if there is none
    /// and it `is_segment`, after which others follow. `None` if that did not work, so that the
    /// archive has to be asked directly.
    #[must_use]
    pub fn fetch(&self, name: &str, path: &Path, is_segment: bool) -> Option<Fetched> {
        let stream = match self.site.connect() {
            Ok(stream) if is_segment && self.take_ready(&stream, name, path) => {
                return Some(Fetched::Found);
            }
            Ok(stream) => stream,
            Err(_) if !is_segment => return None,
            Err(_) => match self.start() {
                Ok(stream) => stream,
                Err(trouble) => return gone(name, &trouble),
            },
        };
        match self.ask(stream, name, path) {
            Ok(fetched) => Some(fetched),
            Err(trouble) => gone(name, &trouble),
        }
    }

    /// Takes a segment that waits, without the helper's word: it may be busy with those that follow.
    fn take_ready(&self, mut stream: &UnixStream, name: &str, path: &Path) -> bool {
        let taken = fs::rename(self.site.file(name), path).is_ok();
        if taken {
            // A helper that is gone need not know.
            let _ = stream.write_all(Request::Taken(name.to_owned()).to_line().as_bytes());
        }
        taken
    }

    fn ask(&self, stream: UnixStream, name: &str, path: &Path) -> Result<Fetched, Trouble> {
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        (&stream).write_all(Request::Want(name.to_owned()).to_line().as_bytes())?;
        let mut reader = BufReader::new(&stream);
        loop {
            let mut line = String::new();
            (&mut reader).take(LONGEST).read_line(&mut line)?;
            match Answer::parse(&line) {
                Some(Answer::Take(file)) => {
                    take(&self.site.file(&file), path)?;
                    return Ok(Fetched::Found);
                }
                Some(Answer::Copy(file)) => {
                    copy(&self.site.file(&file), path)?;
                    return Ok(Fetched::Found);
                }
                Some(Answer::Absent) => return Ok(Fetched::Absent),
                Some(Answer::Failed(reason)) => return Err(Trouble::Failed(reason)),
                Some(Answer::Wait) => {}
                None => return Err(Trouble::Answer),
            }
        }
    }

    fn start(&self) -> Result<UnixStream, Trouble> {
        let mut child = Some(self.spawn()?);
        let deadline = Instant::now() + START;
        while Instant::now() < deadline {
            if let Ok(stream) = self.site.connect() {
                return Ok(stream);
            }
            let ended = child.as_mut().map(Child::try_wait).transpose()?.flatten();
            match ended {
                // Somebody else's helper is starting.
                Some(status) if status.success() => child = None,
                Some(_) => return Err(Trouble::Start),
                None => thread::sleep(POLL),
            }
        }
        Err(Trouble::Start)
    }

    /// Starts a helper that outlives this process. Its output goes nowhere: whoever holds the server's
    /// log open would keep the server's end waiting.
    fn spawn(&self) -> io::Result<Child> {
        let mut command = Command::new(std::env::current_exe()?);
        if let Some(config) = self.config {
            command.arg("--config").arg(config);
        }
        command
            .arg("wal-prefetch")
            .arg(self.site.dir())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .spawn()
    }
}

fn gone(name: &str, trouble: &Trouble) -> Option<Fetched> {
    tracing::info!("no help from the prefetch: {trouble}; fetching {name} directly");
    None
}

/// Gives the file its place. PostgreSQL flushes it when it gives it its own name (`durable_rename` in
/// `KeepFileRestoredFromArchive`).
fn take(from: &Path, path: &Path) -> Result<(), Trouble> {
    match fs::rename(from, path) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            copy(from, path)?;
            Ok(fs::remove_file(from)?)
        }
        result => Ok(result?),
    }
}

fn copy(from: &Path, path: &Path) -> Result<(), Trouble> {
    let mut source = fs::File::open(from)?;
    let file = WalFile::create(path)?;
    file.copy_from(&mut source)?;
    file.publish()?;
    Ok(())
}
