//! Checksums of a backup's data pages, as its parts pass in any order.

use std::collections::{BTreeMap, HashMap};

use walvault_protocol::data_page::{self, PageChecksum};
use walvault_protocol::{ControlFile, Lsn};

/// Checks pages. A page that lies in two parts waits for its other half.
#[derive(Debug)]
pub(super) struct Pages {
    page_size: u64,
    segment_pages: u64,
    /// Where replay begins: a page that was changed since is written anew by it, and may be torn.
    start: Lsn,
    halves: HashMap<(usize, u64), Half>,
    wrong: BTreeMap<usize, WrongPages>,
    checked: u64,
}

/// A page of which not all is here.
#[derive(Debug)]
struct Half {
    bytes: Vec<u8>,
    filled: usize,
}

/// The pages of one file that do not carry their checksum.
#[derive(Debug, Clone, Copy)]
pub(super) struct WrongPages {
    /// The number of the first within the file.
    pub(super) first: u64,
    /// How many there are.
    pub(super) count: u64,
}

/// A run of a file's bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run<'a> {
    /// The file's index in its list.
    pub(super) file: usize,
    /// Its number among the files of its relation's fork.
    pub(super) number: u32,
    /// Where in the file it begins.
    pub(super) offset: u64,
    pub(super) bytes: &'a [u8],
}

impl Pages {
    /// For a backup whose `pg_control` is `control` and whose replay begins at `start`; `None` where
    /// pages carry no checksums.
    pub(super) fn new(control: &ControlFile, start: Lsn) -> Option<Pages> {
        control.data_checksums.then(|| Pages {
            page_size: control.page_size.into(),
            segment_pages: control.segment_pages.into(),
            start,
            halves: HashMap::new(),
            wrong: BTreeMap::new(),
            checked: 0,
        })
    }

    /// Checks the pages of a run.
    pub(super) fn take(&mut self, run: Run<'_>) {
        let (mut at, mut bytes) = (run.offset, run.bytes);
        while !bytes.is_empty() {
            let (page, within) = (at / self.page_size, at % self.page_size);
            let left = (self.page_size - within) as usize;
            let (here, rest) = bytes.split_at(left.min(bytes.len()));
            if here.len() as u64 == self.page_size {
                self.check(run, page, here);
            } else {
                self.add(run, page, within as usize, here);
            }
            (at, bytes) = (at + here.len() as u64, rest);
        }
    }

    /// How many pages were checked, and those that are wrong, by file. What is left of a file that ends within
    /// a page is no page.
    pub(super) fn finish(self) -> (u64, BTreeMap<usize, WrongPages>) {
        (self.checked, self.wrong)
    }

    fn add(&mut self, run: Run<'_>, page: u64, within: usize, here: &[u8]) {
        let size = self.page_size as usize;
        let half = self.halves.entry((run.file, page)).or_insert_with(|| Half {
            bytes: vec![0; size],
            filled: 0,
        });
        half.bytes[within..within + here.len()].copy_from_slice(here);
        half.filled += here.len();
        if half.filled >= size
            && let Some(whole) = self.halves.remove(&(run.file, page))
        {
            self.check(run, page, &whole.bytes);
        }
    }

    fn check(&mut self, run: Run<'_>, page: u64, bytes: &[u8]) {
        let number = page + self.segment_pages * u64::from(run.number);
        // Numbers of blocks have 32 bits; PostgreSQL writes none beyond them.
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        match data_page::check(bytes, number) {
            PageChecksum::New => {}
            PageChecksum::Right => self.checked += 1,
            PageChecksum::Wrong { .. } if data_page::lsn(bytes) >= self.start => {}
            PageChecksum::Wrong { .. } => {
                self.checked += 1;
                let wrong = self.wrong.entry(run.file).or_insert(WrongPages {
                    first: page,
                    count: 0,
                });
                wrong.first = wrong.first.min(page);
                wrong.count += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use walvault_protocol::SystemId;
    use walvault_protocol::wal::Parameters;

    const SIZE: usize = 1024;

    fn control(data_checksums: bool) -> ControlFile {
        ControlFile {
            system_id: SystemId(1),
            version: 1300,
            page_size: SIZE as u32,
            segment_pages: 4,
            data_checksums,
            parameters: Parameters::default(),
        }
    }

    /// A page that was last changed at `lsn`.
    fn page(lsn: u32, number: u32) -> Vec<u8> {
        let mut page = vec![7; SIZE];
        page[..4].fill(0);
        page[4..8].copy_from_slice(&lsn.to_le_bytes());
        let checksum = data_page::checksum(&page, number);
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    /// Checks the second file of a relation, in runs that are cut at `cuts`, the last one first.
    fn check(content: &[u8], cuts: &[usize]) -> (u64, Option<(u64, u64)>) {
        let mut pages = Pages::new(&control(true), Lsn(1000)).expect("checksums");
        let ends = cuts.iter().copied().chain([content.len()]);
        let starts = [0].into_iter().chain(cuts.iter().copied());
        let runs: Vec<(usize, usize)> = starts.zip(ends).collect();
        for (start, end) in runs.into_iter().rev() {
            pages.take(Run {
                file: 3,
                number: 1,
                offset: start as u64,
                bytes: &content[start..end],
            });
        }
        let (checked, wrong) = pages.finish();
        (
            checked,
            wrong.get(&3).map(|wrong| (wrong.first, wrong.count)),
        )
    }

    #[test]
    fn pages_are_checked_however_they_are_cut() {
        let sound = [page(5, 4), page(5, 5), vec![0; SIZE], page(5, 7)].concat();
        let mut damaged = sound.clone();
        damaged[SIZE + 100] ^= 1;
        damaged[3 * SIZE + 1000] ^= 1;
        for cuts in [
            &[][..],
            &[SIZE],
            &[100, 200, 3 * SIZE + 5],
            &[SIZE + 1, 2 * SIZE - 1],
        ] {
            assert_eq!(check(&sound, cuts), (3, None), "{cuts:?}");
            assert_eq!(check(&damaged, cuts), (3, Some((1, 2))), "{cuts:?}");
        }
    }

    #[test]
    fn a_page_that_replay_writes_anew_may_be_torn() {
        let mut torn = page(1000, 4);
        torn[900] ^= 1;
        assert_eq!(check(&torn, &[]), (0, None));
        let mut older = page(999, 4);
        older[900] ^= 1;
        assert_eq!(check(&older, &[]), (1, Some((0, 1))));
    }

    #[test]
    fn nothing_is_checked_without_checksums() {
        assert!(Pages::new(&control(false), Lsn(0)).is_none());
    }
}
