//! Giving way to whatever else the machine does.

use std::process::{Command, Stdio};

/// How much nicer than others (nice(1)).
const NICENESS: i32 = 10;

/// Lets this process, and all that it starts, have the processor and the disks when nobody else wants them. To be
/// called before there are threads, which would keep what they have. Where that is not possible, it
/// goes on as it is.
pub fn yield_to_others() {
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!(%error, "the drill runs at the usual priority");
    }
    // ioprio_set(2) has no wrapper; the class "idle" of ionice(1).
    let status = Command::new("ionice")
        .args(["-c", "3", "-p", &std::process::id().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !status.is_ok_and(|status| status.success()) {
        tracing::debug!("the drill's disk traffic has the usual priority");
    }
}
