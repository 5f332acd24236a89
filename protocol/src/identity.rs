//! Which cluster this is, and which PostgreSQL runs it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The 64-bit system identifier that `initdb` gives a cluster, as `IDENTIFY_SYSTEM` and
/// `pg_controldata` print it. Serialises as text: it does not fit JSON's numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemId(pub u64);

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for SystemId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<SystemId, Self::Err> {
        text.parse().map(SystemId)
    }
}

impl Serialize for SystemId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SystemId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SystemId, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// `server_version_num`: 150018 is 15.18.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServerVersion(pub u32);

impl ServerVersion {
    /// The oldest version walvault speaks to, 13.
    pub const OLDEST: ServerVersion = ServerVersion(130_000);

    /// The major version: 15 for 15.18.
    #[must_use]
    pub const fn major(self) -> u32 {
        self.0 / 10_000
    }

    /// Reads the `server_version` parameter, such as `15.18 (Debian 15.18-0+deb12u1)` or `18beta1`.
    #[must_use]
    pub fn from_parameter(text: &str) -> Option<ServerVersion> {
        let number = text.split_whitespace().next()?;
        let digits = |part: &str| -> Option<u32> {
            let end = part.bytes().position(|b| !b.is_ascii_digit());
            part[..end.unwrap_or(part.len())].parse().ok()
        };
        let mut parts = number.split('.');
        let major = digits(parts.next()?)?;
        let minor = parts.next().and_then(digits).unwrap_or(0);
        Some(ServerVersion(
            major.checked_mul(10_000)?.checked_add(minor)?,
        ))
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.0 % 10_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_server_version_in_every_dress() {
        let read = |text| ServerVersion::from_parameter(text).map(|version| version.0);
        assert_eq!(read("15.18 (Debian 15.18-0+deb12u1)"), Some(150_018));
        assert_eq!(read("18beta1"), Some(180_000));
        assert_eq!(read("17.10"), Some(170_010));
        assert_eq!(read("devel"), None);
    }
}
