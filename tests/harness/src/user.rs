//! The user that servers run as. PostgreSQL refuses to run as root, so when the tests do, servers
//! and walvault run as `postgres`, the user that Debian's package creates.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::needs;

/// A user that is not the one the tests run as.
struct ServerUser {
    uid: u32,
    gid: u32,
    home: PathBuf,
}

/// Whether the tests run as root, and servers as somebody else.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

/// For tests that mount file systems or change networks (capabilities(7), `CAP_SYS_ADMIN` and
/// `CAP_NET_ADMIN`). Where that is not allowed, they end here: see [`needs`].
///
/// # Panics
/// When there is no /proc.
pub fn needs_to_administer() {
    const NEEDED: u64 = 1 << 12 | 1 << 21;
    let status = fs::read_to_string("/proc/self/status").expect("/proc");
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|value| u64::from_str_radix(value.trim(), 16).ok());
    if effective.is_none_or(|effective| effective & NEEDED != NEEDED) {
        needs::not_allowed("mount file systems and change networks");
    }
}

/// A command that runs as the server's user, in an environment that names no other server, no
/// other object store and no other configuration of walvault.
#[must_use]
pub fn server_command(program: impl AsRef<OsStr>) -> Command {
    server_command_with(program, &[])
}

/// As [`server_command`], with these variables in its environment. What `LD_PRELOAD` names is loaded by
/// the program alone, and not by what changes the user.
#[must_use]
pub fn server_command_with(
    program: impl AsRef<OsStr>,
    environment: &[(String, String)],
) -> Command {
    let (preload, others): (Vec<_>, Vec<_>) = environment
        .iter()
        .cloned()
        .partition(|(name, _)| name == "LD_PRELOAD");
    // setpriv and env replace themselves with the program: the child's id is the program's.
    let mut words: Vec<OsString> = Vec::new();
    if let Some(user) = server_user() {
        words.push("setpriv".into());
        words.push(format!("--reuid={}", user.uid).into());
        words.push(format!("--regid={}", user.gid).into());
        words.extend(["--init-groups", "--"].map(OsString::from));
    }
    if !preload.is_empty() {
        words.push("env".into());
        words.extend(
            preload
                .iter()
                .map(|(name, value)| format!("{name}={value}").into()),
        );
    }
    words.push(program.as_ref().to_owned());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    if let Some(user) = server_user() {
        command.env("HOME", &user.home).env_remove("XDG_CACHE_HOME");
    }
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if ["PG", "AWS_", "WALVAULT_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            command.env_remove(name);
        }
    }
    command
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .envs(others)
        .current_dir("/");
    command
}

/// A new temporary directory that belongs to the server's user.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn server_dir() -> TempDir {
    // Short: a Unix socket's path has at most 107 bytes.
    let dir = tempfile::Builder::new()
        .prefix("wv-")
        .tempdir()
        .expect("a temporary directory");
    give_to_server_user(dir.path());
    dir
}

/// Makes the server's user the owner of one file or directory.
///
/// # Panics
/// When that is not permitted.
pub fn give_to_server_user(path: &Path) {
    if let Some(user) = server_user() {
        chown(path, Some(user.uid), Some(user.gid))
            .unwrap_or_else(|error| panic!("chown {}: {error}", path.display()));
    }
}

/// Writes a file, and makes the server's user its owner.
///
/// # Panics
/// When it cannot be written.
pub fn write_as_server_user(path: &Path, contents: impl AsRef<[u8]>) {
    fs::write(path, contents).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    give_to_server_user(path);
}

fn server_user() -> Option<&'static ServerUser> {
    static USER: OnceLock<Option<ServerUser>> = OnceLock::new();
    USER.get_or_init(|| is_root().then(|| named("postgres")))
        .as_ref()
}

fn named(name: &str) -> ServerUser {
    let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
    let fields: Vec<&str> = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields[0] == name)
        .unwrap_or_else(|| needs::missing(&format!("there is no user '{name}'")));
    ServerUser {
        uid: fields[2].parse().expect("a user id"),
        gid: fields[3].parse().expect("a group id"),
        home: PathBuf::from(fields[5]),
    }
}
