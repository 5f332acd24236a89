//! Waiting for conditions.

use std::net::TcpListener;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use rand::RngExt;

/// How long anything may take. Far more than it does: tests share two cores.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Ports that Linux gives to nobody who connects (`ip_local_port_range` begins at 32768): a server that is
/// killed finds its own free when it comes back.
const PORTS: Range<u16> = 10_000..32_768;

/// Asks until there is an answer, and returns it.
///
/// # Panics
/// After [`PATIENCE`], naming `what` was waited for.
pub fn wait_until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    poll(condition).unwrap_or_else(|| panic!("waited {PATIENCE:?} in vain: {what}"))
}

/// As [`wait_until`], for a condition that is only true or false.
///
/// # Panics
/// After [`PATIENCE`], naming `what` was waited for.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    wait_until(what, || condition().then_some(()));
}

/// As [`wait_until`]; `None` after [`PATIENCE`].
pub fn poll<T>(mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = condition() {
            return Some(answer);
        }
        if Instant::now() > deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// A TCP port on 127.0.0.1 that nothing listened on a moment ago.
///
/// # Panics
/// When the machine has none left.
#[must_use]
pub fn free_port() -> u16 {
    wait_until("a free port", || {
        let port = rand::rng().random_range(PORTS);
        TcpListener::bind(("127.0.0.1", port)).ok().map(|_| port)
    })
}
