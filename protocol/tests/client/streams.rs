//! Streaming WAL.

use std::fs;
use std::time::{Duration, SystemTime};

use walvault_harness::cache::installed_majors;
use walvault_harness::{Shutdown, Signal, needs_servers};
use walvault_protocol::client::{
    ClientError, DurablePosition, StandbyStatus, StartReplication, WalMessage, WalStream,
};
use walvault_protocol::segment::{SegmentNumber, segment_name};
use walvault_protocol::{Lsn, PgTimestamp, SegmentSize, TimelineHistory, TimelineId};

use super::server::{Server, eventually};
use super::{RESERVED, slot};

struct Durable(Lsn);

impl DurablePosition for Durable {
    fn durable(&self) -> Lsn {
        self.0
    }
}

fn status(durable: &Durable) -> StandbyStatus<'_, Durable> {
    StandbyStatus {
        write: durable.0,
        flush: durable,
        now: PgTimestamp::from(SystemTime::now()),
        reply_requested: false,
    }
}

async fn stream(server: &Server, start: Lsn, timeline: TimelineId) -> WalStream {
    let session = server.replication().await;
    match session.start_replication(None, start, timeline).await {
        Ok(StartReplication::Streaming(stream)) => stream,
        Ok(StartReplication::TimelineEnded(_, end)) => panic!("ended at {}", end.at),
        Err(error) => panic!("{error}"),
    }
}

/// Receives until `end`, abandoning the wait again and again; the bytes, which must be
/// contiguous from `start`.
async fn receive(stream: &mut WalStream, start: Lsn, end: Lsn) -> Vec<u8> {
    let mut received = Vec::new();
    while start + (received.len() as u64) < end {
        let message = match stream.try_next().expect("a message") {
            Some(message) => message,
            None => match tokio::time::timeout(Duration::from_micros(50), stream.next()).await {
                Ok(message) => message.expect("a message"),
                Err(_) => continue,
            },
        };
        if let WalMessage::Data(data) = message {
            assert_eq!(data.start, start + received.len() as u64);
            assert!(data.server_end >= data.start);
            received.extend_from_slice(&data.bytes);
        }
    }
    received
}

#[tokio::test]
#[needs_servers]
async fn what_is_streamed_is_what_lies_in_pg_wal() {
    let server = Server::start().await;
    let mut sql = server.sql().await;
    let mut session = server.replication().await;
    let name = slot("vault");
    session
        .create_physical_slot(&name, RESERVED)
        .await
        .expect("created");
    let identity = session.identify_system().await.expect("an identity");
    let size = SegmentSize::DEFAULT;
    let first = SegmentNumber::containing(identity.flushed_lsn, size);
    sql.query("create table t as select md5(i::text) from generate_series(1, 200000) i")
        .await
        .expect("WAL");
    sql.query("select pg_switch_wal()").await.expect("switched");

    let stream = session
        .start_replication(Some(&name), first.start(size), identity.timeline)
        .await;
    let Ok(StartReplication::Streaming(mut stream)) = stream else {
        panic!("it streams");
    };
    let range = first.range(size);
    let received = receive(&mut stream, range.start, range.end).await;
    let file =
        server
            .data_directory()
            .join("pg_wal")
            .join(segment_name(identity.timeline, first, size));
    assert!(
        received[..16 << 20] == fs::read(file).expect("a segment"),
        "the bytes differ"
    );

    // What we report is what the server believes, and applying is never claimed.
    let durable = Durable(range.end);
    stream.send_status(&status(&durable)).await.expect("sent");
    eventually("the server knows what is durable", async || {
        let seen = "select s.flush_lsn, s.replay_lsn is null, restart_lsn from pg_stat_replication s, pg_replication_slots";
        let seen = sql.query(seen).await.expect("a row");
        let end = range.end.to_string();
        seen.text(0, 0) == Some(&end) && seen.text(0, 1) == Some("t") && seen.text(0, 2) == Some(&end)
    })
    .await;

    let (mut session, end) = stream.finish().await.expect("finished");
    assert_eq!(end, None);
    assert_eq!(
        session.identify_system().await.expect("usable").system_id,
        identity.system_id
    );
}

#[tokio::test]
#[needs_servers]
async fn wal_that_is_gone_is_told_apart() {
    let server = Server::start().await;
    let session = server.replication().await;
    let outcome = session
        .start_replication(None, Lsn(0x100), TimelineId::FIRST)
        .await;
    let error = match outcome {
        Ok(StartReplication::Streaming(mut stream)) => {
            stream.next().await.expect_err("no such WAL")
        }
        Ok(StartReplication::TimelineEnded(..)) => panic!("timeline 1 goes on"),
        Err(error) => error,
    };
    assert!(error.is_wal_removed() && !error.is_transient(), "{error}");
}

#[tokio::test]
#[needs_servers]
async fn a_shutdown_waits_for_us_and_ends_the_stream_in_good_order() {
    let mut server = Server::start().await;
    let mut session = server.replication().await;
    let at = session
        .identify_system()
        .await
        .expect("an identity")
        .flushed_lsn;
    let mut stream = stream(&server, at, TimelineId::FIRST).await;
    session.close().await;
    server.signal(Signal::INT);
    let mut durable = Durable(at);
    let error = loop {
        match stream.next().await {
            Ok(WalMessage::Data(data)) => durable.0 = data.end().expect("a position"),
            Ok(WalMessage::Keepalive(_)) => {}
            Ok(WalMessage::EndOfTimeline) => panic!("the timeline goes on"),
            Err(error) => break error,
        }
        // The server may be gone by the time this arrives; reading tells how it went.
        let _ = stream.send_status(&status(&durable)).await;
    };
    assert!(
        matches!(error, ClientError::Closed { .. }) && error.is_transient(),
        "{error}"
    );
    server.wait_for_exit();
}

#[tokio::test]
#[needs_servers]
async fn a_timeline_is_followed_to_its_end_on_every_version() {
    for major in installed_majors() {
        let mut server = Server::of(major).await;
        let before = server
            .replication()
            .await
            .identify_system()
            .await
            .expect("an identity");
        let size = SegmentSize::DEFAULT;
        let start = SegmentNumber::containing(before.flushed_lsn, size).start(size);
        server.stop(Shutdown::Fast);
        // Archive recovery without an archive: replays what there is and begins a timeline.
        server.configure("restore_command = 'false'");
        server.write("data/recovery.signal", "");
        server.launch().await;

        let mut session = server.replication().await;
        let identity = session.identify_system().await.expect("an identity");
        assert_eq!(identity.timeline.get(), 2);
        let file = session
            .timeline_history(identity.timeline)
            .await
            .expect("a history");
        assert_eq!(file.name, "00000002.history");
        let on_disk =
            fs::read(server.data_directory().join("pg_wal/00000002.history")).expect("a history");
        assert_eq!(file.content, on_disk);
        let history = TimelineHistory::parse(identity.timeline, &file.content).expect("a history");
        let switch = history.begins_at();
        assert!(
            session
                .timeline_history(TimelineId::new(9).expect("not zero"))
                .await
                .is_err()
        );

        let mut stream = stream(&server, start, TimelineId::FIRST).await;
        receive(&mut stream, start, switch).await;
        loop {
            match stream.next().await.expect("a message") {
                WalMessage::EndOfTimeline => break,
                WalMessage::Data(data) => panic!("WAL at {} after the end", data.start),
                WalMessage::Keepalive(_) => {}
            }
        }
        assert_eq!(
            stream.next().await.expect("again"),
            WalMessage::EndOfTimeline
        );
        let (session, end) = stream.finish().await.expect("finished");
        let end = end.expect("the timeline ended");
        assert_eq!((end.next, end.at), (identity.timeline, switch));

        let outcome = session
            .start_replication(None, switch, TimelineId::FIRST)
            .await;
        let Ok(StartReplication::TimelineEnded(session, at_once)) = outcome else {
            panic!("nothing is left to stream");
        };
        assert_eq!(at_once, end);
        let next = session.start_replication(None, end.at, end.next).await;
        assert!(matches!(next, Ok(StartReplication::Streaming(_))));
    }
}
