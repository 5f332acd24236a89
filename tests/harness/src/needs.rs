//! What a test needs and is not there: the test is skipped, or fails where everything must be.
//!
//! [`missing`] ends a test by unwinding with a payload of its own, which the attributes
//! [`crate::test`] and [`crate::needs_servers`] catch. So a test need not list what it uses.

use std::any::Any;
use std::env;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;

/// Makes a missing server a failure; `make test` sets it. So does `CI=true`.
pub const REQUIRE: &str = "WALVAULT_REQUIRE_SERVERS";

/// What [`missing`] unwinds with.
struct Skipped(String);

/// Ends the running test because `what` is missing: as skipped, or as failed where nothing may be.
///
/// # Panics
/// Always, where every server is required.
pub fn missing(what: &str) -> ! {
    let remedy = "'make setup' installs what tests need";
    assert!(!required(), "{what}; {remedy}");
    skip(format!("{what}; {remedy}"))
}

/// Ends the running test as skipped because this user is not allowed what it needs. `make test` is
/// for every user, so no setting makes this a failure.
pub fn not_allowed(what: &str) -> ! {
    skip(format!("this user may not {what}; run as root"))
}

fn skip(why: String) -> ! {
    // Without the panic's own message: nothing failed.
    resume_unwind(Box::new(Skipped(why)))
}

/// Ends the running test because a command did not start: see [`missing`] for a program that is
/// not installed.
///
/// # Panics
/// For every other reason.
pub fn not_started(command: &Command, error: &io::Error) -> ! {
    match error.kind() {
        io::ErrorKind::NotFound => missing(&format!("{:?} is missing", command.get_program())),
        _ => panic!("start {command:?}: {error}"),
    }
}

/// Says that a part of a test is left out, as [`missing`] does for a whole one.
///
/// # Panics
/// Where every server is required.
pub fn leave_out(what: &str) {
    assert!(!required(), "{what}");
    say("SKIPPED IN PART", what);
}

/// Runs a test's body; the attributes call it.
///
/// # Panics
/// As the body does, unless that was skipped.
pub fn or_skip<T: Default>(body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(
        |payload: Box<dyn Any + Send>| match payload.downcast::<Skipped>() {
            Ok(skipped) => {
                say("SKIPPED", &skipped.0);
                T::default()
            }
            Err(failure) => resume_unwind(failure),
        },
    )
}

fn required() -> bool {
    let set = |name| env::var(name).is_ok_and(|value| value == "true" || value == "1");
    set(REQUIRE) || set("CI")
}

fn say(how: &str, why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // A macro's output would be hidden: the test passes.
    let _ = writeln!(io::stderr(), "\n{how}: {test}: {why}");
}
