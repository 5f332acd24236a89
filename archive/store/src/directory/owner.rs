//! Whom what is made belongs to.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;
use std::sync::Once;

use rustix::fs::{Mode, OFlags};

/// Root's number.
const ROOT: u32 = 0;

/// Whether it was said that an owner cannot be changed here.
static SAID: Once = Once::new();

/// Gives `made`, which this process has just made below `root`, to whom `root` belongs. Root may run any
/// command, and nothing that it makes may lock the server's user out.
pub(super) fn hand_over(root: &Path, made: &File) -> io::Result<()> {
    // Over NFS and CIFS what root makes may belong to another at once, and stays so.
    if rustix::process::geteuid().as_raw() != ROOT || made.metadata()?.uid() != ROOT {
        return Ok(());
    }
    let heir = fs::metadata(root)?;
    if heir.uid() == ROOT {
        return Ok(());
    }
    if let Err(error) = fchown(made, Some(heir.uid()), Some(heir.gid())) {
        // Root without CAP_CHOWN, as in a pod, or a file system without owners: it can be written all the same.
        SAID.call_once(|| {
            tracing::warn!(
                root = %root.display(),
                %error,
                "what root writes here stays root's; run walvault as the user that the archive's directory belongs to"
            );
        });
    }
    Ok(())
}

/// Opens the directory `path`, and no other that a link leads to.
pub(super) fn open_directory(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}
