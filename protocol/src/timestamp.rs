//! PostgreSQL's timestamps.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Microseconds since 2000-01-01 00:00:00 UTC, PostgreSQL's `TimestampTz`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PgTimestamp(pub i64);

/// Seconds from 1970-01-01 to 2000-01-01.
const EPOCH_OFFSET_SECONDS: i64 = 946_684_800;

impl PgTimestamp {
    /// From microseconds since 1970.
    #[must_use]
    pub const fn from_unix_micros(micros: i64) -> PgTimestamp {
        PgTimestamp(micros.saturating_sub(EPOCH_OFFSET_SECONDS * 1_000_000))
    }

    /// Microseconds since 1970.
    #[must_use]
    pub const fn unix_micros(self) -> i64 {
        self.0.saturating_add(EPOCH_OFFSET_SECONDS * 1_000_000)
    }
}

impl From<SystemTime> for PgTimestamp {
    fn from(time: SystemTime) -> PgTimestamp {
        let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        PgTimestamp::from_unix_micros(match time.duration_since(UNIX_EPOCH) {
            Ok(after) => micros(after),
            Err(before) => -micros(before.duration()),
        })
    }
}

impl fmt::Debug for PgTimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}us", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_from_the_year_2000() {
        let time = UNIX_EPOCH + Duration::from_secs(946_684_800);
        assert_eq!(PgTimestamp::from(time), PgTimestamp(0));
        assert_eq!(PgTimestamp(5).unix_micros(), 946_684_800_000_005);
    }
}
