//! WAL fetched ahead of a server that replays it.
//!
//! PostgreSQL asks for one segment after the other and starts a process for each. Most of what that
//! costs is the same every time: a connection to the store, the archive's identity, its data key.
//! So the first [`client`] starts a [`helper`], which keeps all of that, fetches the next segments
//! while PostgreSQL replays this one, and hands them over by rename. It ends by itself.
//!
//! The helper is never needed: whatever goes wrong with it, `wal-fetch` fetches by itself, and only
//! what it then finds decides over its exit code. Three rules keep the prefetch from ever giving a
//! wrong answer. Only segments that are stored whole wait in it, and those never change. A file has its
//! segment's name only when all of it was verified. And the directory is named after the archive
//! and the machine's last start ([`site`]), so that nothing of another archive, and nothing that a
//! crash of the machine may have cut short, is looked at.

pub mod client;
pub mod helper;
mod protocol;
pub mod site;
mod window;

pub use client::Prefetch;
