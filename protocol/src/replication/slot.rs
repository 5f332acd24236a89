//! Replication slots.

use std::fmt;
use std::str::FromStr;

/// The name of a replication slot: 1 to 63 of `a`–`z`, `0`–`9` and `_`
/// (`ReplicationSlotValidateName`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotName(String);

/// A name that PostgreSQL would refuse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a slot name; use 1 to 63 lower-case letters, digits and underscores")]
pub struct SlotNameError(pub String);

impl SlotName {
    /// Checks `name`.
    ///
    /// # Errors
    /// When PostgreSQL would refuse it.
    pub fn new(name: impl Into<String>) -> Result<SlotName, SlotNameError> {
        let name = name.into();
        let fits = (1..=63).contains(&name.len());
        if fits
            && name
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
        {
            Ok(SlotName(name))
        } else {
            Err(SlotNameError(name))
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SlotName {
    type Err = SlotNameError;

    fn from_str(text: &str) -> Result<SlotName, SlotNameError> {
        SlotName::new(text)
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How to create a physical slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlotOptions {
    /// It goes away with the session that made it.
    pub temporary: bool,
    /// It holds WAL back from now on, not only from the first use on.
    pub reserve_wal: bool,
}
