//! Why a stream ended or never began, and what follows from that.

use walvault_protocol::client::ClientError;
use walvault_protocol::replication::SlotName;
use walvault_protocol::timeline::TimelineHistoryError;
use walvault_protocol::{Lsn, ServerVersion, TimelineId};

use super::resume::Superseded;
use crate::observed::Interruption;
use crate::pipeline::{PumpError, Resume};

/// Why a stream ended or never began.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// PostgreSQL, or the way to it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The archive.
    #[error(transparent)]
    Archive(#[from] walvault_archive::Error),
    /// What was received, or what it contradicts.
    #[error(transparent)]
    Pump(#[from] PumpError),
    /// A history file that cannot be believed.
    #[error(transparent)]
    History(#[from] TimelineHistoryError),
    /// Another server took over.
    #[error(transparent)]
    Superseded(#[from] Superseded),
    /// A server of a version that walvault does not speak to.
    #[error("the server is PostgreSQL {0}; walvault needs version 13 or newer")]
    TooOld(ServerVersion),
    /// `wal_segment_size` is not one.
    #[error(
        "the server shows wal_segment_size as '{0}', which is not a segment size; check what [postgres] url points at"
    )]
    SegmentSize(String),
    /// The server's WAL ends before the archive's.
    #[error(
        "the archive holds timeline {timeline:?} up to {archived_to}, but this server's WAL ends at {server_end}: it is a clone, or was set back to an older state, such as a snapshot of its machine; archive it elsewhere (another [archive] url, begun by 'walvaultd backup --new-archive'), or restore it from the archive and promote it, which gives it a timeline of its own"
    )]
    Behind {
        /// The timeline.
        timeline: TimelineId,
        /// The end of what is archived.
        archived_to: Lsn,
        /// The end of what the server has.
        server_end: Lsn,
    },
    /// The same of a standby, which gets there.
    #[error(
        "the standby's WAL ends at {server_end}, and the archive holds it up to {archived_to}: waiting until the standby has received or replayed as much; if it never does, it is a clone, or was set back"
    )]
    StandbyBehind {
        /// The end of what is archived.
        archived_to: Lsn,
        /// The end of what the standby has.
        server_end: Lsn,
    },
    /// The server, or the network, hangs.
    #[error("the server said nothing for {} s, though it was asked to; connecting again", .0.as_secs())]
    Silent(std::time::Duration),
    /// The server no longer has the WAL that comes next.
    #[error("the WAL from {} of timeline {:?} on, which is to be archived next, is gone from the server: {cause}", .place.archived_to, .place.timeline)]
    WalRemoved {
        /// Where streaming was to go on.
        place: Resume,
        /// What the server said.
        cause: String,
    },
    /// The store is empty, and a sidecar archived already.
    #[error(
        "{url} holds no archive, but replication slot \"{slot}\" keeps WAL from {kept_from} on, so that there was one: mount its disk, or correct [archive] url; if a new archive is wanted, begin it with 'walvaultd backup --new-archive' or 'walvaultd run --new-archive', or drop the slot"
    )]
    ArchiveGone {
        /// Where it was looked for.
        url: String,
        /// The slot.
        slot: SlotName,
        /// What it keeps.
        kept_from: Lsn,
    },
    /// What the slot keeps cannot be asked, and much depends on it.
    #[error(
        "what the replication slot keeps is not known while the server takes no SQL; asking again before a gap is recorded or an archive begun"
    )]
    SlotUnknown,
    /// The server was let go without the last of its WAL.
    #[error(
        "the server is shutting down, and the archive took nothing: the WAL from {archived_to} on stays in PostgreSQL, and is archived once it is started again"
    )]
    HeldUp {
        /// The watermark.
        archived_to: Lsn,
    },
    /// Somebody drops the slot whenever it is made.
    #[error(
        "replication slot \"{0}\" is dropped as soon as it is made; see who else manages it, such as Patroni, and let it ignore this one"
    )]
    SlotChanges(SlotName),
    /// The slot is none for WAL.
    #[error(
        "replication slot \"{0}\" is a logical slot; choose another name in [postgres] slot, or drop it"
    )]
    LogicalSlot(SlotName),
    /// The server is on a timeline that no promotion made.
    #[error(
        "the server is on timeline {timeline:?} and has no history of it ({cause}): 'pg_resetwal -l' named a timeline that no promotion made; give the cluster an archive of its own, or bring its {timeline}.history back into pg_wal"
    )]
    NoHistory {
        /// The server's timeline.
        timeline: TimelineId,
        /// What the server said.
        cause: String,
    },
    /// The server ended a timeline without saying what follows.
    #[error("timeline {0:?} ended at the server, but nothing follows it there; reconnecting")]
    DeadEnd(TimelineId),
}

impl StreamError {
    /// Whether trying again is futile until somebody changes something.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            // Somebody dropped or made the slot between a look and its use.
            StreamError::Client(error) => !error.is_transient() && !is_slot_race(error),
            StreamError::Archive(error) | StreamError::Pump(PumpError::Archive(error)) => {
                !error.is_transient()
            }
            StreamError::TooOld(_)
            | StreamError::SegmentSize(_)
            | StreamError::LogicalSlot(_)
            | StreamError::ArchiveGone { .. }
            | StreamError::NoHistory { .. }
            | StreamError::Behind { .. } => true,
            // The old primary will be rewound and come back as a standby.
            StreamError::Superseded(_)
            | StreamError::Pump(_)
            | StreamError::History(_)
            | StreamError::DeadEnd(_)
            | StreamError::Silent(_)
            | StreamError::SlotUnknown
            | StreamError::SlotChanges(_)
            | StreamError::StandbyBehind { .. }
            | StreamError::HeldUp { .. }
            | StreamError::WalRemoved { .. } => false,
        }
    }

    /// Whether the server answered and refused, though it is not just starting or stopping.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            StreamError::Client(error) => error
                .sqlstate()
                .is_some_and(|code| !code.starts_with("57P")),
            _ => false,
        }
    }

    /// Whether the server invalidated the slot.
    #[must_use]
    pub fn is_slot_invalid(&self) -> bool {
        matches!(self, StreamError::Client(error) if error.is_slot_invalid())
    }

    /// The same, as metrics and `/status` tell it.
    #[must_use]
    pub fn interruption(&self) -> Interruption {
        let kind = match self {
            StreamError::Client(error) if error.sqlstate().is_some() => "refused",
            StreamError::Client(_) | StreamError::Silent(_) => "connection",
            StreamError::Archive(_)
            | StreamError::Pump(PumpError::Archive(_))
            | StreamError::ArchiveGone { .. }
            | StreamError::HeldUp { .. } => "archive",
            StreamError::Pump(_) => "wal",
            StreamError::Superseded(_) | StreamError::Behind { .. } => "superseded",
            StreamError::WalRemoved { .. } => "gap",
            _ => "other",
        };
        let key_trouble = match self {
            StreamError::Archive(walvault_archive::Error::Key(trouble)) => {
                Some(trouble.to_string())
            }
            _ => None,
        };
        Interruption {
            kind,
            reason: self.to_string(),
            key_trouble,
            conflict: self.is_conflict(),
        }
    }

    /// Whether going on could harm the archive, or cannot be: it is another system's, holds other
    /// bytes, or its keys are not here. Somebody has to decide which side is right.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        use walvault_archive::Error;
        match self {
            StreamError::Behind { .. } | StreamError::ArchiveGone { .. } => true,
            StreamError::Archive(Error::Key(error))
            | StreamError::Pump(PumpError::Archive(Error::Key(error))) => !error.is_transient(),
            StreamError::Archive(error) | StreamError::Pump(PumpError::Archive(error)) => matches!(
                error,
                Error::OtherSystem { .. }
                    | Error::RecordLost { .. }
                    | Error::OtherSegmentSize { .. }
                    | Error::Diverged { .. }
                    | Error::Unconfirmed { .. }
                    | Error::Corrupt { .. }
                    | Error::Fenced { .. }
                    | Error::Record { .. }
            ),
            _ => false,
        }
    }
}

/// Whether a slot was not there, or was there, a moment after it was looked at.
fn is_slot_race(error: &ClientError) -> bool {
    matches!(error.sqlstate(), Some("42704" | "42710"))
}
