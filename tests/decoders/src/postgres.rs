//! What a PostgreSQL server sends, or whoever answers in its place.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use walvault_protocol::auth::{ChannelBinding, Credentials, Password, Secret, Transport};
use walvault_protocol::client::ConnInfo;
use walvault_protocol::handshake::{Handshake, HandshakeStep, Startup};
use walvault_protocol::manifest::BackupManifest;
use walvault_protocol::message::{
    Frame, MAX_GREETING, MAX_MESSAGE, ResultBuilder, ServerError, backend, tag,
};
use walvault_protocol::replication::base_backup::{OpenStep, Opening};
use walvault_protocol::replication::copy_both::{DrainStep, StartStep, Starting, Streaming};
use walvault_protocol::replication::status::RawStatus;
use walvault_protocol::replication::{BackupEvent, WalMessage};
use walvault_protocol::wal::{ScanStart, WalScanner};
use walvault_protocol::{Lsn, SegmentSize, ServerVersion, SystemId, TimelineHistory, TimelineId};

/// The frames in an input, until it ends or one is refused.
fn frames(input: &[u8]) -> Vec<Frame> {
    let mut buffer = BytesMut::from(input);
    let mut frames = Vec::new();
    while let Ok(Some(frame)) = Frame::split(&mut buffer, MAX_MESSAGE) {
        frames.push(frame);
    }
    frames
}

fn timeline(id: u32) -> TimelineId {
    TimelineId::new(id).expect("not zero")
}

/// Frames, and the body of every message that is no copy's.
pub(crate) fn wire(input: &[u8]) -> bool {
    let mut buffer = BytesMut::from(input);
    if let Ok(None) = Frame::split(&mut buffer, MAX_GREETING) {
        // What is said to be missing is what a socket is then asked for.
        let missing = Frame::missing(&buffer, MAX_GREETING);
        assert!((1..=MAX_GREETING + 1).contains(&missing), "{missing}");
    }
    let mut accepted = false;
    let mut results = ResultBuilder::default();
    for frame in frames(input) {
        let _ = backend::authentication(&frame);
        let _ = backend::parameter_status(&frame);
        let _ = backend::backend_pid(&frame);
        if let (Ok(columns), true) = (
            backend::row_description(&frame),
            frame.tag == tag::ROW_DESCRIPTION,
        ) {
            assert!(columns.len() <= frame.body.len());
        }
        let _ = backend::data_row(&frame);
        if let Ok(error) = ServerError::decode(&frame) {
            let _ = (error.to_string(), error.is_transient(), error.remedy());
        }
        match results.on(&frame, "of a fuzzer") {
            Ok(result) => accepted |= result.is_some(),
            Err(_) => results = ResultBuilder::default(),
        }
    }
    accepted
}

fn begin() -> Handshake {
    let startup = Startup {
        parameters: vec![("replication", "true".to_owned())],
        credentials: Credentials {
            user: "fuzz".to_owned(),
            password: Password::Known(Arc::new(Secret::new("password".to_owned()))),
            channel_binding: ChannelBinding::Prefer,
        },
        transport: Transport::Tls(Some(vec![7; 32])),
    };
    startup.begin().expect("no zero byte").1
}

/// A login, message by message.
pub(crate) fn handshake(input: &[u8]) -> bool {
    let mut state = begin();
    for frame in frames(input) {
        state = match state.on(&frame) {
            Ok(HandshakeStep::Send(_, next) | HandshakeStep::Wait(next)) => next,
            Ok(HandshakeStep::Ready(_)) => return true,
            Err(_) => begin(),
        };
    }
    false
}

fn streaming() -> Streaming {
    let frame = Frame {
        tag: tag::COPY_BOTH_RESPONSE,
        body: Bytes::from_static(b"\0\0\0"),
    };
    match Starting::default().on(&frame) {
        Ok(StartStep::Streaming(streaming)) => streaming,
        _ => unreachable!("that is how a stream starts"),
    }
}

/// A stream of WAL: what is in its messages, and its end.
pub(crate) fn replication(input: &[u8]) -> bool {
    let mut accepted = false;
    if let Ok(message) = WalMessage::decode(Bytes::copy_from_slice(input)) {
        let mut again = BytesMut::new();
        match &message {
            WalMessage::Data(data) => {
                data.encode(&mut again);
                let _ = data.end();
            }
            WalMessage::Keepalive(keepalive) => keepalive.encode(&mut again),
            _ => {}
        }
        if !again.is_empty() {
            assert_eq!(WalMessage::decode(again.freeze()).as_ref(), Ok(&message));
            accepted = true;
        }
    }
    let _ = RawStatus::decode(input);
    let (stream, drain) = input.split_at(input.len() / 2);
    let mut state = streaming();
    for frame in frames(stream) {
        if state.on(frame).is_err() || state.has_ended() {
            state = streaming();
        }
    }
    let mut state = state.finish(&mut BytesMut::new());
    for frame in frames(drain) {
        state = match state.on(&frame) {
            Ok(DrainStep::Wait(next)) => next,
            _ => streaming().finish(&mut BytesMut::new()),
        };
    }
    accepted
}

/// The answer to `BASE_BACKUP`, in the syntax before version 15 and since.
pub(crate) fn base_backup(input: &[u8]) -> bool {
    let mut accepted = false;
    for version in [140_000, 150_000] {
        let version = ServerVersion(version);
        let mut opening = Some(Opening::new(version));
        let mut transfer = None;
        for frame in frames(input) {
            if let Some(state) = opening.take() {
                match state.on(&frame) {
                    Ok(OpenStep::Wait(next)) => opening = Some(next),
                    Ok(OpenStep::Transfer(begun)) => transfer = Some(begun),
                    Err(_) => break,
                }
            } else if let Some(state) = &mut transfer {
                match state.on(frame) {
                    Ok(event) => accepted |= matches!(event, Some(BackupEvent::Finished(_))),
                    Err(_) => break,
                }
                while state.pending().is_some() {}
            }
        }
    }
    accepted
}

/// WAL: pages and records. How it is cut changes nothing.
pub(crate) fn wal(input: &[u8]) -> bool {
    let start = ScanStart {
        system_id: SystemId(0x1122_3344_5566_7788),
        segment_size: SegmentSize::new(1 << 20).expect("a size"),
        timeline: timeline(1),
        start: Lsn(0x0010_0000),
    };
    let mut whole = WalScanner::new(start);
    let result = whole.push(input);
    let mut cut = WalScanner::new(start);
    let step = usize::from(input.first().copied().unwrap_or(0)) + 1;
    let pieces = input.chunks(step).try_for_each(|piece| cut.push(piece));
    assert_eq!(result, pieces);
    let marks = whole.take_marks();
    assert_eq!(marks, cut.take_marks());
    result.is_ok() && !marks.is_empty()
}

/// A `.history` file.
pub(crate) fn timeline_history(input: &[u8]) -> bool {
    let Ok(history) = TimelineHistory::parse(timeline(9), input) else {
        return false;
    };
    let mut before = Lsn(0);
    for switch in history.switches() {
        assert!(switch.at >= before && switch.timeline < history.timeline());
        assert_eq!(history.left_at(switch.timeline), Some(switch.at));
        before = switch.at;
    }
    assert_eq!(history.timeline_at(Lsn(u64::MAX)), timeline(9));
    true
}

/// A `backup_manifest`, which carries a checksum of itself: a wrong one is mended, to get behind it.
pub(crate) fn backup_manifest(input: &[u8]) -> bool {
    let accepted = BackupManifest::parse(input).is_ok();
    let mark = b"\"Manifest-Checksum\": \"";
    let Some(at) = input.windows(mark.len()).position(|window| window == mark) else {
        return accepted;
    };
    // PostgreSQL's manifest covers everything before this line (`AppendToManifest` in backup_manifest.c).
    let line = input[..at]
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1);
    let digest = ring::digest::digest(&ring::digest::SHA256, &input[..line]);
    let mut mended = input[..at + mark.len()].to_vec();
    for byte in digest.as_ref() {
        mended.extend_from_slice(format!("{byte:02x}").as_bytes());
    }
    mended.extend_from_slice(b"\"}\n");
    BackupManifest::parse(&mended).is_ok()
}

/// A connection string.
pub(crate) fn conninfo(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else {
        return false;
    };
    match ConnInfo::parse(text, &|_| None) {
        Ok(info) => {
            let _ = (info.endpoint(), info.user(), info.dbname());
            true
        }
        Err(error) => {
            let _ = error.to_string();
            false
        }
    }
}
