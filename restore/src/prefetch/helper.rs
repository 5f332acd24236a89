//! The helper: one process that fetches ahead for one server.
//!
//! It leaves the session of whoever started it, and ends when nobody has asked for a while, when its
//! directory or the server's `pg_wal` goes away, or on SIGTERM. Its exit code is 0 or 1 whatever
//! happens: in a container in which PostgreSQL is process 1 it is the postmaster that waits for it,
//! and that takes any other code for a crashed backend (`CleanupBackend` in `postmaster.c`).

use std::fs;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use walvault_config::{Config, Source};
use walvault_layout::MAX_WAL_OBJECT;
use walvault_protocol::SegmentSize;

use super::site::{Site, Spool};
use crate::access::{self, AccessError as Failure};

mod ahead;

use ahead::Ahead;

/// How long it stays when WAL waits that nobody asks for.
const IDLE: Duration = Duration::from_secs(60);
/// How long it stays when nothing waits: longer than a standby waits between two looks
/// (`wal_retrieve_retry_interval`, 5 s).
const IDLE_EMPTY: Duration = Duration::from_secs(10);
/// How often it looks whether it is still needed.
const LOOK: Duration = Duration::from_millis(500);
/// How often it looks what is asked for, while PostgreSQL replays segment after segment.
const POLL: Duration = Duration::from_millis(5);
/// How often when nobody has asked for [`QUIET`].
const QUIET_POLL: Duration = Duration::from_millis(100);
const QUIET: Duration = Duration::from_secs(2);
/// How long it tries to reach the archive. Whoever asks tries again for itself, for longer.
const RETRY_FOR: Duration = Duration::from_secs(2);
/// Memory for objects under way, as they are stored.
const MEMORY: u64 = 3 * MAX_WAL_OBJECT;
/// The most fetches at once, however small the segments.
const AT_ONCE: u64 = 8;
/// The most segments kept ahead, however small.
const MOST_AHEAD: u64 = 64;

/// Fetches ahead into `dir` until the server whose `pg_wal` this is needs it no more.
#[must_use]
pub fn main(dir: PathBuf, pg_wal: &Path, config: Source<'_>) -> ExitCode {
    let served = catch_unwind(AssertUnwindSafe(|| run(dir, pg_wal, config)));
    match served {
        Ok(Ok(())) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn run(dir: PathBuf, pg_wal: &Path, config: Source<'_>) -> Result<(), Failure> {
    close_inherited();
    // It fails for who leads a process group, and then there is nothing to leave.
    let _ = rustix::process::setsid();
    let site = Site::at(dir);
    let (spool, Some(lock)) = site.enter().map_err(Failure::Runtime)? else {
        return Ok(());
    };
    spool.clear(&lock).map_err(Failure::Runtime)?;
    site.clear_others();
    let spool = Arc::new(spool);
    let served = serve_in_runtime(config, &spool, pg_wal);
    spool.remove(lock);
    served
}

/// PostgreSQL 13 to 15 open files without `O_CLOEXEC`: the startup process's relations and WAL would
/// stay open here, and take up space after they were removed.
fn close_inherited() {
    let open: Vec<RawFd> = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|descriptor| *descriptor > 2)
        .collect();
    for descriptor in open {
        // That of /proc itself is closed by now.
        let _ = nix::unistd::close(descriptor);
    }
}

fn serve_in_runtime(config: Source<'_>, spool: &Arc<Spool>, pg_wal: &Path) -> Result<(), Failure> {
    let config = Config::load(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Runtime)?;
    let served = runtime.block_on(serve(&config, spool, pg_wal));
    // Before the directory goes: what still runs would write into it.
    runtime.shutdown_timeout(Duration::from_secs(5));
    served
}

async fn serve(config: &Config, spool: &Arc<Spool>, pg_wal: &Path) -> Result<(), Failure> {
    let archive = access::open_within(config, RETRY_FOR).await?;
    let (segments, at_once) = bounds(config.restore.prefetch, archive.segment_size());
    let ahead = Arc::new(Ahead::new(archive, spool.clone(), segments, at_once));
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Runtime)?;
    let mut looked = Instant::now();
    loop {
        let quiet = ahead.follow();
        if looked.elapsed() >= LOOK {
            looked = Instant::now();
            let idle = if ahead.is_empty() { IDLE_EMPTY } else { IDLE };
            if quiet >= idle || !spool.has_its_path() || !pg_wal.exists() {
                break;
            }
        }
        let pause = if quiet < QUIET { POLL } else { QUIET_POLL };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    ahead.stop();
    Ok(())
}

/// How many segments are kept ahead, and how many are fetched at once.
fn bounds(prefetch: u64, size: SegmentSize) -> (u64, usize) {
    let ahead = (prefetch / size.bytes()).clamp(1, MOST_AHEAD);
    let at_once = (MEMORY / size.bytes().min(MAX_WAL_OBJECT)).clamp(1, AT_ONCE);
    (ahead, at_once as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_is_kept_ahead_as_is_configured_and_at_least_a_segment() {
        let bounds = |prefetch: u64, mib: u64| {
            let size = SegmentSize::new(mib << 20).expect("a size");
            super::bounds(prefetch << 20, size)
        };
        assert_eq!(bounds(128, 16), (8, 3));
        assert_eq!(bounds(128, 1024), (1, 3));
        assert_eq!(bounds(1, 16), (1, 3));
        assert_eq!(bounds(128, 1), (64, 8));
    }
}
