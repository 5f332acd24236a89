use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;

use super::*;

fn put(out: &mut BytesMut, tag: u8, body: &[u8]) {
    out.put_u8(tag);
    out.put_u32(u32::try_from(body.len() + 4).expect("a short body"));
    out.put_slice(body);
}

fn frame(tag: u8, body: &[u8]) -> Frame {
    Frame {
        tag,
        body: Bytes::copy_from_slice(body),
    }
}

proptest! {
    #[test]
    fn frames_come_out_as_they_went_in_however_they_arrive(
        bodies in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..300)), 0..8),
        piece in 1usize..50,
    ) {
        let mut wire = BytesMut::new();
        for (tag, body) in &bodies {
            put(&mut wire, *tag, body);
        }
        let mut input = BytesMut::new();
        let mut seen = Vec::new();
        for arrived in wire.chunks(piece) {
            input.extend_from_slice(arrived);
            while let Some(frame) = Frame::split(&mut input, MAX_MESSAGE).expect("well formed") {
                seen.push((frame.tag, frame.body.to_vec()));
            }
            prop_assert!(Frame::missing(&input, MAX_MESSAGE) >= 1);
        }
        prop_assert_eq!(seen, bodies);
        prop_assert!(input.is_empty());
    }

    #[test]
    fn decoders_never_panic(tag: u8, body: Vec<u8>) {
        for tag in [tag, b'R', b'S', b'K', b'T', b'D', b'E'] {
            let frame = frame(tag, &body);
            let _ = backend::authentication(&frame);
            let _ = backend::parameter_status(&frame);
            let _ = backend::backend_pid(&frame);
            let _ = backend::row_description(&frame);
            let _ = backend::data_row(&frame);
            let _ = ServerError::decode(&frame);
            let _ = ResultBuilder::default().on(&frame, "here");
            let _ = Frame::split(&mut BytesMut::from(&body[..]), MAX_GREETING);
        }
    }
}

#[test]
fn a_length_beyond_the_limit_is_refused_before_it_arrives() {
    let mut input = BytesMut::from(&b"E\xFF\xFF\xFF\xFF"[..]);
    assert!(Frame::split(&mut input, MAX_GREETING).is_err());
    let mut input = BytesMut::from(&b"E\x00\x00\x00\x03"[..]);
    assert!(Frame::split(&mut input, MAX_GREETING).is_err());
}

#[test]
fn an_error_says_what_to_do() {
    let body = b"SFEHLER\0VFATAL\0C53300\0Mtoo many\0Dmore\0Hless\0\0";
    let error = ServerError::decode(&frame(b'E', body)).expect("an error");
    assert!(error.is_fatal() && error.is_transient());
    assert_eq!(
        error.to_string(),
        "FATAL 53300: too many (more); less; raise max_wal_senders (where it is 0, wal_level is minimal: \
         set it to replica) or max_connections, or close connections that are not needed"
    );
}

#[test]
fn a_file_that_the_server_may_not_read_is_no_missing_right_of_the_role() {
    let error = |message: &str| {
        let body = format!("VERROR\0C42501\0M{message}\0\0");
        let error = ServerError::decode(&frame(b'E', body.as_bytes())).expect("an error");
        error.to_string()
    };
    let file = error("could not open directory \"./lost+found\": Permission denied");
    assert!(
        file.contains("chown") && !file.contains("ALTER ROLE"),
        "{file}"
    );
    let right = error("permission denied to start WAL sender");
    assert!(right.contains("ALTER ROLE <user> REPLICATION"), "{right}");
}

#[test]
fn results_keep_nulls_apart_from_empty_values() {
    let mut builder = ResultBuilder::default();
    let mut columns = BytesMut::new();
    columns.put_u16(2);
    for name in [b"a\0", b"b\0"] {
        columns.put_slice(name);
        columns.put_slice(&[0; 6]);
        columns.put_u32(25);
        columns.put_slice(&[0; 8]);
    }
    let row = b"\0\x02\xFF\xFF\xFF\xFF\0\0\0\0";
    assert_eq!(builder.on(&frame(b'T', &columns), "here"), Ok(None));
    assert_eq!(builder.on(&frame(b'D', row), "here"), Ok(None));
    let result = builder.on(&frame(b'C', b"SELECT 1\0"), "here");
    let result = result.expect("no error").expect("a result");
    assert_eq!(result.columns, ["a", "b"]);
    assert_eq!(result.rows, [[None, Some(Bytes::new())]]);
    assert_eq!(
        (result.text(0, 0), result.text(0, 1), result.text(1, 0)),
        (None, Some(""), None)
    );
}
