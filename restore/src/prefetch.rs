//! WAL fetched ahead of a server that replays it.
//!
//! PostgreSQL runs one `restore_command` at a time, a process for each segment. Most of what a fetch
//! costs is the same every time: a connection to the store, the archive's identity, its data key.
//! So the first `wal-fetch` starts a [`helper`], which keeps all of that and fetches the next
//! segments while PostgreSQL replays this one. It ends by itself.
//!
//! The two share a directory ([`site`]) and nothing else:
//!
//! | file | written by | means |
//! | --- | --- | --- |
//! | `lock` | both | the helper holds a lock on it as long as it lives |
//! | `asked` | `wal-fetch` | the name of the segment that PostgreSQL asked for last |
//! | `SEGMENT.walvault-PID` | the helper | this segment is being fetched |
//! | `SEGMENT` | the helper | this segment is complete; `wal-fetch` renames it to PostgreSQL's path |
//!
//! The helper is never needed: `wal-fetch` asks the archive itself for what does not lie there, and
//! only what it then finds decides over its exit code. Four rules keep the prefetch from giving a
//! wrong answer. Only segments that are stored whole wait, and those never change. A file gets its
//! segment's name only when all of it was verified. Files count only while a helper lives, which
//! begins with an empty directory. And the directory is named after the archive, the configuration
//! and the machine's last start, so that it never holds another archive's WAL, or a file that a
//! crash of the machine cut short.

pub mod client;
pub mod helper;
pub mod site;
mod window;

pub use client::Prefetch;
