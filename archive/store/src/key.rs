//! What may be a key, for every store alike.

use crate::StoreError;

/// Names that begin so are files a directory store has not finished writing.
pub(crate) const TEMPORARY: &str = ".tmp-";

/// The longest key that S3 takes, in bytes.
const MAX_LENGTH: usize = 1024;

/// Refuses what could leave the archive or does not name one object.
pub(crate) fn check(store: &str, action: &'static str, key: &str) -> Result<(), StoreError> {
    let sound = key.len() <= MAX_LENGTH && key.split('/').all(sound_component);
    if sound {
        Ok(())
    } else {
        Err(refuse(store, action, key))
    }
}

/// As [`check`] for a prefix, which may be empty or end within a component or in `/`.
pub(crate) fn check_prefix(store: &str, prefix: &str) -> Result<(), StoreError> {
    let (folders, last) = prefix.rsplit_once('/').unwrap_or(("", prefix));
    let folders_sound = !prefix.contains('/') || folders.split('/').all(sound_component);
    if folders_sound && !last.contains('\0') && last != ".." && prefix.len() <= MAX_LENGTH {
        Ok(())
    } else {
        Err(refuse(store, "list", prefix))
    }
}

fn sound_component(component: &str) -> bool {
    !component.is_empty()
        && component != "."
        && component != ".."
        && !component.contains('\0')
        && !component.starts_with(TEMPORARY)
}

fn refuse(store: &str, action: &'static str, key: &str) -> StoreError {
    StoreError::refused(
        store,
        action,
        key,
        "it is not a key",
        "this is a defect of walvault; please report it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_within_the_archive() {
        let accepts = |key: &str| check("memory", "put", key).is_ok();
        for good in [
            "archive.json",
            "wal/00000001.history",
            "a/b/c",
            "a/..b",
            "a/.hidden",
        ] {
            assert!(accepts(good), "{good}");
        }
        let long = "x".repeat(MAX_LENGTH + 1);
        for bad in [
            "", "/", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\0b", "a/.tmp-1", &long,
        ] {
            assert!(!accepts(bad), "{bad:?}");
        }
    }

    #[test]
    fn prefixes_may_end_anywhere() {
        let accepts = |prefix: &str| check_prefix("memory", prefix).is_ok();
        for good in ["", "wal", "wal/", "wal/0000", "a/b/"] {
            assert!(accepts(good), "{good}");
        }
        for bad in ["/", "/wal", "..", "../", "wal/..", "wal/../x", "wal//"] {
            assert!(!accepts(bad), "{bad}");
        }
    }
}
