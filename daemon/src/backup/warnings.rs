//! What the server says while it sends a backup: a page whose checksum is wrong, a file that it left out.

use walvault_protocol::message::ServerError;

/// How many are kept. PostgreSQL itself says no more than five of one file.
const KEPT: usize = 50;

/// The server's warnings and notices, as they came.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    kept: Vec<String>,
    more: usize,
}

impl Warnings {
    /// Says at once what the server said, and keeps it.
    pub(super) fn hear(&mut self, notices: Vec<ServerError>) {
        for notice in notices {
            let detail = notice.detail.as_ref().map(|detail| format!(" ({detail})"));
            let text = format!(
                "{}: {}{}",
                notice.severity,
                notice.message,
                detail.unwrap_or_default()
            );
            // It says the same while it estimates sizes and while it sends.
            if !self.kept.contains(&text) {
                tracing::warn!(server = text, "the server said during the backup");
                self.keep(text);
            }
        }
    }

    fn keep(&mut self, text: String) {
        match self.kept.len() < KEPT {
            true => self.kept.push(text),
            false => self.more += 1,
        }
    }

    /// All of them, and how many more there were.
    pub(super) fn into_lines(mut self) -> Vec<String> {
        if self.more > 0 {
            let more = self.more;
            self.kept
                .push(format!("and {more} more, which the server's log has"));
        }
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_a_thousand_times_is_counted() {
        let mut warnings = Warnings::default();
        let notice = |number: usize| ServerError {
            severity: "WARNING".to_owned(),
            sqlstate: "01000".to_owned(),
            message: format!("page {number}"),
            detail: None,
            hint: None,
            routine: None,
        };
        warnings.hear((0..1000).map(notice).collect());
        let lines = warnings.into_lines();
        assert_eq!(lines.len(), KEPT + 1);
        assert_eq!(lines[0], "WARNING: page 0");
        assert_eq!(lines[KEPT], "and 950 more, which the server's log has");
    }
}
