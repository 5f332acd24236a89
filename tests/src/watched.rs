//! Notices each access to a directory and to what lies below it (inotify(7)).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use rustix::io::Errno;

/// A directory tree that is watched.
pub struct Watched {
    notify: OwnedFd,
    directories: BTreeMap<i32, PathBuf>,
}

impl Watched {
    /// Watches `root` and each directory below it.
    ///
    /// # Panics
    /// When a directory cannot be read or watched.
    #[must_use]
    pub fn below(root: &Path) -> Watched {
        let mut found = vec![root.to_owned()];
        let mut next = 0;
        while let Some(directory) = found.get(next) {
            let entries = fs::read_dir(directory).expect("a directory").flatten();
            let below: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
            found.extend(below.into_iter().filter(|path| path.is_dir()));
            next += 1;
        }
        let notify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).expect("inotify");
        let watch = |directory: PathBuf| {
            let id = inotify::add_watch(&notify, &directory, WatchFlags::ALL_EVENTS);
            (id.expect("a watch"), directory)
        };
        let directories = found.into_iter().map(watch).collect();
        Watched {
            notify,
            directories,
        }
    }

    /// The directories and files that were opened, read, changed or removed since the last call.
    ///
    /// # Panics
    /// When inotify fails.
    #[must_use]
    pub fn accessed(&self) -> BTreeSet<PathBuf> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(&self.notify, &mut buffer);
        let mut accessed = BTreeSet::new();
        loop {
            match events.next() {
                Ok(event) => {
                    let directory = self.directories.get(&event.wd()).expect("a watched one");
                    let name = event
                        .file_name()
                        .map(|name| OsStr::from_bytes(name.to_bytes()));
                    accessed.insert(name.map_or(directory.clone(), |name| directory.join(name)));
                }
                Err(Errno::AGAIN) => return accessed,
                Err(error) => panic!("inotify: {error}"),
            }
        }
    }
}
