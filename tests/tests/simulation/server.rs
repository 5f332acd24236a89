//! A PostgreSQL server, as far as the sidecar sees one: it speaks the protocol over connections that it accepts.
//!
//! It answers what the sidecar asks (replication commands of `walsender.c`, and the monitor's looks in SQL), sends WAL
//! in runs of any length, and breaks off when the world says so. What it is told is flushed counts as a promise.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep, sleep_until};
use walvault_protocol::client::{Dial, Keepalive, WalData};
use walvault_protocol::message::{Frame, tag};
use walvault_protocol::replication::status::RawStatus;
use walvault_protocol::wal::synthetic::SYSTEM;
use walvault_protocol::{Lsn, LsnRange, PgTimestamp};

use crate::world::{Planted, State, World};

/// What PostgreSQL puts into a message at most.
const MAX_SEND_SIZE: u64 = 128 << 10;
/// What lies in a socket's buffers.
const BUFFERED: usize = 256 << 10;
/// No message of the sidecar is longer.
const LONGEST: usize = 64 << 10;
const NOW: PgTimestamp = PgTimestamp(0);

/// A way to connect to `node`.
pub fn dial(world: &World, node: usize) -> Dial {
    let world = world.clone();
    Arc::new(move || {
        let connection = {
            let mut state = world.lock();
            state.pids += 1;
            let pid = state.pids;
            let node = &state.nodes[node];
            if !node.up {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            (node.connections, pid)
        };
        let (near, far) = tokio::io::duplex(BUFFERED);
        let backend = Backend {
            world: world.clone(),
            node,
            connection: connection.0,
            pid: connection.1,
            socket: far,
            inbound: BytesMut::new(),
        };
        tokio::spawn(backend.serve());
        Ok(near)
    })
}

/// The process that serves one connection.
struct Backend {
    world: World,
    node: usize,
    /// The server's count of broken connections when this one began.
    connection: u64,
    pid: i32,
    socket: DuplexStream,
    inbound: BytesMut,
}

/// What a client sends ends here: it left, or the connection broke.
struct Ended;

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Ended {
        Ended
    }
}

impl Backend {
    async fn serve(mut self) {
        // However it ended, the slot is free again.
        let (world, node, pid) = (self.world.clone(), self.node, self.pid);
        let _ = self.talk().await;
        let slot = &mut world.lock().nodes[node].slot_holder;
        *slot = slot.filter(|holder| *holder != pid);
    }

    async fn talk(&mut self) -> Result<(), Ended> {
        self.read_startup().await?;
        sleep(Duration::from_millis(self.world.draw(20))).await;
        let mut greeting = Answer::default();
        greeting.message(b'R', |body| body.put_u32(0));
        greeting.message(tag::PARAMETER_STATUS, |body| {
            body.put_slice(b"server_version\x0015.4\0");
        });
        greeting.message(tag::BACKEND_KEY_DATA, |body| {
            body.put_i32(self.pid);
            body.put_i32(0);
        });
        self.send(greeting.ready()).await?;
        loop {
            let frame = self.frame().await?;
            if frame.tag != b'Q' {
                return Ok(());
            }
            let text = String::from_utf8_lossy(&frame.body);
            let command = text.trim_end_matches('\0').to_owned();
            match command.strip_prefix("START_REPLICATION ") {
                Some(arguments) => self.start_replication(arguments).await?,
                None => {
                    let answer = self.answer(&command);
                    self.send(answer).await?;
                }
            }
        }
    }

    /// The answer to everything but a stream.
    fn answer(&self, command: &str) -> Answer {
        let mut state = self.world.lock();
        let line = state.nodes[self.node].line;
        let (end, begin) = (state.end(line), state.lines[0].writer.start);
        let answer = Answer::default();
        let (word, argument) = command.split_once(' ').unwrap_or((command, ""));
        match word {
            "IDENTIFY_SYSTEM" => answer.row(&[
                Some(SYSTEM.to_string()),
                Some((line + 1).to_string()),
                Some(end.to_string()),
                None,
            ]),
            "SHOW" if argument == "wal_segment_size" => {
                let mebibytes = state.segment().bytes() >> 20;
                answer.row(&[Some(format!("{mebibytes}MB"))])
            }
            "SHOW" => answer.row(&[Some("off".to_owned())]),
            "CREATE_REPLICATION_SLOT" => match state.nodes[self.node].slot {
                Some(_) => answer.error("42710", "the slot is there already"),
                None => {
                    state.nodes[self.node].slot = Some(begin);
                    answer.row(&[
                        Some("walvault".to_owned()),
                        Some(begin.to_string()),
                        None,
                        None,
                    ])
                }
            },
            "READ_REPLICATION_SLOT" => match state.nodes[self.node].slot {
                Some(at) => answer.row(&[
                    Some("physical".to_owned()),
                    Some(at.to_string()),
                    Some((line + 1).to_string()),
                ]),
                None => answer.row(&[None, None, None]),
            },
            "TIMELINE_HISTORY" => {
                let of = argument.parse::<usize>().unwrap_or(0);
                match state.history(of.wrapping_sub(1)) {
                    Some(content) => {
                        answer.row(&[Some(format!("{of:08X}.history")), Some(content)])
                    }
                    None => answer.error("58P01", "could not open file"),
                }
            }
            // The monitor's looks.
            "select" if argument.starts_with("(select sync_state") => answer.row(&[
                Some(if state.commits_wait { "sync" } else { "async" }.to_owned()),
                Some(end.to_string()),
                Some("f".to_owned()),
            ]),
            "select" => answer.rows(1, &[]),
            _ => answer.error("42601", "syntax error"),
        }
        .complete()
    }

    async fn start_replication(&mut self, arguments: &str) -> Result<(), Ended> {
        let words: Vec<&str> = arguments.split(' ').collect();
        let with_slot = words[0] == "SLOT";
        let [.., start, "TIMELINE", timeline] = words[..] else {
            return self
                .send(Answer::default().error("42601", "syntax error").complete())
                .await;
        };
        let (Ok(start), Ok(timeline)) = (start.parse::<Lsn>(), timeline.parse::<usize>()) else {
            return self
                .send(Answer::default().error("42601", "syntax error").complete())
                .await;
        };
        let line = timeline - 1;
        let refused = self.refusal(with_slot, start, line);
        if let Some((code, message)) = refused {
            return self
                .send(Answer::default().error(code, message).complete())
                .await;
        }
        let left = self.left(line);
        if left.is_some_and(|(_, at)| at == start) {
            return self
                .send(timeline_end(Answer::default(), left).complete())
                .await;
        }
        let mut opened = Answer::default();
        opened.message(tag::COPY_BOTH_RESPONSE, |body| {
            body.put_u8(0);
            body.put_u16(0);
        });
        self.send(opened).await?;
        let mut stream = Stream {
            line,
            position: start,
            with_slot,
            ended: false,
            keepalive: Instant::now() + Duration::from_millis(500),
        };
        self.stream(&mut stream).await?;
        if with_slot {
            self.world.lock().nodes[self.node].slot_holder = None;
        }
        let mut end = Answer::default();
        if !stream.ended {
            end.message(tag::COPY_DONE, |_| ());
        }
        let left = if stream.ended { self.left(line) } else { None };
        self.send(timeline_end(end, left).complete()).await
    }

    /// Why the server does not stream; else the slot is taken.
    fn refusal(
        &self,
        with_slot: bool,
        start: Lsn,
        line: usize,
    ) -> Option<(&'static str, &'static str)> {
        let mut state = self.world.lock();
        let on = state.nodes[self.node].line;
        let left = left(&state, on, line);
        if line != on && left.is_none() {
            return Some((
                "22023",
                "requested timeline is not in this server's history",
            ));
        }
        let end = left.map_or_else(|| state.end(line), |(_, at)| at);
        if start > end {
            return Some((
                "22023",
                "requested starting point is ahead of the WAL flush position of this server",
            ));
        }
        let node = &mut state.nodes[self.node];
        match (with_slot, node.slot_holder, node.slot) {
            (true, Some(_), _) => Some(("55006", "replication slot is active")),
            (true, None, None) => Some(("42704", "replication slot does not exist")),
            (true, None, Some(_)) => {
                node.slot_holder = Some(self.pid);
                None
            }
            (false, ..) => None,
        }
    }

    /// Sends WAL until the client ends its half.
    async fn stream(&mut self, stream: &mut Stream) -> Result<(), Ended> {
        loop {
            let changed = self.world.changed.clone();
            let changed = changed.notified();
            self.check()?;
            if let Some(frame) = Frame::split(&mut self.inbound, LONGEST).map_err(|_| Ended)? {
                match frame.tag {
                    tag::COPY_DONE => return Ok(()),
                    tag::COPY_DATA => self.told(stream, &frame.body),
                    _ => return Err(Ended),
                }
                continue;
            }
            if !stream.ended {
                let mut out = Answer::default();
                match self.take(stream) {
                    Some(Some(data)) => {
                        out.message(tag::COPY_DATA, |body| data.encode(body));
                        self.send(out).await?;
                        continue;
                    }
                    Some(None) => {
                        stream.ended = true;
                        out.message(tag::COPY_DONE, |_| ());
                        self.send(out).await?;
                        continue;
                    }
                    None => {}
                }
            }
            tokio::select! {
                biased;
                read = self.socket.read_buf(&mut self.inbound) => {
                    if read? == 0 {
                        return Err(Ended);
                    }
                }
                () = changed => {}
                () = sleep_until(stream.keepalive), if !stream.ended => {
                    let pause = Duration::from_millis(200 + self.world.draw(8000));
                    stream.keepalive = Instant::now() + pause;
                    let asks = self.world.one_in(3);
                    let mut out = Answer::default();
                    let keepalive = Keepalive {
                        server_end: stream.position,
                        sent_at: NOW,
                        reply_requested: asks,
                    };
                    out.message(tag::COPY_DATA, |body| keepalive.encode(body));
                    self.send(out).await?;
                }
            }
        }
    }

    /// The next run of WAL; `Some(None)` where the timeline ends for this server.
    fn take(&self, stream: &mut Stream) -> Option<Option<WalData>> {
        let longest = 1 + self.world.draw(MAX_SEND_SIZE);
        let state = self.world.lock();
        let left = left(&state, state.nodes[self.node].line, stream.line);
        let end = left.map_or_else(|| state.end(stream.line), |(_, at)| at);
        if stream.position < end {
            let range = LsnRange::new(stream.position, end.min(stream.position + longest));
            let bytes = Bytes::copy_from_slice(state.wal(stream.line, range));
            stream.position = range.end;
            return Some(Some(WalData {
                start: range.start,
                server_end: end,
                sent_at: NOW,
                bytes,
            }));
        }
        left.map(|_| None)
    }

    /// A standby status update: what it says is flushed, PostgreSQL lets go.
    fn told(&self, stream: &Stream, body: &[u8]) {
        let Ok(status) = RawStatus::decode(body) else {
            return;
        };
        let mut state = self.world.lock();
        let flush = match state.planted {
            Planted::EarlyAcknowledgement => status.write,
            Planted::WatermarkOverHole => state.newest(stream.line).max(status.flush),
            _ => status.flush,
        };
        if !stream.with_slot || flush == Lsn::INVALID {
            return;
        }
        state.report(stream.line, flush);
        let slot = &mut state.nodes[self.node].slot;
        *slot = (*slot).max(Some(flush));
    }

    /// The line that follows `line` for this server, and where.
    fn left(&self, line: usize) -> Option<(usize, Lsn)> {
        let state = self.world.lock();
        left(&state, state.nodes[self.node].line, line)
    }

    fn check(&self) -> Result<(), Ended> {
        let state = self.world.lock();
        let node = &state.nodes[self.node];
        match node.up && node.connections == self.connection {
            true => Ok(()),
            false => Err(Ended),
        }
    }

    async fn read_startup(&mut self) -> Result<(), Ended> {
        let length = self.socket.read_u32().await? as usize;
        let mut rest = vec![0; length.saturating_sub(4).min(LONGEST)];
        self.socket.read_exact(&mut rest).await?;
        Ok(())
    }

    /// The client's next message; the end, where the server goes down meanwhile.
    async fn frame(&mut self) -> Result<Frame, Ended> {
        loop {
            let changed = self.world.changed.clone();
            let changed = changed.notified();
            self.check()?;
            if let Some(frame) = Frame::split(&mut self.inbound, LONGEST).map_err(|_| Ended)? {
                return Ok(frame);
            }
            tokio::select! {
                biased;
                read = self.socket.read_buf(&mut self.inbound) => {
                    if read? == 0 {
                        return Err(Ended);
                    }
                }
                () = changed => {}
            }
        }
    }

    async fn send(&mut self, answer: Answer) -> Result<(), Ended> {
        let world = self.world.clone();
        let mut bytes = answer.bytes;
        while !bytes.is_empty() {
            let changed = world.changed.notified();
            self.check()?;
            tokio::select! {
                biased;
                written = self.socket.write_buf(&mut bytes) => {
                    written?;
                }
                () = changed => {}
            }
        }
        Ok(())
    }
}

/// A stream that is open.
struct Stream {
    line: usize,
    position: Lsn,
    with_slot: bool,
    /// Whether the server ended its half.
    ended: bool,
    keepalive: Instant,
}

/// The line that follows `line` for a server on `on`, and where, if that has gone on to another.
fn left(state: &State, on: usize, line: usize) -> Option<(usize, Lsn)> {
    let mut at = on;
    while at != line {
        let (parent, left) = state.lines[at].parent?;
        if parent == line {
            return Some((at, left));
        }
        at = parent;
    }
    None
}

fn timeline_end(answer: Answer, left: Option<(usize, Lsn)>) -> Answer {
    match left {
        Some((next, at)) => answer.row(&[Some((next + 1).to_string()), Some(at.to_string())]),
        None => answer,
    }
}

/// Messages of the server, one after the other.
#[derive(Default)]
struct Answer {
    bytes: BytesMut,
    /// Whether one of them is an error, after which no command is complete.
    failed: bool,
}

impl Answer {
    fn message(&mut self, tag: u8, fill: impl FnOnce(&mut BytesMut)) {
        let mut body = BytesMut::new();
        fill(&mut body);
        self.bytes.put_u8(tag);
        self.bytes.put_u32(body.len() as u32 + 4);
        self.bytes.put_slice(&body);
    }

    fn row(self, values: &[Option<String>]) -> Answer {
        self.rows(values.len(), &[values])
    }

    fn rows(mut self, columns: usize, rows: &[&[Option<String>]]) -> Answer {
        self.message(tag::ROW_DESCRIPTION, |body| {
            body.put_u16(columns as u16);
            for _ in 0..columns {
                body.put_slice(b"column\0");
                body.put_u32(0);
                body.put_u16(0);
                // text, of any length
                body.put_u32(25);
                body.put_i16(-1);
                body.put_i32(-1);
                body.put_u16(0);
            }
        });
        for row in rows {
            self.message(tag::DATA_ROW, |body| {
                body.put_u16(row.len() as u16);
                for value in *row {
                    match value {
                        None => body.put_i32(-1),
                        Some(value) => {
                            body.put_u32(value.len() as u32);
                            body.put_slice(value.as_bytes());
                        }
                    }
                }
            });
        }
        self
    }

    fn error(mut self, code: &str, message: &str) -> Answer {
        self.message(tag::ERROR_RESPONSE, |body| {
            body.put_slice(format!("SERROR\0VERROR\0C{code}\0M{message}\0\0").as_bytes());
        });
        self.failed = true;
        self
    }

    /// The end of an answer to a command.
    fn complete(mut self) -> Answer {
        if !self.failed {
            self.message(tag::COMMAND_COMPLETE, |body| body.put_slice(b"SELECT\0"));
        }
        self.ready()
    }

    fn ready(mut self) -> Answer {
        self.message(tag::READY_FOR_QUERY, |body| body.put_u8(b'I'));
        self
    }
}
