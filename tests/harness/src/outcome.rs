//! How a command ended.

use std::process::Command;

use crate::needs;

/// Its exit code and what it printed.
#[derive(Debug)]
pub struct Outcome {
    /// The command line.
    pub command: String,
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it printed for programs.
    pub stdout: String,
    /// What it printed for people.
    pub stderr: String,
}

impl Outcome {
    /// Runs `command` to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn of(mut command: Command) -> Outcome {
        let output = command
            .output()
            .unwrap_or_else(|error| needs::not_started(&command, &error));
        Outcome {
            command: format!("{command:?}"),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Itself, if the command succeeded.
    ///
    /// # Panics
    /// With all it printed, if not.
    #[must_use]
    pub fn succeeded(self) -> Outcome {
        assert_eq!(self.code, Some(0), "{self}");
        self
    }

    /// Requires that the command failed, in an orderly way, saying each of `texts` on standard
    /// error whatever the case of their letters.
    ///
    /// # Panics
    /// With all it printed, if not.
    pub fn failed_saying(&self, texts: &[&str]) {
        assert!(
            self.code.is_some_and(|code| code != 0 && code != 101),
            "{self}"
        );
        let said = self.stderr.to_lowercase();
        assert!(!said.contains("panicked"), "{self}");
        for text in texts {
            assert!(
                said.contains(&text.to_lowercase()),
                "nothing of '{text}' in: {self}"
            );
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Outcome {
            command,
            code,
            stdout,
            stderr,
        } = self;
        write!(
            f,
            "{command}\nexit code {code:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}"
        )
    }
}
