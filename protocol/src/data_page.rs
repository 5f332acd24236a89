//! Data pages: which files hold them, and whether each carries the checksum of its content.
//!
//! The checksum is that of `src/include/storage/checksum_impl.h`: 32 parallel FNV-1a hashes with a shift mixed in, folded
//! together, with the page's number so that a page in another's place is noticed.

use crate::lsn::Lsn;

/// How many hashes run side by side, `N_SUMS`.
const LANES: usize = 32;

/// Bytes that all of them take in one step.
const STRIDE: usize = LANES * 4;

/// `FNV_PRIME`.
const PRIME: u32 = 16_777_619;

/// `checksumBaseOffsets`: where each hash begins.
const OFFSETS: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// Where `pd_checksum` lies in `PageHeaderData`.
const CHECKSUM_AT: usize = 8;

/// Where `pd_upper` lies.
const UPPER_AT: usize = 14;

/// How a page stands to its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageChecksum {
    /// Nothing was written into it yet (`PageIsNew`): it carries none.
    New,
    /// It carries the right one.
    Right,
    /// It carries another than its content has.
    Wrong {
        /// What it carries.
        carried: u16,
        /// What its content has.
        computed: u16,
    },
}

/// Checks a page; `number` is its number within its relation's fork, over all the fork's files. A page's
/// size is a multiple of 128 bytes; what is shorter counts as wrong.
#[must_use]
pub fn check(page: &[u8], number: u32) -> PageChecksum {
    if u16_at(page, UPPER_AT) == 0 {
        return PageChecksum::New;
    }
    let (carried, computed) = (u16_at(page, CHECKSUM_AT), checksum(page, number));
    match carried == computed {
        true => PageChecksum::Right,
        false => PageChecksum::Wrong { carried, computed },
    }
}

/// `pg_checksum_page`: the checksum of a page with `pd_checksum` taken as zero. Never zero itself.
#[must_use]
pub fn checksum(page: &[u8], number: u32) -> u16 {
    let mut hashes = OFFSETS;
    for (step, stride) in page.chunks_exact(STRIDE).enumerate() {
        let mut values = [0; LANES];
        let (words, _) = stride.as_chunks::<4>();
        for (value, word) in values.iter_mut().zip(words) {
            *value = u32::from_le_bytes(*word);
        }
        if step == 0 {
            // Its lower half; `pd_flags` shares the word.
            values[CHECKSUM_AT / 4] &= 0xFFFF_0000;
        }
        mix(&mut hashes, &values);
    }
    for _ in 0..2 {
        mix(&mut hashes, &[0; LANES]);
    }
    let folded = hashes.iter().fold(number, |all, hash| all ^ hash);
    // The remainder is below 65535, so that this fits.
    (folded % 65_535) as u16 + 1
}

fn mix(hashes: &mut [u32; LANES], values: &[u32; LANES]) {
    for (hash, value) in hashes.iter_mut().zip(values) {
        let mixed = *hash ^ value;
        *hash = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    }
}

/// `pd_lsn`: the end of the last record that changed the page. Its halves are stored the higher first.
#[must_use]
pub fn lsn(page: &[u8]) -> Lsn {
    let half = |at: usize| u64::from(u16_at(page, at)) | u64::from(u16_at(page, at + 2)) << 16;
    Lsn(half(0) << 32 | half(4))
}

/// The number of the file among its fork's, where a path relative to the data directory is one of a
/// relation's files: `base/5/1259` is 0, `base/5/1259_vm.2` is 2. As `parse_filename_for_nontemp_relation`
/// of `src/backend/storage/file/reinit.c` has it, and in the directories that hold relations only.
#[must_use]
pub fn file_number(path: &str) -> Option<u32> {
    let mut folders = path.split('/');
    let name = folders.next_back()?;
    let holds_relations = match (folders.next()?, folders.next()) {
        ("global", None) => true,
        ("base", Some(database)) => is_number(database) && folders.next().is_none(),
        ("pg_tblspc", Some(_)) => {
            // pg_tblspc/<oid>/PG_<version>/<database>
            let database = folders.nth(1);
            database.is_some_and(is_number) && folders.next().is_none()
        }
        _ => false,
    };
    if !holds_relations {
        return None;
    }
    let (fork, number) = match name.split_once('.') {
        Some((fork, number)) if is_number(number) => (fork, number.parse().ok()?),
        Some(_) => return None,
        None => (name, 0),
    };
    let known = match fork.split_once('_') {
        Some((relation, fork)) => is_number(relation) && matches!(fork, "fsm" | "vm" | "init"),
        None => is_number(fork),
    };
    known.then_some(number)
}

/// Digits without a leading zero, as OIDs and numbers of files are spelled.
fn is_number(text: &str) -> bool {
    !text.is_empty() && !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Zero where the page is too short to have it.
fn u16_at(page: &[u8], at: usize) -> u16 {
    let field = page.get(at..).and_then(|rest| rest.first_chunk());
    field.copied().map_or(0, u16::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Vec<u8> {
        let mut page: Vec<u8> = (0..8192u32).map(|n| (n * 7 % 251) as u8).collect();
        let checksum = checksum(&page, 17);
        page[CHECKSUM_AT..][..2].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    #[test]
    fn any_altered_byte_and_any_other_place_is_noticed() {
        let sound = page();
        assert_eq!(check(&sound, 17), PageChecksum::Right);
        assert!(matches!(check(&sound, 18), PageChecksum::Wrong { .. }));
        for at in (0..sound.len()).step_by(97).chain([8, 9, 14, 8191]) {
            let mut altered = sound.clone();
            altered[at] ^= 0x10;
            assert!(
                matches!(check(&altered, 17), PageChecksum::Wrong { .. }),
                "byte {at}"
            );
        }
    }

    #[test]
    fn an_unused_page_carries_none() {
        assert_eq!(check(&[0; 8192], 3), PageChecksum::New);
        assert_eq!(check(&[], 3), PageChecksum::New);
    }

    #[test]
    fn the_higher_half_of_the_lsn_comes_first() {
        let mut page = vec![0; 8192];
        page[..8].copy_from_slice(&[1, 0, 0, 0, 0x28, 0, 0, 3]);
        assert_eq!(lsn(&page), Lsn(0x1_0300_0028));
    }

    #[test]
    fn files_of_relations_are_told_by_their_names() {
        for (path, number) in [
            ("base/5/1259", 0),
            ("base/5/1259_fsm", 0),
            ("base/5/1259_vm.2", 2),
            ("base/16384/16385.131", 131),
            ("global/1262", 0),
            ("pg_tblspc/16386/PG_15_202209061/5/16387_init", 0),
        ] {
            assert_eq!(file_number(path), Some(number), "{path}");
        }
        for path in [
            "global/pg_control",
            "global/pg_filenode.map",
            "base/5/pg_internal.init",
            "base/5/PG_VERSION",
            "base/5/t3_16385",
            "base/5/1259_foo",
            "base/5/1259.",
            "base/5/1259.1.2",
            "base/pgsql_tmp/16385",
            "pg_xact/0000",
            "pg_wal/000000010000000000000001",
            "1259",
            "",
        ] {
            assert_eq!(file_number(path), None, "{path}");
        }
    }
}
