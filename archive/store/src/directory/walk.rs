//! Listing a directory tree as a store does: by the bytes of whole keys, a page at a time.

use std::fs;
use std::io;
use std::path::Path;

use crate::directory::{error, object_meta};
use crate::{Leftover, ListPage, ObjectMeta, key};

/// The first `limit` objects whose keys begin with `prefix` and come after `after`.
///
/// # Errors
/// When the directory cannot be read, or objects went from it each time it was.
pub(super) fn page(
    root: &Path,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> io::Result<ListPage> {
    page_by(root, prefix, after, limit, &|path| {
        fs::symlink_metadata(path)
    })
}

/// What a file is, without following a link.
type Stat<'a> = &'a dyn Fn(&Path) -> io::Result<fs::Metadata>;

fn page_by(
    root: &Path,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
    stat: Stat<'_>,
) -> io::Result<ListPage> {
    let mut walk = Walk {
        root,
        prefix,
        after: after.unwrap_or(""),
        limit,
        stat,
        objects: Vec::new(),
    };
    // One more than a page tells whether there is another.
    walk.visit("")?;
    let mut objects = walk.objects;
    let more = objects.len() > limit;
    objects.truncate(limit);
    Ok(ListPage {
        next: objects.last().filter(|_| more).map(|last| last.key.clone()),
        objects,
    })
}

/// Files under a temporary name that were written before `before`.
pub(super) fn temporary(root: &Path, before: jiff::Timestamp) -> io::Result<Vec<Leftover>> {
    let mut found = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let read = match fs::read_dir(root.join(&folder)) {
            Ok(read) => read,
            Err(error) if error::is_absence(&error) => continue,
            Err(error) => return Err(error),
        };
        for entry in read {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if is_file_systems(&folder, &name) {
                continue;
            }
            let meta = match entry.metadata() {
                Ok(meta) => meta,
                Err(error) if error::is_absence(&error) => continue,
                Err(error) => return Err(error),
            };
            if meta.is_dir() {
                folders.push(format!("{folder}{name}/"));
            } else if meta.is_file() && name.starts_with(key::TEMPORARY) {
                let object = object_meta(format!("{folder}{name}"), &meta);
                if object.modified < before {
                    found.push(Leftover {
                        key: object.key,
                        upload: None,
                        size: object.size,
                        begun: object.modified,
                    });
                }
            }
        }
    }
    found.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(found)
}

/// Whether the file system itself made it, at the top of a volume: root alone may read it, and nobody else's
/// objects are in it.
fn is_file_systems(folder: &str, name: &str) -> bool {
    folder.is_empty() && name == "lost+found"
}

/// How often a folder is read that objects are removed from meanwhile.
const READS: usize = 20;

struct Walk<'a> {
    root: &'a Path,
    prefix: &'a str,
    after: &'a str,
    limit: usize,
    stat: Stat<'a>,
    objects: Vec<ObjectMeta>,
}

impl Walk<'_> {
    /// Visits what is in `folder`, a key prefix that is empty or ends in `/`.
    fn visit(&mut self, folder: &str) -> io::Result<()> {
        let before = self.objects.len();
        for _ in 0..READS {
            if self.read(folder)? {
                return Ok(());
            }
            self.objects.truncate(before);
        }
        // What was read lacks objects, perhaps: nobody may take it for all there is.
        Err(io::Error::other(format!(
            "'{folder}' changed each of the {READS} times it was read; try again when less is removed"
        )))
    }

    /// Reads a folder once; whether nothing was removed from it meanwhile. What took the place of a
    /// removed object may not have been there yet when the folder was read.
    fn read(&mut self, folder: &str) -> io::Result<bool> {
        let mut complete = true;
        for entry in self.entries(folder)? {
            if self.objects.len() > self.limit {
                break;
            }
            if entry.ends_with('/') {
                self.visit(&entry)?;
                continue;
            }
            match (self.stat)(&self.root.join(&entry)) {
                Ok(meta) => self.objects.push(object_meta(entry, &meta)),
                Err(error) if error::is_absence(&error) => complete = false,
                Err(error) => return Err(error),
            }
        }
        Ok(complete)
    }

    /// The keys of files and prefixes of directories in `folder` that can be on the page.
    ///
    /// A directory is sorted with the `/` that follows its name in a key: `a.b` comes before
    /// `a/b` though `a` comes before `a.b`.
    fn entries(&self, folder: &str) -> io::Result<Vec<String>> {
        let read = match fs::read_dir(self.root.join(folder)) {
            Ok(read) => read,
            // Removed as empty since its parent was read, or never there. The root is checked
            // by the caller.
            Err(error) if error::is_absence(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut entries = Vec::new();
        for entry in read {
            let entry = entry?;
            // walvault's own names are all UTF-8.
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if name.starts_with(key::TEMPORARY) || is_file_systems(folder, &name) {
                continue;
            }
            let kind = match entry.file_type() {
                Ok(kind) => kind,
                Err(error) if error::is_absence(&error) => continue,
                Err(error) => return Err(error),
            };
            let (found, wanted) = if kind.is_dir() {
                let found = format!("{folder}{name}/");
                let wanted = self.may_hold(&found);
                (found, wanted)
            } else {
                let found = format!("{folder}{name}");
                let on_page = found.starts_with(self.prefix) && found.as_str() > self.after;
                (found, on_page && kind.is_file())
            };
            if wanted {
                entries.push(found);
            }
        }
        entries.sort_unstable();
        Ok(entries)
    }

    /// Whether keys below `folder` can match the prefix and come after `after`.
    fn may_hold(&self, folder: &str) -> bool {
        let matches = folder.starts_with(self.prefix) || self.prefix.starts_with(folder);
        matches && (folder > self.after || self.after.starts_with(folder))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A directory of which a file goes whenever its entries were read, so many times.
    fn listed(removals: usize) -> io::Result<Vec<String>> {
        let root = tempfile::tempdir()?;
        fs::create_dir(root.path().join("tail"))?;
        for name in ["a", "b"] {
            fs::write(root.path().join("tail").join(name), "x")?;
        }
        let left = Cell::new(removals);
        let stat = |path: &Path| {
            if path.ends_with("b") && left.get() > 0 {
                left.set(left.get() - 1);
                return Err(io::ErrorKind::NotFound.into());
            }
            fs::symlink_metadata(path)
        };
        let page = page_by(root.path(), "tail/", None, 10, &stat)?;
        Ok(page.objects.into_iter().map(|object| object.key).collect())
    }

    #[test]
    fn a_folder_that_lost_objects_while_it_was_read_is_read_again_or_not_believed() {
        assert_eq!(listed(3).expect("read again"), ["tail/a", "tail/b"]);
        let error = listed(usize::MAX).expect_err("it lacks one");
        assert!(error.to_string().contains("'tail/' changed"), "{error}");
    }

    #[test]
    fn what_the_file_system_keeps_at_the_top_of_a_volume_is_no_object() -> io::Result<()> {
        let root = tempfile::tempdir()?;
        for folder in ["lost+found", "tail/lost+found"] {
            let folder = root.path().join(folder);
            fs::create_dir_all(&folder)?;
            fs::write(folder.join("a"), "x")?;
            fs::write(folder.join(format!("{}1", key::TEMPORARY)), "x")?;
        }
        let page = page(root.path(), "", None, 10)?;
        let keys: Vec<_> = page.objects.iter().map(|object| &object.key).collect();
        assert_eq!(keys, ["tail/lost+found/a"]);
        let left = temporary(root.path(), jiff::Timestamp::MAX)?;
        assert_eq!(left.len(), 1);
        assert!(left[0].key.starts_with("tail/"), "{}", left[0].key);
        Ok(())
    }
}
