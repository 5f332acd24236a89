//! What goes wrong with an archive, sorted by what the caller does next.

use walvault_protocol::{LsnRange, SystemId, TimelineId};
use walvault_store::StoreError;

use crate::keys::{AccessError, KeyError, KeyFileError};
use crate::seal::OpenError;

/// Why an archive did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed, refused, or holds no such object.
    #[error(transparent)]
    Store(StoreError),
    /// A data key is not to be had.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A key file is not usable.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// `[encryption]` names what cannot be used.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// An object is not what walvault stored. Nothing of it was used.
    #[error(
        "object '{key}' of {url} is damaged: {source}; restore it from a copy of the archive, or restore to an instant that does not need it"
    )]
    Corrupt {
        /// The archive.
        url: String,
        /// The object.
        key: String,
        /// What is wrong with it.
        source: OpenError,
    },
    /// A record opens but does not read.
    #[error(
        "record '{key}' of {url} is not readable: {reason}; use the walvault release that wrote it, or a newer one"
    )]
    Record {
        /// The archive.
        url: String,
        /// The object.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no archive at this URL.
    #[error(
        "{url} holds no archive: archive.json is not there; check [archive] url, or run 'walvaultd run' to begin one"
    )]
    NotAnArchive {
        /// Where it was looked for.
        url: String,
    },
    /// The archive lost the record of what it is.
    #[error(
        "{url} holds objects of an archive, such as '{key}', but archive.json is not there, and under a new one they would never open again; bring it back from a copy of the archive or from an older version of the object, or choose another [archive] url, where nothing is stored yet"
    )]
    RecordLost {
        /// The archive.
        url: String,
        /// One of the objects.
        key: String,
    },
    /// The archive was written by a newer walvault.
    #[error(
        "{url} has archive format {found}, this walvault reads {supported}; use the release that wrote it, or a newer one"
    )]
    NewerFormat {
        /// The archive.
        url: String,
        /// Its version.
        found: u32,
        /// What this build reads.
        supported: u32,
    },
    /// The archive belongs to another PostgreSQL system.
    #[error(
        "{url} belongs to the PostgreSQL system {archive}, but the server is system {server}; give every cluster an archive of its own, also one that pg_upgrade or initdb made anew: choose another [archive] url"
    )]
    OtherSystem {
        /// The archive.
        url: String,
        /// Whose it is.
        archive: SystemId,
        /// Who wanted to write.
        server: SystemId,
    },
    /// The server's segments have another size than those archived.
    #[error(
        "{url} holds WAL segments of {archive} bytes, but the server's have {server}; begin a new archive after pg_resetwal --wal-segsize"
    )]
    OtherSegmentSize {
        /// The archive.
        url: String,
        /// As archived.
        archive: u64,
        /// As the server says.
        server: u64,
    },
    /// Different bytes are archived for the same WAL. Never overwritten.
    #[error(
        "'{key}' of {url} holds other WAL for timeline {timeline} {range} than this server sends: two servers wrote the same timeline apart; find out which one is right before anything else is archived"
    )]
    Diverged {
        /// The archive.
        url: String,
        /// The object.
        key: String,
        /// The timeline.
        timeline: TimelineId,
        /// The WAL it holds.
        range: LsnRange,
    },
    /// There is WAL in the place of ours, and it cannot be told whether it is the same.
    #[error(
        "'{key}' of {url} is there already with {held} bytes, where this server's WAL makes {ours}, and this host cannot open it to compare ({reason}); compare it with 'walvault wal-fetch' on a host that has an identity, and make sure that no other server writes to the archive"
    )]
    Unconfirmed {
        /// The archive.
        url: String,
        /// The object.
        key: String,
        /// Its size.
        held: u64,
        /// The size of ours.
        ours: u64,
        /// Why it cannot be opened.
        reason: String,
    },
    /// A newer writer took over.
    #[error(
        "{url} was taken over by a newer writer, {by}; one walvaultd writes an archive at a time: stop one of the two, or give each cluster an archive of its own"
    )]
    Fenced {
        /// The archive.
        url: String,
        /// Who took over.
        by: String,
        /// The timeline it writes, where its record tells this host.
        timeline: Option<TimelineId>,
    },
    /// Somebody else prunes, or changes what is kept.
    #[error(
        "{url}: what is kept is being changed by {by}; try again when it is done, or after {until} when it was killed"
    )]
    Locked {
        /// The archive.
        url: String,
        /// Who.
        by: String,
        /// When the lock expires.
        until: jiff::Timestamp,
    },
    /// The series of objects has no number left. walvault numbers one by one, so others wrote there.
    #[error(
        "{url}: '{prefix}' has no number left for another object: somebody else wrote objects with high numbers there; delete those that walvault did not write"
    )]
    NumbersUsedUp {
        /// The archive.
        url: String,
        /// What the objects' names begin with.
        prefix: String,
    },
    /// No random bits.
    #[error("the operating system gave no random bits: {0}; check /dev/urandom")]
    Random(#[from] getrandom::Error),
}

impl From<StoreError> for Error {
    /// An object that is larger than any of its name is damaged, whoever wrote it.
    fn from(error: StoreError) -> Error {
        match error {
            StoreError::TooLarge {
                store,
                key,
                size,
                limit,
            } => Error::Corrupt {
                url: store,
                key,
                source: OpenError::TooLarge { size, limit },
            },
            error => Error::Store(error),
        }
    }
}

impl Error {
    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Store(error) => error.is_transient(),
            Error::Key(error) => error.is_transient(),
            _ => false,
        }
    }

    /// Whether it is not for this host to read: no identity given opens it, or the store does not let
    /// these credentials. Who only archives may be made so, and goes on without.
    #[must_use]
    pub fn is_withheld(&self) -> bool {
        matches!(
            self,
            Error::Key(KeyError::CannotUnwrap { .. } | KeyError::Store(StoreError::Refused { .. }))
                | Error::Store(StoreError::Refused { .. })
        )
    }

    /// Whether it is sealed under a data key that no trusted writer signed: anybody may have made it.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        matches!(self, Error::Key(KeyError::Foreign { .. }))
    }

    /// Whether an object was looked for and is proven absent.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Error::Store(StoreError::Missing { .. }))
    }
}
