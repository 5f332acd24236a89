use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;

use super::base_backup::{OpenStep, Opening, Transfer};
use super::copy_both::{DrainStep, StartStep, Starting, StreamEvent, Streaming};
use super::status::RawStatus;
use super::*;
use crate::identity::ServerVersion;
use crate::lsn::Lsn;
use crate::message::{Frame, MAX_MESSAGE, QueryResult, tag};
use crate::timeline::TimelineId;
use crate::timestamp::PgTimestamp;

struct Durable(Lsn);

impl DurablePosition for Durable {
    fn durable(&self) -> Lsn {
        self.0
    }
}

const V14: ServerVersion = ServerVersion(140_000);
const V15: ServerVersion = ServerVersion(150_000);

fn frame(tag: u8, body: impl AsRef<[u8]>) -> Frame {
    Frame {
        tag,
        body: Bytes::copy_from_slice(body.as_ref()),
    }
}

/// The frames of a result set of text columns.
fn result_set(rows: &[&[Option<&str>]]) -> Vec<Frame> {
    let width = rows.first().map_or(0, |row| row.len());
    let count = u16::try_from(width).expect("few columns");
    let mut columns = BytesMut::new();
    columns.put_u16(count);
    for _ in 0..width {
        columns.put_slice(b"c\0");
        columns.put_slice(&[0; 6]);
        columns.put_u32(25);
        columns.put_slice(&[0; 8]);
    }
    let mut frames = vec![frame(tag::ROW_DESCRIPTION, columns)];
    for row in rows {
        let mut body = BytesMut::new();
        body.put_u16(count);
        for value in *row {
            match value {
                Some(text) => {
                    body.put_u32(u32::try_from(text.len()).expect("short"));
                    body.put_slice(text.as_bytes());
                }
                None => body.put_u32(u32::MAX),
            }
        }
        frames.push(frame(tag::DATA_ROW, body));
    }
    frames.push(frame(tag::COMMAND_COMPLETE, b"SELECT\0"));
    frames
}

#[test]
fn a_status_update_is_laid_out_as_the_manual_says() {
    let mut out = BytesMut::new();
    let status = StandbyStatus {
        write: Lsn(0x0102),
        flush: &Durable(Lsn(0x0101)),
        now: PgTimestamp(7),
        reply_requested: true,
    };
    status.encode(&mut out);
    let mut expected = vec![b'd', 0, 0, 0, 38, b'r'];
    for field in [0x0102u64, 0x0101, 0, 7] {
        expected.extend_from_slice(&field.to_be_bytes());
    }
    expected.push(1);
    assert_eq!(out, expected);
    let framed = Frame::split(&mut out, MAX_MESSAGE)
        .expect("a length")
        .expect("whole");
    let raw = RawStatus::decode(&framed.body).expect("a status");
    assert_eq!(
        (raw.write, raw.flush, raw.apply),
        (Lsn(0x0102), Lsn(0x0101), Lsn::INVALID)
    );
}

#[test]
fn slot_names_are_postgresqls() {
    for name in ["a", "walvault_1", &"x".repeat(63)] {
        assert!(SlotName::new(name).is_ok(), "{name}");
    }
    for name in ["", "Walvault", "a-b", "a\"b", "ä", &"x".repeat(64)] {
        assert!(SlotName::new(name).is_err(), "{name}");
    }
}

#[test]
fn commands_are_written_as_the_version_reads_them() {
    let slot = SlotName::new("physical").expect("a name");
    let options = SlotOptions {
        temporary: true,
        reserve_wal: true,
    };
    assert_eq!(
        command::create_physical_slot(V14, &slot, options),
        "CREATE_REPLICATION_SLOT \"physical\" TEMPORARY PHYSICAL RESERVE_WAL"
    );
    assert_eq!(
        command::create_physical_slot(V15, &slot, options),
        "CREATE_REPLICATION_SLOT \"physical\" TEMPORARY PHYSICAL (RESERVE_WAL)"
    );
    assert_eq!(
        command::start_replication(Some(&slot), Lsn(0x1_0000_0028), TimelineId::FIRST),
        "START_REPLICATION SLOT \"physical\" PHYSICAL 1/28 TIMELINE 1"
    );
    assert_eq!(
        command::show("wal_segment_size").as_deref(),
        Some("SHOW wal_segment_size")
    );
    assert_eq!(command::show("a.b").as_deref(), Some("SHOW a.b"));
    for name in ["", "a b", "a;b", "1a", "a."] {
        assert_eq!(command::show(name), None, "{name}");
    }
    let backup = BaseBackupOptions {
        label: "it's".to_owned(),
        fast_checkpoint: true,
        max_rate_kib: Some(1024),
        verify_checksums: false,
        ..BaseBackupOptions::default()
    };
    assert_eq!(
        backup.command(V14),
        "BASE_BACKUP LABEL 'it''s' PROGRESS FAST NOWAIT TABLESPACE_MAP NOVERIFY_CHECKSUMS \
         MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C' MAX_RATE 1024"
    );
    assert_eq!(
        backup.command(V15),
        "BASE_BACKUP (LABEL 'it''s', PROGRESS true, CHECKPOINT 'fast', WAL false, WAIT false, \
         TABLESPACE_MAP true, VERIFY_CHECKSUMS false, MAX_RATE 1024, MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C')"
    );
}

#[test]
fn a_slot_that_does_not_exist_is_told_from_one_without_a_position() {
    let read = |row: Vec<Option<&'static str>>| {
        let row = row
            .into_iter()
            .map(|text| text.map(|text| Bytes::from_static(text.as_bytes())));
        let result = QueryResult {
            rows: vec![row.collect()],
            ..QueryResult::default()
        };
        SlotPosition::from_result(&result)
    };
    assert_eq!(read(vec![None, None, None]), Ok(None));
    let position = |restart_lsn, timeline| {
        Ok(Some(SlotPosition {
            restart_lsn,
            timeline,
        }))
    };
    assert_eq!(
        read(vec![Some("physical"), None, None]),
        position(None, None)
    );
    assert_eq!(
        read(vec![Some("physical"), Some("0/10"), Some("1")]),
        position(Some(Lsn(16)), Some(TimelineId::FIRST))
    );
    assert!(read(vec![Some("physical"), Some("nowhere"), Some("1")]).is_err());
}

#[test]
fn history_is_taken_raw_and_undone_only_where_it_is_hexadecimal() {
    let read = |type_oid, content: &'static str| {
        HistoryFile::from_result(&QueryResult {
            columns: vec!["filename".to_owned(), "content".to_owned()],
            types: vec![25, type_oid],
            rows: vec![vec![Some("00000002.history".into()), Some(content.into())]],
        })
        .map(|file| file.content)
    };
    assert_eq!(read(25, "1\t0/5\tr\n"), Ok(Bytes::from("1\t0/5\tr\n")));
    assert_eq!(read(17, "1\t0/5\tr\n"), Ok(Bytes::from("1\t0/5\tr\n")));
    assert_eq!(read(17, "\\x310a"), Ok(Bytes::from("1\n")));
    assert!(read(17, "\\x31é").is_err() && read(17, "\\x3").is_err());
}

fn streaming() -> Streaming {
    match Starting::default().on(&frame(tag::COPY_BOTH_RESPONSE, b"\0\0\0")) {
        Ok(StartStep::Streaming(streaming)) => streaming,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stream_ends_with_the_next_timeline() {
    let mut stream = streaming();
    let ended = stream.on(frame(tag::COPY_DONE, b"")).expect("an event");
    assert!(matches!(
        ended,
        StreamEvent::Message(WalMessage::EndOfTimeline)
    ));
    let mut out = BytesMut::new();
    let mut state = stream.finish(&mut out);
    assert_eq!(out, &b"c\0\0\0\x04"[..]);
    for frame in result_set(&[&[Some("2"), Some("0/30")]]) {
        state = match state.on(&frame) {
            Ok(DrainStep::Wait(next)) => next,
            other => panic!("{other:?}"),
        };
    }
    let end = match state.on(&frame(tag::READY_FOR_QUERY, b"I")) {
        Ok(DrainStep::Ready(end)) => end.expect("the timeline ended"),
        other => panic!("{other:?}"),
    };
    assert_eq!((end.next.get(), end.at), (2, Lsn(0x30)));
}

#[test]
fn wal_on_its_way_is_dropped_when_we_end_the_stream() {
    let mut state = streaming().finish(&mut BytesMut::new());
    for frame in [
        frame(tag::COPY_DATA, b"w"),
        frame(tag::COPY_DONE, b""),
        frame(tag::COMMAND_COMPLETE, b"START_REPLICATION\0"),
    ] {
        state = match state.on(&frame) {
            Ok(DrainStep::Wait(next)) => next,
            other => panic!("{other:?}"),
        };
    }
    assert!(matches!(
        state.on(&frame(tag::READY_FOR_QUERY, b"I")),
        Ok(DrainStep::Ready(None))
    ));
}

/// A backup of one tablespace and the data directory, up to where the archives begin.
fn transfer(version: ServerVersion) -> Transfer {
    let mut state = Opening::new(version);
    let mut frames = result_set(&[&[Some("0/28"), Some("1")]]);
    frames.extend(result_set(&[
        &[Some("16385"), Some("/mnt/fast"), Some("10")],
        &[None, None, None],
    ]));
    for frame in frames {
        state = match state.on(&frame).expect("part of the answer") {
            OpenStep::Wait(next) => next,
            OpenStep::Transfer(transfer) => return transfer,
        };
    }
    panic!("the answer is complete");
}

fn events(mut transfer: Transfer, frames: Vec<Frame>) -> Vec<BackupEvent> {
    frames
        .into_iter()
        .filter_map(|frame| transfer.on(frame).expect("part of the backup"))
        .collect()
}

#[test]
fn a_backup_gives_the_same_events_on_every_version() {
    let end = || {
        let mut frames = result_set(&[&[Some("0/100"), Some("1")]]);
        frames.push(frame(tag::COMMAND_COMPLETE, b"BASE_BACKUP\0"));
        frames.push(frame(tag::READY_FOR_QUERY, b"I"));
        frames
    };
    let mut old = Vec::new();
    for body in ["tar one", "tar two", "manifest"] {
        old.push(frame(tag::COPY_OUT_RESPONSE, b"\0\0\0"));
        old.push(frame(tag::COPY_DATA, body));
        old.push(frame(tag::COPY_DATA, b""));
        old.push(frame(tag::COPY_DONE, b""));
    }
    old.extend(end());
    let mut new = vec![frame(tag::COPY_OUT_RESPONSE, b"\0\0\0")];
    for body in [
        &b"n16385.tar\0/mnt/fast\0"[..],
        b"dtar one",
        b"d",
        b"nbase.tar\0\0",
        b"dtar two",
        b"m",
        b"dmanifest",
    ] {
        new.push(frame(tag::COPY_DATA, body));
    }
    new.push(frame(tag::COPY_DONE, b""));
    new.extend(end());

    let expected = [
        BackupEvent::ArchiveStart { index: 0 },
        BackupEvent::Data("tar one".into()),
        BackupEvent::ArchiveStart { index: 1 },
        BackupEvent::Data("tar two".into()),
        BackupEvent::ManifestStart,
        BackupEvent::ManifestData("manifest".into()),
        BackupEvent::Finished(BackupEnd {
            lsn: Lsn(0x100),
            timeline: TimelineId::FIRST,
        }),
    ];
    assert_eq!(events(transfer(V14), old), expected);
    assert_eq!(events(transfer(V15), new), expected);
}

#[test]
fn progress_is_reported_on_every_version() {
    let mut new = transfer(V15);
    let report = new.on(frame(tag::COPY_DATA, b"p\0\0\0\0\0\0\x01\x02"));
    assert_eq!(report, Ok(Some(BackupEvent::Progress(0x0102))));
    let mut old = transfer(V14);
    old.on(frame(tag::COPY_OUT_RESPONSE, b"\0\0\0"))
        .expect("an archive");
    old.on(frame(tag::COPY_DATA, vec![0; 16 << 20]))
        .expect("data");
    assert_eq!(old.pending(), Some(BackupEvent::Progress(16 << 20)));
    assert_eq!(old.pending(), None);
}

#[test]
fn a_backup_without_all_its_archives_does_not_finish() {
    let mut transfer = transfer(V15);
    for frame in result_set(&[&[Some("0/100"), Some("1")]]) {
        transfer.on(frame).expect("the end position");
    }
    assert!(transfer.on(frame(tag::READY_FOR_QUERY, b"I")).is_err());
}

proptest! {
    #[test]
    fn wal_messages_round_trip(start: u64, server_end: u64, sent_at: i64, reply_requested: bool, bytes: Vec<u8>) {
        let (server_end, sent_at) = (Lsn(server_end), PgTimestamp(sent_at));
        let data = WalData { start: Lsn(start), server_end, sent_at, bytes: bytes.into() };
        let mut out = BytesMut::new();
        data.encode(&mut out);
        prop_assert_eq!(WalMessage::decode(out.freeze()), Ok(WalMessage::Data(data)));
        let keepalive = Keepalive { server_end, sent_at, reply_requested };
        let mut out = BytesMut::new();
        keepalive.encode(&mut out);
        prop_assert_eq!(WalMessage::decode(out.freeze()), Ok(WalMessage::Keepalive(keepalive)));
    }

    #[test]
    fn no_bytes_panic(
        bodies in prop::collection::vec((0usize..9, prop::collection::vec(any::<u8>(), 0..40)), 0..20),
    ) {
        let tags = [b'd', b'c', b'H', b'W', b'T', b'D', b'C', b'Z', b'?'];
        let frames = || bodies.iter().map(|(index, body)| frame(tags[*index], body));
        for (_, body) in &bodies {
            let _ = WalMessage::decode(Bytes::copy_from_slice(body));
            let _ = RawStatus::decode(body);
        }
        for version in [V14, V15] {
            let mut opening = Opening::new(version);
            for frame in frames() {
                opening = match opening.on(&frame) {
                    Ok(OpenStep::Wait(next)) => next,
                    _ => Opening::new(version),
                };
            }
            let mut transfer = transfer(version);
            for frame in frames() {
                let _ = transfer.on(frame);
            }
        }
        let mut stream = streaming();
        for frame in frames() {
            let _ = stream.on(frame);
        }
        let mut drain = stream.finish(&mut BytesMut::new());
        for frame in frames() {
            drain = match drain.on(&frame) {
                Ok(DrainStep::Wait(next)) => next,
                _ => streaming().finish(&mut BytesMut::new()),
            };
        }
    }
}
