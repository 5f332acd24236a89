use bytes::Bytes;
use proptest::prelude::*;
use tar::{Builder, Header};
use walvault_archive::record::Extent;

use super::super::input::{Piece, pipe};
use super::*;

/// Parts in memory.
#[derive(Default)]
struct Parts(Vec<Vec<u8>>);

impl Contents for Parts {
    fn write(&mut self, part: u32, bytes: &[u8]) -> io::Result<()> {
        let part = part as usize;
        assert!(
            part + 1 == self.0.len() || part == self.0.len(),
            "parts begin in order"
        );
        self.0.resize_with(part + 1, Vec::new);
        self.0[part].extend_from_slice(bytes);
        Ok(())
    }
}

impl Parts {
    fn assemble(&self, extents: &[Extent]) -> Vec<u8> {
        let bytes = |extent: &Extent| {
            let (start, end) = (
                extent.offset as usize,
                (extent.offset + extent.length) as usize,
            );
            self.0[extent.part as usize][start..end].to_vec()
        };
        extents.iter().flat_map(bytes).collect()
    }
}

/// Sends archives as the server does, in messages of `message` bytes with an empty one before each.
fn read_archives(
    archives: Vec<(Root, Vec<u8>)>,
    message: usize,
    end_mark: EndMark,
    part_size: u64,
) -> Result<(Vec<FileRecord>, Parts), BackupError> {
    let (sender, mut input) = pipe();
    let server = std::thread::spawn(move || {
        let send = |piece| sender.blocking_send(piece).is_ok();
        for (root, bytes) in archives {
            send(Piece::Archive(root));
            for chunk in bytes.chunks(message) {
                send(Piece::Data(Bytes::new().into()));
                if !send(Piece::Data(Bytes::copy_from_slice(chunk).into())) {
                    return;
                }
            }
            send(Piece::Data(Bytes::new().into()));
        }
        send(Piece::End);
    });
    let mut parts = Parts::default();
    let files = read(&mut input, end_mark, part_size, &mut parts);
    drop(input);
    server.join().unwrap();
    Ok((files?, parts))
}

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(if kind == EntryType::Directory {
        0o40700
    } else {
        0o600
    });
    header.set_mtime(1_700_000_000);
    header.set_size(size);
    header
}

fn tar_of(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = Header::new_gnu();
        header.set_mode(0o600);
        header.set_size(content.len() as u64);
        builder
            .append_data(&mut header, path, content.as_slice())
            .unwrap();
    }
    builder.into_inner().unwrap()
}

/// An archive with one entry whose header is written by hand, as a raw name and no check of it.
fn tar_raw(name: &[u8], mut header: Header, content: &[u8]) -> Vec<u8> {
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.set_cksum();
    let mut tar = header.as_bytes().to_vec();
    tar.extend_from_slice(content);
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    tar
}

fn read_one(tar: Vec<u8>) -> Result<Vec<FileRecord>, BackupError> {
    read_archives(
        vec![(Root::DataDirectory, tar)],
        1000,
        EndMark::Required,
        4096,
    )
    .map(|(files, _)| files)
}

fn content(size: usize, seed: u8) -> Vec<u8> {
    (0..size)
        .map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the sizes, however the stream is cut: each file comes back whole, with its checksum.
    #[test]
    fn files_come_back(
        sizes in prop::collection::vec(prop_oneof![0usize..5, 90usize..110, 500usize..530, 0usize..5000], 1..30),
        tablespace in prop::collection::vec(0usize..700, 0..10),
        message in 1usize..3000,
        part_size in prop_oneof![Just(1u64), Just(100), Just(512), 1u64..10_000],
    ) {
        let files = |sizes: &[usize], directory: &str| -> Vec<(String, Vec<u8>)> {
            let file = |(at, size): (usize, &usize)| (format!("{directory}/{at}"), content(*size, at as u8));
            sizes.iter().enumerate().map(file).collect()
        };
        let base = files(&sizes, "base/5");
        let space = files(&tablespace, "PG_15_202209061/5");
        let archives = vec![(Root::DataDirectory, tar_of(&base)), (Root::Tablespace(16385), tar_of(&space))];
        let (read, parts) = read_archives(archives, message, EndMark::Required, part_size).unwrap();

        let space = space.into_iter().map(|(path, content)| (format!("pg_tblspc/16385/{path}"), content));
        let expected: Vec<_> = base.into_iter().chain(space).collect();
        prop_assert_eq!(read.len(), expected.len());
        for (file, (path, content)) in read.iter().zip(&expected) {
            prop_assert_eq!(file.path.to_string(), path.as_str());
            prop_assert_eq!(file.size, content.len() as u64);
            prop_assert_eq!(file.crc32c, Some(crc32c::crc32c(content)));
            prop_assert_eq!(&parts.assemble(&file.extents), content);
        }
        let (last, full) = parts.0.split_last().map_or((0, &[][..]), |(last, full)| (last.len(), full));
        prop_assert!(full.iter().all(|part| part.len() as u64 == part_size));
        prop_assert!(last as u64 <= part_size);
    }

    /// Cut anywhere, an archive is refused: in a header, in contents, in padding, before its end mark.
    #[test]
    fn a_cut_archive_is_refused(sizes in prop::collection::vec(0usize..2000, 1..6), cut in 0.0f64..1.0) {
        let files: Vec<_> = sizes.iter().enumerate().map(|(at, size)| (format!("f{at}"), content(*size, 7))).collect();
        let mut tar = tar_of(&files);
        // Half an end mark is as good as a whole one.
        tar.truncate(((tar.len() - 1024) as f64 * cut) as usize);
        let refused = matches!(read_one(tar), Err(BackupError::Tar { .. }));
        prop_assert!(refused);
    }

    /// Bytes that are no tar archive never panic.
    #[test]
    fn noise_is_refused(noise in prop::collection::vec(any::<u8>(), 1..4000)) {
        prop_assert!(read_one(noise).is_err());
    }
}

#[test]
fn thousands_of_small_files_share_parts() {
    let files: Vec<_> = (0..5000)
        .map(|at| (format!("base/1/{at}"), content(at % 40, at as u8)))
        .collect();
    let (read, parts) = read_archives(
        vec![(Root::DataDirectory, tar_of(&files))],
        32 << 10,
        EndMark::Required,
        16 << 10,
    )
    .unwrap();
    let total: usize = files.iter().map(|(_, content)| content.len()).sum();
    assert_eq!(parts.0.len(), total.div_ceil(16 << 10));
    for (file, (_, content)) in read.iter().zip(&files) {
        assert_eq!(&parts.assemble(&file.extents), content);
    }
}

#[test]
fn directories_and_links_have_no_contents() {
    let mut builder = Builder::new(Vec::new());
    let mut directory = header(EntryType::Directory, 0);
    builder
        .append_data(&mut directory, "pg_wal/archive_status/", io::empty())
        .unwrap();
    let mut link = header(EntryType::Symlink, 0);
    builder
        .append_link(&mut link, "pg_tblspc/16385", "/mnt/fast disk")
        .unwrap();
    let mut top = header(EntryType::Directory, 0);
    builder.append_data(&mut top, "./", io::empty()).unwrap();
    let files = read_one(builder.into_inner().unwrap()).unwrap();

    let seen: Vec<_> = files
        .iter()
        .map(|file| (file.path.to_string(), file.kind.clone(), file.crc32c))
        .collect();
    assert_eq!(
        seen,
        [
            (
                "pg_wal/archive_status".to_owned(),
                FileKind::Directory,
                None
            ),
            (
                "pg_tblspc/16385".to_owned(),
                FileKind::Symlink("/mnt/fast disk".to_owned()),
                None
            ),
        ]
    );
    assert_eq!(files[0].mode, 0o700);
    assert_eq!(files[0].mtime, 1_700_000_000);
}

/// The number is tar's base-256 form, which PostgreSQL writes for sizes beyond 8 GiB
/// (`print_tar_number` in `port/tar.c`). A small one shows the form without the gigabytes.
#[test]
fn sizes_in_base_256_are_understood() {
    let base_256 = |size: u64| {
        let mut header = header(EntryType::Regular, 0);
        let field = &mut header.as_mut_bytes()[124..136];
        field.fill(0);
        field[0] = 0x80;
        field[4..].copy_from_slice(&size.to_be_bytes());
        header
    };
    let files = read_one(tar_raw(b"base/5/16384", base_256(700), &content(700, 1))).unwrap();
    assert_eq!(files[0].size, 700);
    assert_eq!(files[0].crc32c, Some(crc32c::crc32c(&content(700, 1))));

    // And one beyond 8 GiB that is cut says how much is missing.
    let error = read_one(tar_raw(b"base/5/16384", base_256(9 << 30), &[]))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("'base/5/16384'") && error.contains("lacks its last 966367"),
        "{error}"
    );
}

#[test]
fn long_names_are_understood() {
    let name = format!("base/{}/{}", "d".repeat(90), "f".repeat(150));
    let files = read_one(tar_of(&[(name.clone(), b"x".to_vec())])).unwrap();
    assert_eq!(files.len(), 1);
    assert_eq!(files[0].path.to_string(), name);
}

#[test]
fn names_that_are_not_utf_8_are_kept() {
    let files = read_one(tar_raw(b"caf\xe9", header(EntryType::Regular, 1), b"x")).unwrap();
    assert_eq!(files[0].path.to_bytes().unwrap(), b"caf\xe9");
}

#[test]
fn nothing_leads_out_of_the_data_directory() {
    for name in [&b"/etc/passwd"[..], b"../x", b"base/../../x", b"base/.."] {
        let error = read_one(tar_raw(name, header(EntryType::Regular, 1), b"x")).unwrap_err();
        assert!(matches!(error, BackupError::Entry { .. }), "{error}");
    }
    for kind in [
        EntryType::Fifo,
        EntryType::Block,
        EntryType::Link,
        EntryType::Char,
    ] {
        let error = read_one(tar_raw(b"base/5/1", header(kind, 0), b"")).unwrap_err();
        assert!(
            error.to_string().contains("'base/5/1', which is neither"),
            "{error}"
        );
    }
}

#[test]
fn what_follows_the_end_mark_is_refused() {
    let mut tar = tar_of(&[("a".to_owned(), b"x".to_vec())]);
    tar.extend_from_slice(&[0; 4096]);
    assert_eq!(read_one(tar.clone()).unwrap().len(), 1);
    tar.extend_from_slice(b"more");
    assert!(
        read_one(tar)
            .unwrap_err()
            .to_string()
            .contains("follow its end mark")
    );
}

/// As servers before 15 send it.
#[test]
fn the_end_mark_may_be_left_out() {
    let mut tar = tar_of(&[
        ("a".to_owned(), b"x".to_vec()),
        ("b".to_owned(), Vec::new()),
    ]);
    tar.truncate(tar.len() - 1024);
    let left_out = read_archives(
        vec![(Root::DataDirectory, tar.clone())],
        512,
        EndMark::LeftOut,
        100,
    );
    assert_eq!(left_out.unwrap().0.len(), 2);
    assert!(
        read_one(tar)
            .unwrap_err()
            .to_string()
            .contains("its end mark is missing")
    );
}

#[test]
fn a_stream_that_stops_is_not_an_end() {
    let (sender, mut input) = pipe();
    let tar = tar_of(&[("a".to_owned(), b"x".to_vec())]);
    std::thread::spawn(move || {
        sender
            .blocking_send(Piece::Archive(Root::DataDirectory))
            .unwrap();
        sender
            .blocking_send(Piece::Data(Bytes::from(tar).into()))
            .unwrap();
    });
    let read = read(&mut input, EndMark::Required, 100, &mut Parts::default());
    assert!(read.unwrap_err().to_string().contains("the stream was cut"));
}

#[test]
fn bytes_outside_of_an_archive_are_refused() {
    let (sender, mut input) = pipe();
    sender
        .try_send(Piece::Data(Bytes::from_static(b"x").into()))
        .unwrap();
    let read = read(&mut input, EndMark::Required, 100, &mut Parts::default());
    assert!(
        read.unwrap_err()
            .to_string()
            .contains("outside of any archive")
    );
}
