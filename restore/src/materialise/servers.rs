//! Tablespaces and WAL of servers that run on this machine.
//!
//! A copied data directory has the same links as its source. So a link alone does not
//! tell whose files lie behind it.

use std::fs;
use std::path::Path;

use super::waldir::PG_WAL;

/// Whether a server that runs on this machine has a tablespace at `location`. `/proc` shows a user's
/// own processes, and to root all: another user's servers remain unknown.
pub(super) fn use_tablespace(location: &Path) -> bool {
    a_server(location, |data, location| {
        links_to(&data.join("pg_tblspc"), location)
    })
}

/// Whether a server that runs on this machine has its WAL in `dir`, as [`use_tablespace`] sees it.
pub(super) fn use_wal(dir: &Path) -> bool {
    a_server(dir, |data, dir| {
        fs::canonicalize(data.join(PG_WAL)).is_ok_and(|path| path == dir)
    })
}

/// Whether a running server's data directory `has` the directory at `location`.
fn a_server(location: &Path, has: impl Fn(&Path, &Path) -> bool) -> bool {
    let Ok(location) = fs::canonicalize(location) else {
        return false;
    };
    let Ok(processes) = fs::read_dir("/proc") else {
        return false;
    };
    processes.flatten().any(|process| {
        // PostgreSQL works in its data directory.
        let data = process.path().join("cwd");
        is_postmaster(&process.file_name().to_string_lossy(), &data) && has(&data, &location)
    })
}

/// Whether the first line of `postmaster.pid` in `data` names this process.
fn is_postmaster(process: &str, data: &Path) -> bool {
    fs::read_to_string(data.join("postmaster.pid"))
        .is_ok_and(|written| written.lines().next().map(str::trim) == Some(process))
}

fn links_to(links: &Path, location: &Path) -> bool {
    let leads_there =
        |link: fs::DirEntry| fs::canonicalize(link.path()).is_ok_and(|path| path == location);
    fs::read_dir(links).is_ok_and(|links| links.flatten().any(leads_there))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn only_a_running_servers_tablespaces_are_in_use() {
        let dir = tempfile::tempdir().expect("a directory");
        let (data, location) = (dir.path().join("data"), dir.path().join("space"));
        fs::create_dir_all(data.join("pg_tblspc")).expect("made");
        fs::create_dir(&location).expect("made");
        symlink(&location, data.join("pg_tblspc/16400")).expect("linked");
        let mut server = Command::new("cat")
            .current_dir(&data)
            .stdin(Stdio::piped())
            .spawn()
            .expect("a process");
        let name = |id: u32| {
            let written = format!("{id}\n{}\n", data.display());
            fs::write(data.join("postmaster.pid"), written).expect("written");
        };
        assert!(!use_tablespace(&location), "it is no postmaster");
        name(server.id());
        assert!(use_tablespace(&location));
        assert!(!use_tablespace(&data));
        let wal = dir.path().join("wal");
        fs::create_dir(&wal).expect("made");
        assert!(!use_wal(&wal));
        symlink(&wal, data.join(PG_WAL)).expect("linked");
        assert!(use_wal(&wal));
        // A file that a crash left names another process.
        name(server.id() + 1);
        assert!(!use_tablespace(&location));
        name(server.id());
        drop(server.stdin.take());
        let _ = server.wait().expect("ended");
        assert!(!use_tablespace(&location));
    }
}
