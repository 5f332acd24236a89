//! The stream of a base backup: the same events whatever the server's version.
//!
//! Before 15 each tablespace, and then the manifest, is a copy of its own. Since 15 there is one
//! copy whose messages begin with a type byte (`basebackup_copy.c`). Both are framed by two
//! result sets before (start, tablespaces) and one after (end).

use bytes::{Buf, Bytes};

use super::answers::{lacks, parse, timeline};
use super::command::PARENTHESES_SINCE;
use crate::codec::Reader;
use crate::identity::ServerVersion;
use crate::lsn::Lsn;
use crate::message::{Frame, ProtocolError, QueryResult, ResultBuilder, tag};
use crate::timeline::TimelineId;

const COMMAND: &str = "BASE_BACKUP";
const DURING: &str = "in a base backup";

/// How much goes by between two reports of progress where the server sends none.
const PROGRESS_EVERY: u64 = 16 << 20;

/// Where a backup starts: WAL from here on is needed to restore it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupStart {
    /// The redo position of its checkpoint.
    pub lsn: Lsn,
    /// The timeline that is on.
    pub timeline: TimelineId,
}

/// Where a backup ends: restored up to here it is consistent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupEnd {
    /// The position after its last WAL record.
    pub lsn: Lsn,
    /// The timeline that is on.
    pub timeline: TimelineId,
}

/// One archive of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    /// The tablespace; `None` for the data directory itself.
    pub oid: Option<u32>,
    /// Where it is mounted on the server; `None` for the data directory itself.
    pub location: Option<String>,
    /// How large the server estimates it; `None` unless progress was asked for.
    pub size_kib: Option<u64>,
}

/// The next thing in a base backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupEvent {
    /// The tar archive of a tablespace begins; whatever was before it is complete.
    ArchiveStart {
        /// Which of the tablespaces.
        index: usize,
    },
    /// The next bytes of the archive; never empty, cut anywhere.
    Data(Bytes),
    /// The manifest begins; all archives are complete.
    ManifestStart,
    /// The next bytes of the manifest.
    ManifestData(Bytes),
    /// How many bytes of all archives are done.
    Progress(u64),
    /// Everything was sent.
    Finished(BackupEnd),
}

/// `BASE_BACKUP` was sent.
#[derive(Debug)]
pub struct Opening {
    typed: bool,
    results: ResultBuilder,
    start: Option<BackupStart>,
    tablespaces: Option<Vec<Tablespace>>,
}

/// What the server's message led to.
#[derive(Debug)]
pub enum OpenStep {
    /// More of the answer is to come.
    Wait(Opening),
    /// The archives follow.
    Transfer(Transfer),
}

impl Opening {
    /// For a server of `version`.
    #[must_use]
    pub fn new(version: ServerVersion) -> Opening {
        Opening {
            typed: version >= PARENTHESES_SINCE,
            results: ResultBuilder::default(),
            start: None,
            tablespaces: None,
        }
    }

    /// Takes the server's next message.
    ///
    /// # Errors
    /// When it does not belong here, or is malformed.
    pub fn on(mut self, frame: &Frame) -> Result<OpenStep, ProtocolError> {
        if let Some(result) = self.results.on(frame, DURING)? {
            if self.start.is_none() {
                let (lsn, timeline) = position(&result)?;
                self.start = Some(BackupStart { lsn, timeline });
            } else {
                self.tablespaces = Some(read_tablespaces(&result)?);
            }
        }
        Ok(match (self.start, self.tablespaces) {
            (Some(start), Some(tablespaces)) => OpenStep::Transfer(Transfer {
                start,
                seen: vec![false; tablespaces.len()],
                tablespaces,
                typed: self.typed,
                copy: Copy::Between,
                results: ResultBuilder::default(),
                end: None,
                pending: None,
                done: 0,
                reported: 0,
            }),
            (start, tablespaces) => OpenStep::Wait(Opening {
                start,
                tablespaces,
                ..self
            }),
        })
    }
}

/// The archives are under way.
#[derive(Debug)]
pub struct Transfer {
    start: BackupStart,
    tablespaces: Vec<Tablespace>,
    /// Which of them have begun.
    seen: Vec<bool>,
    typed: bool,
    copy: Copy,
    results: ResultBuilder,
    end: Option<BackupEnd>,
    pending: Option<BackupEvent>,
    done: u64,
    reported: u64,
}

/// What the bytes of a copy are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copy {
    /// There is no copy, or nothing began in it yet.
    Between,
    Archive,
    Manifest,
}

impl Transfer {
    /// Where the backup starts.
    #[must_use]
    pub fn started(&self) -> &BackupStart {
        &self.start
    }

    /// Its archives, in the order the server announced.
    #[must_use]
    pub fn tablespaces(&self) -> &[Tablespace] {
        &self.tablespaces
    }

    /// An event that is due without another message.
    pub fn pending(&mut self) -> Option<BackupEvent> {
        self.pending.take()
    }

    /// Takes the server's next message; not every one is an event.
    ///
    /// # Errors
    /// When it does not belong here, or is malformed.
    pub fn on(&mut self, frame: Frame) -> Result<Option<BackupEvent>, ProtocolError> {
        match frame.tag {
            tag::COPY_DATA if frame.body.is_empty() => Ok(None),
            tag::COPY_DATA if self.typed => self.typed_data(frame.body),
            tag::COPY_DATA => self.data(frame.body).map(Some),
            tag::COPY_OUT_RESPONSE if self.typed => Ok(None),
            tag::COPY_OUT_RESPONSE => match self.seen.iter().position(|seen| !seen) {
                Some(index) => Ok(Some(self.begin_archive(index))),
                None if self.copy == Copy::Manifest => {
                    Err(ProtocolError::unexpected(&frame, DURING))
                }
                None => Ok(Some(self.begin_manifest())),
            },
            tag::COPY_DONE => Ok(None),
            tag::READY_FOR_QUERY => match self.end {
                Some(_) if self.seen.contains(&false) => {
                    Err(lacks(COMMAND)("archive of every tablespace"))
                }
                Some(end) => Ok(Some(BackupEvent::Finished(end))),
                None => Err(lacks(COMMAND)("end position")),
            },
            _ => {
                if let Some(result) = self.results.on(&frame, DURING)? {
                    let (lsn, timeline) = position(&result)?;
                    self.end = Some(BackupEnd { lsn, timeline });
                }
                Ok(None)
            }
        }
    }

    /// A message of the one copy of servers since 15.
    fn typed_data(&mut self, mut body: Bytes) -> Result<Option<BackupEvent>, ProtocolError> {
        let whole = body.clone();
        let malformed = |source| ProtocolError::body(tag::COPY_DATA, source);
        let mut reader = Reader::new(&whole);
        match reader.u8("backup message type").map_err(malformed)? {
            b'n' => {
                let name = reader.c_str("archive name").map_err(malformed)?;
                let index = self.find(name).filter(|index| !self.seen[*index]);
                let index = index.ok_or_else(|| lacks(COMMAND)("tablespace for an archive"))?;
                Ok(Some(self.begin_archive(index)))
            }
            b'm' => Ok(Some(self.begin_manifest())),
            b'd' => {
                body.advance(1);
                if body.is_empty() {
                    Ok(None)
                } else {
                    self.data(body).map(Some)
                }
            }
            b'p' => {
                self.done = reader.u64_be("bytes done").map_err(malformed)?;
                Ok(Some(BackupEvent::Progress(self.done)))
            }
            other => Err(malformed(
                reader.refuse("backup message type", u64::from(other)),
            )),
        }
    }

    fn data(&mut self, bytes: Bytes) -> Result<BackupEvent, ProtocolError> {
        match self.copy {
            Copy::Archive => {
                if !self.typed {
                    self.done += bytes.len() as u64;
                    if self.done - self.reported >= PROGRESS_EVERY {
                        self.reported = self.done;
                        self.pending = Some(BackupEvent::Progress(self.done));
                    }
                }
                Ok(BackupEvent::Data(bytes))
            }
            Copy::Manifest => Ok(BackupEvent::ManifestData(bytes)),
            Copy::Between => Err(ProtocolError::Unexpected {
                tag: char::from(tag::COPY_DATA),
                during: "before any archive of a base backup",
            }),
        }
    }

    fn begin_archive(&mut self, index: usize) -> BackupEvent {
        self.copy = Copy::Archive;
        self.seen[index] = true;
        BackupEvent::ArchiveStart { index }
    }

    fn begin_manifest(&mut self) -> BackupEvent {
        self.copy = Copy::Manifest;
        BackupEvent::ManifestStart
    }

    /// The tablespace whose archive is called `name`: `base.tar` or `<oid>.tar`.
    fn find(&self, name: &str) -> Option<usize> {
        let stem = name.strip_suffix(".tar")?;
        let oid = match stem {
            "base" => None,
            digits => Some(digits.parse().ok()?),
        };
        self.tablespaces.iter().position(|space| space.oid == oid)
    }
}

fn position(result: &QueryResult) -> Result<(Lsn, TimelineId), ProtocolError> {
    let lsn = parse(result, 0).ok_or_else(|| lacks(COMMAND)("WAL position"))?;
    let timeline = timeline(result, 1).ok_or_else(|| lacks(COMMAND)("timeline"))?;
    Ok((lsn, timeline))
}

fn read_tablespaces(result: &QueryResult) -> Result<Vec<Tablespace>, ProtocolError> {
    let number = |row: usize, column: usize| -> Result<Option<u64>, ProtocolError> {
        let text = result.text(row, column);
        let number = text.map(str::parse).transpose();
        number.map_err(|_| lacks(COMMAND)("tablespace"))
    };
    let spaces = (0..result.rows.len()).map(|row| {
        let oid = number(row, 0)?.map(u32::try_from).transpose();
        Ok(Tablespace {
            oid: oid.map_err(|_| lacks(COMMAND)("tablespace"))?,
            location: result.text(row, 1).map(str::to_owned),
            size_kib: number(row, 2)?,
        })
    });
    let spaces: Vec<Tablespace> = spaces.collect::<Result<_, ProtocolError>>()?;
    if spaces.is_empty() {
        return Err(lacks(COMMAND)("tablespace"));
    }
    Ok(spaces)
}
