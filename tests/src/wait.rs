//! Waiting for conditions.

use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take. Far more than it does: tests share two cores.
pub const PATIENCE: Duration = Duration::from_secs(90);

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
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}
