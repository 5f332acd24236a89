use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
}

fn data_directory() -> (TempDir, PathBuf) {
    let home = tempfile::tempdir().expect("a directory");
    let pg_wal = home.path().join("data/pg_wal");
    fs::create_dir_all(&pg_wal).expect("made");
    fs::write(home.path().join("data/PG_VERSION"), "15\n").expect("written");
    (home, pg_wal)
}

#[test]
fn segments_wait_outside_the_data_directory_and_on_its_file_system() {
    let (home, pg_wal) = data_directory();
    let home = fs::canonicalize(home.path()).expect("a path");
    assert_eq!(default_base(&pg_wal), Some(home.join(BESIDE)));

    // A linked pg_wal may be on a disk of its own.
    let disk = home.join("disk");
    fs::rename(&pg_wal, &disk).expect("moved");
    std::os::unix::fs::symlink(&disk, &pg_wal).expect("linked");
    assert_eq!(default_base(&pg_wal), Some(home.join(BESIDE)));

    let elsewhere = Path::new("/proc");
    let base = default_base(elsewhere).expect("a place");
    assert!(base.starts_with(std::env::temp_dir()), "{}", base.display());
}

#[test]
fn only_a_server_has_a_prefetch() {
    let (_home, pg_wal) = data_directory();
    let text = "[archive]\nurl = \"file:///archive\"\n";
    let config = |restore: &str| {
        Config::from_toml(&format!("{text}[restore]\n{restore}\n")).expect("a configuration")
    };
    let some = config("");
    let site = Site::of(&some, &pg_wal.join(SERVERS_NAME)).expect("a site");
    let again = Site::of(&some, &pg_wal.join(SERVERS_NAME)).expect("a site");
    assert_eq!(site.dir(), again.dir());
    // As pg_rewind, and whoever fetches by hand, asks.
    assert!(Site::of(&some, &pg_wal.join("000000010000000000000003")).is_none());
    assert!(Site::of(&some, Path::new("/tmp/RECOVERYXLOG")).is_none());
    let none = config("prefetch = 0");
    assert!(Site::of(&none, &pg_wal.join(SERVERS_NAME)).is_none());
    let other = config("prefetch_dir = \"/elsewhere\"");
    let other = Site::of(&other, &pg_wal.join(SERVERS_NAME)).expect("a site");
    assert!(other.dir().starts_with("/elsewhere"));
}

#[test]
fn a_directory_that_others_can_change_is_refused() {
    let home = tempfile::tempdir().expect("a directory");
    let site = Site::at(home.path().join("base/0123456789abcdef"));
    let refused = || {
        let error = site.enter().expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert!(error.to_string().contains("prefetch_dir"), "{error}");
    };
    drop(site.enter().expect("made"));
    set_mode(site.dir(), 0o777);
    refused();
    set_mode(site.dir(), 0o700);
    let base = home.path().join("base");
    set_mode(&base, 0o777);
    refused();
    // Where nobody renames another's files, as in /tmp, it is good.
    set_mode(&base, 0o1777);
    drop(site.enter().expect("entered"));

    // A link leads to what was not looked at.
    fs::rename(site.dir(), home.path().join("elsewhere")).expect("moved");
    std::os::unix::fs::symlink(home.path().join("elsewhere"), site.dir()).expect("linked");
    assert!(site.enter().is_err());
}

#[test]
fn a_directory_of_another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let home = tempfile::tempdir().expect("a directory");
    let site = Site::at(home.path().join("base/0123456789abcdef"));
    drop(site.enter().expect("made"));
    std::os::unix::fs::chown(site.dir(), Some(12345), None).expect("given away");
    let error = site.enter().expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
}

#[test]
fn one_helper_at_a_time_which_leaves_nothing() {
    let home = tempfile::tempdir().expect("a directory");
    let base = home.path().join(BESIDE);
    let site = Site::at(base.join("0123456789abcdef"));
    let (spool, lock) = site.enter().expect("entered");
    let lock = lock.expect("nobody else");
    assert!(site.enter().expect("entered").1.is_none());
    spool.ask("000000010000000000000003").expect("asked");
    fs::write(spool.file("000000010000000000000004"), "wal").expect("written");
    fs::write(spool.file("000000010000000000000005.walvault-1"), "w").expect("written");
    assert!(spool.is_under_way("000000010000000000000005"));
    assert!(!spool.is_under_way("000000010000000000000004"));
    spool.clear(&lock).expect("cleared");
    assert!(!spool.file("000000010000000000000004").exists());
    let asked = spool.asked().expect("a request");
    assert_eq!(asked.name, "000000010000000000000003");

    // What a helper that was killed left goes with the next, for whichever server.
    let other = Site::at(base.join("fedcba9876543210"));
    drop(other.enter().expect("entered"));
    site.clear_others();
    assert!(!other.dir().exists());
    assert!(spool.has_its_path());
    spool.remove(lock);
    assert!(!spool.has_its_path());
    assert!(!base.exists());
}
