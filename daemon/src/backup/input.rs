//! The server's tar archives as blocking readers, one after another.
//!
//! The socket is read by a task and tar is parsed by a thread; this is the bounded pipe in between.

use std::collections::VecDeque;
use std::io::{self, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

/// How many bytes go through the pipe at once, about: the server's messages have at most 32 KiB
/// (`SINK_BUFFER_LENGTH` in `basebackup.c`), and waking the parser costs more than parsing one.
const BATCH: usize = 256 << 10;
/// How many pieces may wait for the parser.
const DEPTH: usize = 8;

/// What goes through the pipe.
#[derive(Debug)]
pub(super) enum Piece {
    /// A tar archive begins.
    Archive(Root),
    /// Its next bytes.
    Data(Batch),
    /// Nothing follows. A pipe that closes without it was cut.
    End,
}

/// Messages on their way to the parser.
#[derive(Debug, Default)]
pub(super) struct Batch {
    messages: VecDeque<Bytes>,
    length: usize,
}

impl Batch {
    /// Adds a message; whether the batch is large enough to be passed on.
    pub(super) fn push(&mut self, message: Bytes) -> bool {
        self.length += message.len();
        self.messages.push_back(message);
        self.length >= BATCH
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

impl From<Bytes> for Batch {
    fn from(message: Bytes) -> Batch {
        let mut batch = Batch::default();
        batch.push(message);
        batch
    }
}

/// What a tar archive is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Root {
    /// The data directory.
    DataDirectory,
    /// The tablespace with this OID.
    Tablespace(u32),
}

impl std::fmt::Display for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Root::DataDirectory => f.write_str("the data directory"),
            Root::Tablespace(oid) => write!(f, "tablespace {oid}"),
        }
    }
}

/// The parser's end of the pipe.
pub(super) struct Input {
    pieces: mpsc::Receiver<Piece>,
    batch: VecDeque<Bytes>,
    pending: Bytes,
    /// Read already, to be dealt with when the archive before it is done.
    next: Option<Piece>,
}

/// A pipe: what is sent into the one end is read from the other.
pub(super) fn pipe() -> (mpsc::Sender<Piece>, Input) {
    let (sender, pieces) = mpsc::channel(DEPTH);
    let input = Input {
        pieces,
        batch: VecDeque::new(),
        pending: Bytes::new(),
        next: None,
    };
    (sender, input)
}

impl Input {
    /// The next archive, to be read to its end before the one after it; `None` after the last.
    /// Blocks.
    ///
    /// # Errors
    /// When the pipe is cut, or there are bytes outside of any archive.
    pub(super) fn next_archive(&mut self) -> io::Result<Option<Root>> {
        if self.read(&mut [0])? > 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "bytes outside of any archive",
            ));
        }
        match self.next.take() {
            Some(Piece::Archive(root)) => Ok(Some(root)),
            _ => Ok(None),
        }
    }

    /// Whether the archive under way has been read to its end.
    pub(super) fn at_end(&self) -> bool {
        self.pending.is_empty() && self.batch.is_empty() && self.next.is_some()
    }
}

impl Read for Input {
    /// Reads of the archive under way; 0 at its end. Blocks.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        // An empty message is not an end.
        while self.pending.is_empty() {
            if let Some(message) = self.batch.pop_front() {
                self.pending = message;
                continue;
            }
            if self.next.is_some() {
                return Ok(0);
            }
            match self.pieces.blocking_recv() {
                Some(Piece::Data(batch)) => self.batch = batch.messages,
                Some(boundary) => self.next = Some(boundary),
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the stream was cut",
                    ));
                }
            }
        }
        let length = out.len().min(self.pending.len());
        self.pending.copy_to_slice(&mut out[..length]);
        Ok(length)
    }
}
