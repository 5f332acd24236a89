//! What the server has itself of a segment that the archive does not hold whole.
//!
//! PostgreSQL takes what `restore_command` gives for all there is: it replaces its own segment with it
//! (`KeepFileRestoredFromArchive` in `xlogarchive.c`). A standby that streamed further than the archive was
//! brought would lose what it has acknowledged, or stop in the middle of its promotion, when it reads
//! its last record once more. Told that there is no such file, it reads its own.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Records are aligned to as many bytes (`MAXALIGN` in `c.h`): a segment that is not whole ends with that
/// many zeros at least.
const ALIGNMENT: u64 = 8;

const BUFFER: usize = 64 << 10;

/// Whether `own` holds everything that `fetched` does, and more behind it.
///
/// # Errors
/// When one of the two cannot be read.
pub fn goes_further(own: &Path, fetched: &Path) -> io::Result<bool> {
    let fetched = File::open(fetched)?;
    let length = fetched.metadata()?.len();
    let mut end = [0; ALIGNMENT as usize];
    fetched.read_exact_at(&mut end, length.saturating_sub(ALIGNMENT))?;
    if end != [0; ALIGNMENT as usize] {
        return Ok(false);
    }
    let own = match File::open(own) {
        Ok(own) => own,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if own.metadata()?.len() != length {
        return Ok(false);
    }
    differs_behind_only(&own, &fetched, length)
}

/// Whether the two are the same as far as `fetched` has anything but zeros, and `own` has more.
fn differs_behind_only(own: &File, fetched: &File, length: u64) -> io::Result<bool> {
    let (mut ours, mut theirs) = (vec![0; BUFFER], vec![0; BUFFER]);
    let (mut at, mut further) = (0, false);
    while at < length {
        let step = BUFFER.min(usize::try_from(length - at).unwrap_or(BUFFER));
        own.read_exact_at(&mut ours[..step], at)?;
        fetched.read_exact_at(&mut theirs[..step], at)?;
        let mut from = 0;
        if !further {
            let same = ours[..step].iter().zip(&theirs[..step]);
            from = same.take_while(|(ours, theirs)| ours == theirs).count();
            further = from < step;
        }
        // What was fetched has to be over where they part.
        if theirs[from..step].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += step as u64;
    }
    Ok(further)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: usize = 3 * BUFFER;

    /// WAL up to `end`, then `filler`.
    fn segment(dir: &Path, name: &str, end: usize, filler: u8) -> std::path::PathBuf {
        let mut bytes: Vec<u8> = (0..end).map(|at| (at % 251) as u8 | 1).collect();
        bytes.resize(LENGTH, filler);
        let path = dir.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn what_the_server_has_beyond_the_archive_is_preferred() {
        let dir = tempfile::tempdir().unwrap();
        for (own, filler, fetched, expected) in [
            // The server streamed further, within a buffer, across some, and to the end.
            (1000, 0, 500, true),
            (2 * BUFFER + 9, 0, 500, true),
            (LENGTH, 0, 500, true),
            (LENGTH, 0, LENGTH - 8, true),
            // Behind what it streamed is what a recycled segment left there.
            (1000, 7, 500, true),
            (500, 7, 1000, false),
            // As far, and less far.
            (500, 0, 500, false),
            (500, 0, 1000, false),
            (0, 7, 1000, false),
            // The archive has it whole.
            (LENGTH, 0, LENGTH, false),
            (1000, 0, LENGTH, false),
        ] {
            let own_path = segment(dir.path(), "own", own, filler);
            let fetched_path = segment(dir.path(), "fetched", fetched, 0);
            let further = goes_further(&own_path, &fetched_path).unwrap();
            assert_eq!(further, expected, "{own} {filler} {fetched}");
        }
    }

    #[test]
    fn what_is_not_there_or_of_another_size_goes_no_further() {
        let dir = tempfile::tempdir().unwrap();
        let fetched = segment(dir.path(), "fetched", 500, 0);
        let own = dir.path().join("own");
        assert!(!goes_further(&own, &fetched).unwrap());
        std::fs::write(&own, vec![1; 700]).unwrap();
        assert!(!goes_further(&own, &fetched).unwrap());
    }
}
