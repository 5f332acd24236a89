//! This program's own path, as commands are to name it that run later.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use walvault_config::env_lookup;

/// The path that this program was started by, where it is told; links in it stay. An installation
/// that lies behind a link is replaced by turning the link, and what a server's `restore_command`
/// names has to be there for years.
///
/// # Errors
/// When the operating system does not tell.
pub fn path() -> io::Result<PathBuf> {
    let real = std::env::current_exe()?;
    let called = std::env::args_os().next().map(PathBuf::from);
    let search = env_lookup("PATH").unwrap_or_default();
    let found = called.and_then(|called| called_by(&called, &search, &real));
    Ok(found.unwrap_or(real))
}

/// The absolute path of a program that was called as `called`, if it is the one at `real`.
fn called_by(called: &Path, search: &str, real: &Path) -> Option<PathBuf> {
    let candidates: Vec<PathBuf> = match called.components().count() {
        // A bare name, which the shell looked up.
        1 if !called.has_root() => std::env::split_paths(search)
            .map(|dir| dir.join(called))
            .collect(),
        _ => vec![std::path::absolute(called).ok()?],
    };
    let is_it = |path: &PathBuf| {
        path.is_absolute() && fs::canonicalize(path).is_ok_and(|found| found == real)
    };
    candidates.into_iter().find(is_it)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_to_an_installation_stays_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = fs::canonicalize(dir.path()).expect("a path");
        let real = dir.join("walvault-1.2");
        fs::write(&real, "").expect("written");
        let link = dir.join("walvault");
        symlink(&real, &link).expect("linked");
        let search = format!("/nowhere:{}", dir.display());
        let found = |called: &str| called_by(Path::new(called), &search, &real);
        assert_eq!(found("walvault"), Some(link.clone()));
        assert_eq!(found(link.to_str().expect("UTF-8")), Some(link.clone()));
        // Who is called by another name is known by its own path.
        assert_eq!(found("something"), None);
        fs::remove_file(&link).expect("removed");
        fs::write(&link, "").expect("written");
        assert_eq!(found("walvault"), None);
    }
}
