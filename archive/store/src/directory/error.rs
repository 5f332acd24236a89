//! What the operating system's errors mean to who stores objects.

use std::io;
use std::path::Path;

use rustix::io::Errno;

use crate::StoreError;

/// Whether it says that there is nothing under the name.
pub(super) fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
    )
}

/// Sorts an error by what the caller does next. A full disk is waited out: retention or the
/// operator frees space while the daemon runs.
pub(super) fn classify(
    store: &str,
    root: &Path,
    action: &'static str,
    key: &str,
    error: &io::Error,
) -> StoreError {
    let root = root.display();
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let remedy = match errno {
        Some(Errno::NOSPC) => {
            let reason = format!("{error}; free space below '{root}' or enlarge its volume");
            return StoreError::unavailable(store, action, key, reason);
        }
        Some(Errno::DQUOT) => {
            let reason = format!("{error}; raise the quota of walvault's user on '{root}'");
            return StoreError::unavailable(store, action, key, reason);
        }
        Some(Errno::ACCESS | Errno::PERM) => {
            format!("let the user that walvault runs as read and write everything below '{root}'")
        }
        Some(Errno::ROFS) => format!("mount the volume of '{root}' writable"),
        Some(Errno::NOTDIR | Errno::ISDIR | Errno::LOOP) => {
            format!("move away what is in its place below '{root}'; walvault did not make it")
        }
        Some(Errno::NAMETOOLONG) => "use a file system that takes longer names".to_owned(),
        Some(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => format!(
            "keep the archive on a file system that can rename without replacing, or make hard \
             links: that of '{root}' can do neither"
        ),
        _ => return StoreError::unavailable(store, action, key, error),
    };
    StoreError::refused(store, action, key, error, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_waited_out_and_a_wrong_owner_is_not() {
        let classify = |errno: Errno| {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            super::classify("file:///a", Path::new("/a"), "put", "k", &error)
        };
        for errno in [
            Errno::NOSPC,
            Errno::DQUOT,
            Errno::IO,
            Errno::STALE,
            Errno::MFILE,
        ] {
            assert!(classify(errno).is_transient(), "{errno}");
        }
        for errno in [Errno::ACCESS, Errno::PERM, Errno::ROFS, Errno::NOTDIR] {
            let error = classify(errno);
            assert!(
                matches!(error, StoreError::Refused { .. }),
                "{errno}: {error}"
            );
        }
        assert!(
            classify(Errno::NOSPC)
                .to_string()
                .contains("free space below '/a'")
        );
    }
}
