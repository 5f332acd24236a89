//! A clock on the wall that can be set, for whichever programs are told of it (faketime(1)). What
//! they measure lengths of time with goes on as ever, as it does when an administrator sets the clock.

use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

use crate::cache;
use crate::user::write_as_server_user;

/// A clock. It goes on from what it was set to.
#[derive(Debug)]
pub struct Clock {
    file: PathBuf,
}

impl Clock {
    /// A clock that is kept in `file` and shows `now`.
    #[must_use]
    pub fn new(file: &Path, now: Timestamp) -> Clock {
        let clock = Clock {
            file: file.to_owned(),
        };
        clock.set(now);
        clock
    }

    /// Sets it.
    pub fn set(&self, now: Timestamp) {
        let ahead = now.duration_since(Timestamp::now()).as_secs();
        // What is read must be whole at any moment.
        let new = self.file.with_extension("new");
        write_as_server_user(&new, format!("{ahead:+}\n"));
        std::fs::rename(&new, &self.file).expect("the clock is set");
    }

    /// Sets it forward, or back.
    ///
    /// # Panics
    /// When that is no time any more.
    pub fn step(&self, by: SignedDuration) {
        self.set(self.now() + by);
    }

    /// What it shows.
    ///
    /// # Panics
    /// When it was never set.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let text = std::fs::read_to_string(&self.file).expect("the clock");
        let ahead = text.trim().parse().expect("seconds");
        Timestamp::now() + SignedDuration::from_secs(ahead)
    }

    /// The variables that make programs go by it.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        let variables = [
            ("LD_PRELOAD", cache::faketime().display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ];
        let owned = |(name, value): (&str, String)| (name.to_owned(), value);
        variables.map(owned).to_vec()
    }
}
