//! Times as PostgreSQL spells them.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Reads a `timestamp` in UTC, such as `2026-11-21 06:45:00.123456`.
///
/// # Panics
/// When it is not one.
#[must_use]
pub fn utc(text: &str) -> Timestamp {
    let time: DateTime = text
        .parse()
        .unwrap_or_else(|_| panic!("'{text}' is not a time"));
    time.to_zoned(TimeZone::UTC)
        .expect("a time of this era")
        .timestamp()
}

/// Spells a `timestamptz`, as `recovery_target_time` takes it.
#[must_use]
pub fn timestamptz(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S.%6f+00").to_string()
}
