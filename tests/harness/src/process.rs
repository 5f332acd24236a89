//! A process that a test started: its log, its signals, its end.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use crate::{needs, wait};

/// Of each log that a test which fails leaves behind, this many bytes are shown: it may not fail again.
const LOG_SHOWN: usize = 16 * 1024;

/// A running process. Dropping it kills it and whatever it started.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, what it prints going to the end of the file `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Process {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .unwrap_or_else(|error| panic!("open {}: {error}", log.display()));
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle of the log"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| needs::not_started(&command, &error));
        Process {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    /// When the operating system does not tell.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the state of a child")
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn is_running(&self) -> bool {
        is_running(self.pid())
    }

    /// Sends a signal to it alone.
    ///
    /// # Panics
    /// When it has been waited for already.
    pub fn signal(&self, signal: Signal) {
        kill_process(pid(self.pid()), signal)
            .unwrap_or_else(|error| panic!("{signal:?} to {}: {error}", self.name));
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// With its log, when it does not end.
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        wait::poll(|| self.exit_status()).unwrap_or_else(|| {
            panic!("{} does not end. Its log:\n{}", self.name, self.log());
        })
    }

    /// Kills it and whatever it started at once, as the loss of the machine would.
    ///
    /// # Panics
    /// When it survives.
    pub fn kill(&mut self) {
        if self.exit_status().is_some() {
            return;
        }
        let family = descendants(self.pid());
        // The parent first, so that it does not react to the end of its children.
        for &member in [self.pid()].iter().chain(&family) {
            // One that ended in between is what was wanted.
            let _ = kill_process(pid(member), Signal::KILL);
        }
        self.wait_for_exit();
        wait::wait_for("the end of a killed process's children", || {
            family.iter().all(|&member| !is_running(member))
        });
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(LOG_SHOWN);
            let end = &log[log.ceil_char_boundary(from)..];
            eprintln!("--- the end of {}'s log:\n{end}", self.name);
        }
    }
}

/// The processes with `argument` on their command line, and a path under `dir`: such as outlive
/// whoever started them.
///
/// # Panics
/// When there is no /proc.
#[must_use]
pub fn with_argument(argument: &str, dir: &Path) -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(id) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<_> = line
            .split(|byte| *byte == 0)
            .map(String::from_utf8_lossy)
            .collect();
        let is_it = words.iter().any(|word| word == argument)
            && words.iter().any(|word| Path::new(&**word).starts_with(dir));
        if is_it && is_running(id) {
            found.push(pid(id));
        }
    }
    found
}

fn pid(id: u32) -> Pid {
    i32::try_from(id)
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process id")
}

/// Children, their children and so on, from /proc (proc(5), `/proc/pid/stat`).
fn descendants(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(id) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if let Some((_, parent)) = state_and_parent(id) {
            children.entry(parent).or_default().push(id);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next) {
        found.extend(children.remove(parent).unwrap_or_default());
        next += 1;
    }
    found.split_off(1)
}

/// A zombie that nobody has waited for yet does not run.
fn is_running(id: u32) -> bool {
    state_and_parent(id).is_some_and(|(state, _)| state != "Z" && state != "X")
}

fn state_and_parent(id: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The command's name stands in parentheses and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}
