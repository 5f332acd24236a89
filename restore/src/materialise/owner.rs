//! Whom restored files belong to.

use std::os::unix::fs::lchown;
use std::path::Path;
use std::process::Command;

use super::MaterialiseError;

/// A user and its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    user: u32,
    group: u32,
}

impl Owner {
    /// Looks `name` up with `id`, which asks whatever the system asks, such as LDAP.
    ///
    /// # Errors
    /// When there is no such user.
    pub fn of(name: &str) -> Result<Owner, MaterialiseError> {
        let id = |option| -> Option<u32> {
            let output = Command::new("id")
                .args([option, "--", name])
                .output()
                .ok()?;
            String::from_utf8(output.stdout).ok()?.trim().parse().ok()
        };
        match (id("-u"), id("-g")) {
            (Some(user), Some(group)) => Ok(Owner { user, group }),
            _ => Err(MaterialiseError::Owner(name.to_owned())),
        }
    }

    /// Its user ID.
    #[must_use]
    pub fn user(self) -> u32 {
        self.user
    }

    /// Its group ID.
    #[must_use]
    pub fn group(self) -> u32 {
        self.group
    }

    /// Whether this process runs as it.
    #[must_use]
    pub fn is_this_process(self) -> bool {
        rustix::process::geteuid().as_raw() == self.user
    }

    /// Gives it `path`, or the link itself if it is one.
    pub(crate) fn take(self, path: &Path) -> Result<(), MaterialiseError> {
        lchown(path, Some(self.user), Some(self.group))
            .map_err(MaterialiseError::io("change the owner of", path))
    }
}
