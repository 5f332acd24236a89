//! Being told to end, by the operator, or by the machine going down.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use walvault_store::hangup;

/// Completes at SIGINT, at SIGTERM, and at SIGHUP: when a terminal goes, nobody is left to end the server
/// that was started, on a copy that can be read.
///
/// # Errors
/// When signals cannot be listened to.
pub fn told_to_end() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // Whoever starts this by nohup wants it to go on.
    let mut terminal = match hangup::is_ignored() {
        true => None,
        false => Some(signal(SignalKind::hangup())?),
    };
    Ok(async move {
        let hung_up = async {
            match &mut terminal {
                Some(terminal) => terminal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hung_up => {}
        }
    })
}
