//! The helper: one process that fetches ahead for one server.
//!
//! It leaves the session of whoever started it, and ends when nobody has asked for a while, when its
//! directory goes away, or on SIGTERM. Its exit code is 0 or 1 whatever happens: in a container in
//! which PostgreSQL is process 1 it is the postmaster that waits for it, and that takes any
//! other code for a crashed backend (`CleanupBackend` in `postmaster.c`).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use walvault_archive::config::{Config, Source};
use walvault_archive::layout::MAX_WAL_OBJECT;
use walvault_protocol::SegmentSize;

use super::site::{Lock, Site};
use crate::access::{self, AccessError as Failure};

mod serve;

use serve::Server;

/// How long it stays when WAL waits that nobody asks for.
const IDLE: Duration = Duration::from_secs(60);
/// How long it stays when nothing waits: longer than a standby waits between two looks
/// (`wal_retrieve_retry_interval`, 5 s).
const IDLE_EMPTY: Duration = Duration::from_secs(10);
/// How often it looks whether it is still needed.
const LOOK: Duration = Duration::from_millis(500);
/// How long it tries to reach the archive. Whoever asks tries again for itself, for longer.
const RETRY_FOR: Duration = Duration::from_secs(2);
/// Memory for objects under way, as they are stored.
const MEMORY: u64 = 3 * MAX_WAL_OBJECT;
/// The most fetches at once, however small the segments.
const AT_ONCE: u64 = 8;
/// The most segments kept ahead, however small.
const MOST_AHEAD: u64 = 64;

/// Serves `dir` until it is not needed any more.
#[must_use]
pub fn main(dir: PathBuf, config: Source<'_>) -> ExitCode {
    let served = catch_unwind(AssertUnwindSafe(|| run(dir, config)));
    match served {
        Ok(Ok(())) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn run(dir: PathBuf, config: Source<'_>) -> Result<(), Failure> {
    // It fails for who leads a process group, and then there is nothing to leave.
    let _ = rustix::process::setsid();
    let config = Config::load(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Runtime)?;
    let site = Site::at(dir);
    let Some(lock) = site.lock().map_err(Failure::Runtime)? else {
        return Ok(());
    };
    let served = runtime.block_on(serve(&config, &site, &lock));
    // Before the directory goes: what still runs would write into it.
    runtime.shutdown_timeout(Duration::from_secs(5));
    site.remove(lock);
    served
}

async fn serve(config: &Config, site: &Site, lock: &Lock) -> Result<(), Failure> {
    let archive = access::open_within(config, RETRY_FOR).await?;
    site.clear(lock).map_err(Failure::Runtime)?;
    site.clear_others();
    let (ahead, at_once) = bounds(config.restore.prefetch, archive.segment_size());
    let server = Arc::new(Server::new(archive, site.clone(), ahead, at_once));
    let listener = site.listen(lock).map_err(Failure::Runtime)?;
    listener.set_nonblocking(true).map_err(Failure::Runtime)?;
    let listener = UnixListener::from_std(listener).map_err(Failure::Runtime)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Runtime)?;
    let inode = inode(site);
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    tokio::spawn(server.clone().converse(stream));
                }
            }
            _ = look.tick() => {
                if inode.is_none() || self::inode(site) != inode || is_idle(&server) {
                    break;
                }
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    server.stop();
    Ok(())
}

fn is_idle(server: &Server) -> bool {
    let idle = if server.is_empty() { IDLE_EMPTY } else { IDLE };
    server
        .quiet_since()
        .is_some_and(|since| Instant::now().duration_since(since) >= idle)
}

fn inode(site: &Site) -> Option<u64> {
    fs::metadata(site.dir()).ok().map(|found| found.ino())
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
