//! Instants as people write them: RFC 3339, or as PostgreSQL prints `timestamptz`.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};

/// Why a text is not an instant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InstantError {
    /// It cannot be read.
    #[error(
        "'{0}' is not a time; write it as 2026-11-21 14:03:00.123456+01 or 2026-11-21T13:03:00Z"
    )]
    Malformed(String),
    /// It does not say which zone's clock is meant.
    #[error("'{text}' does not say in which time zone; write '{utc}' if UTC is meant{}", .local.as_ref().map_or_else(String::new, |(zone, local)| format!(", or '{local}' if it is this machine's time ({zone})")))]
    NoZone {
        /// As given.
        text: String,
        /// The same clock time in UTC.
        utc: String,
        /// This machine's zone, and the instant in UTC if that was meant; `None` where it is UTC.
        local: Option<(String, String)>,
    },
    /// Clocks of that zone never showed it, or showed it twice.
    #[error(
        "'{0}' happened twice or not at all in its time zone, where clocks were put back or forward; write it with an offset, such as +01, or in UTC"
    )]
    Ambiguous(String),
    /// PostgreSQL has none.
    #[error(
        "'{0}' is in a leap second, which PostgreSQL does not count; write the beginning of the next minute"
    )]
    LeapSecond(String),
    /// PostgreSQL would round it.
    #[error(
        "'{0}' has digits beyond microseconds, which PostgreSQL does not count; leave them out"
    )]
    TooFine(String),
}

/// Reads an instant. A zone is required: an offset, `Z`, `UTC`, or a name such as `Europe/Berlin`.
///
/// # Errors
/// When it cannot be read, or could mean several instants.
pub fn parse_instant(text: &str) -> Result<Timestamp, InstantError> {
    let malformed = || InstantError::Malformed(text.to_owned());
    let (clock, zone) = split_zone(text.trim());
    // It would be read as the second before, which is not what was meant.
    let seconds = clock.split(':').nth(2);
    if seconds.is_some_and(|seconds| seconds.starts_with("60")) {
        return Err(InstantError::LeapSecond(text.to_owned()));
    }
    // A date alone has no time that could be meant.
    let clock: DateTime = match clock.contains(':') {
        true => clock.parse().map_err(|_| malformed())?,
        false => return Err(malformed()),
    };
    if clock.subsec_nanosecond() % 1000 != 0 {
        return Err(InstantError::TooFine(text.to_owned()));
    }
    let in_zone = |zone: TimeZone| {
        zone.to_ambiguous_timestamp(clock)
            .unambiguous()
            .map_err(|_| InstantError::Ambiguous(text.to_owned()))
    };
    match zone {
        Some(zone) => in_zone(parse_zone(zone).ok_or_else(malformed)?),
        None => {
            let system = TimeZone::system();
            let local = system.to_timestamp(clock).map_err(|_| malformed())?;
            let utc = TimeZone::UTC.to_timestamp(clock).map_err(|_| malformed())?;
            let zone = system.iana_name().unwrap_or("its local time").to_owned();
            Err(InstantError::NoZone {
                text: text.to_owned(),
                utc: format_instant(utc),
                local: (local != utc).then(|| (zone, format_instant(local))),
            })
        }
    }
}

/// Spells an instant in UTC as PostgreSQL reads it: `2026-11-21 13:03:00.123456+00`.
#[must_use]
pub fn format_instant(instant: Timestamp) -> String {
    // Whole microseconds in as few digits as needed.
    let micros = Timestamp::from_microsecond(instant.as_microsecond()).unwrap_or(instant);
    micros.strftime("%Y-%m-%d %H:%M:%S%.f+00").to_string()
}

/// Separates the clock's time from the zone: at the first letter after the `T`, or at a sign that
/// comes after the first colon.
fn split_zone(text: &str) -> (&str, Option<&str>) {
    let Some(colon) = text.find(':') else {
        return (text, None);
    };
    let zone =
        text[colon..].find(|c: char| c == '+' || c == '-' || c.is_ascii_alphabetic() || c == '[');
    match zone {
        Some(at) => {
            let (clock, zone) = text.split_at(colon + at);
            (clock.trim_end(), Some(zone.trim_end()))
        }
        None => (text, None),
    }
}

fn parse_zone(zone: &str) -> Option<TimeZone> {
    if ["z", "utc", "gmt"].contains(&zone.to_ascii_lowercase().as_str()) {
        return Some(TimeZone::UTC);
    }
    if zone.contains('/') {
        let name = zone
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'))
            .unwrap_or(zone);
        return TimeZone::get(name).ok();
    }
    parse_offset(zone).map(TimeZone::fixed)
}

/// `+01`, `+0130`, `+01:30` or `+01:30:00`.
fn parse_offset(text: &str) -> Option<Offset> {
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let digits: String = match text[1..].split(':').collect::<Vec<_>>().as_slice() {
        parts @ ([_] | [_, _] | [_, _, _])
            if parts.len() == 1 || parts.iter().all(|part| part.len() == 2) =>
        {
            parts.concat()
        }
        _ => return None,
    };
    let field = |index: usize| -> Option<i32> {
        match digits.get(2 * index..2 * index + 2) {
            Some(two) if two.bytes().all(|b| b.is_ascii_digit()) => two.parse().ok(),
            Some(_) => None,
            None => Some(0),
        }
    };
    let whole = matches!(digits.len(), 2 | 4 | 6);
    let (hours, minutes, seconds) = (field(0)?, field(1)?, field(2)?);
    // PostgreSQL's MAX_TZDISP_HOUR is 15.
    let sane = whole && hours <= 15 && minutes < 60 && seconds < 60;
    sane.then(|| Offset::from_seconds(sign * (hours * 3600 + minutes * 60 + seconds)).ok())?
}
