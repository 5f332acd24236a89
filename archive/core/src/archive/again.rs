//! Reading anew what did not open. What was damaged on the way, by a proxy or in memory, comes whole
//! the next time; what is damaged where it is stored stays so.

use crate::error::Error;

/// How often an object is read until it counts as damaged.
const READS: u32 = 3;

/// How many more times an object may be read.
#[derive(Debug)]
pub(crate) struct Again {
    left: u32,
}

impl Again {
    /// When nothing was read yet.
    pub(crate) fn new() -> Again {
        Again { left: READS }
    }

    /// Counts a read that ended with `error`.
    ///
    /// # Errors
    /// The same error, when another read would not help.
    pub(crate) fn after(&mut self, name: &str, error: Error) -> Result<(), Error> {
        self.left = self.left.saturating_sub(1);
        let damaged = matches!(error, Error::Corrupt { .. } | Error::Record { .. });
        if self.left == 0 || !damaged {
            return Err(error);
        }
        tracing::warn!(object = name, %error, "an object did not open; it is read again");
        Ok(())
    }
}

/// Reads until the object opens, or is damaged for good.
///
/// # Errors
/// That of the last read.
pub async fn again<T, F>(name: &str, mut read: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut again = Again::new();
    loop {
        match read().await {
            Ok(opened) => return Ok(opened),
            Err(error) => again.after(name, error)?,
        }
    }
}

#[cfg(test)]
mod tests;
