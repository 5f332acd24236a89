//! What a client and a helper say to each other: a line each way, over a socket that only the
//! server's user can reach.
//!
//! A segment that waits under its own name may be renamed by any client; the rename decides whose it
//! is. The client says so afterwards and waits for no answer: PostgreSQL replays nothing meanwhile.

use std::time::Duration;

/// How often a helper that works on a request says so.
pub(super) const BEAT: Duration = Duration::from_secs(5);

/// How long a client waits for the next word of a helper.
pub(super) const SILENCE: Duration = Duration::from_secs(20);

/// The longest line.
pub(super) const LONGEST: u64 = 4096;

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// It wants the file of WAL of this name.
    Want(String),
    /// It has taken the segment of this name, which waited. No answer follows.
    Taken(String),
}

impl Request {
    /// As a line.
    pub(super) fn to_line(&self) -> String {
        match self {
            Request::Want(name) => format!("{name}\n"),
            Request::Taken(name) => format!("taken {name}\n"),
        }
    }

    /// From a line; `None` if it was cut off.
    pub(super) fn parse(line: &str) -> Option<Request> {
        let line = line.strip_suffix('\n')?;
        Some(match line.strip_prefix("taken ") {
            Some(name) => Request::Taken(name.to_owned()),
            None => Request::Want(line.to_owned()),
        })
    }
}

/// A helper's answer to the name of a file of WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is in this file of the site: rename it.
    Take(String),
    /// It is in this file of the site, and somebody else waits for it too: copy it.
    Copy(String),
    /// The archive was asked for it just now, and does not hold it.
    Absent,
    /// It could not be had.
    Failed(String),
    /// It is being worked on; another answer follows.
    Wait,
}

impl Answer {
    /// As a line.
    pub(super) fn to_line(&self) -> String {
        match self {
            Answer::Take(file) => format!("take {file}\n"),
            Answer::Copy(file) => format!("copy {file}\n"),
            Answer::Absent => "absent\n".to_owned(),
            Answer::Failed(reason) => format!("failed {}\n", reason.replace('\n', " ")),
            Answer::Wait => "wait\n".to_owned(),
        }
    }

    /// From a line; `None` if it is none of these, or was cut off.
    pub(super) fn parse(line: &str) -> Option<Answer> {
        let line = line.strip_suffix('\n')?;
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let file = || (!rest.is_empty() && !rest.contains('/')).then(|| rest.to_owned());
        match word {
            "take" => file().map(Answer::Take),
            "copy" => file().map(Answer::Copy),
            "absent" => Some(Answer::Absent),
            "failed" => Some(Answer::Failed(rest.to_owned())),
            "wait" => Some(Answer::Wait),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_round_trip() {
        for answer in [
            Answer::Take("a".to_owned()),
            Answer::Copy("b".to_owned()),
            Answer::Absent,
            Answer::Failed("no room left".to_owned()),
            Answer::Wait,
        ] {
            assert_eq!(Answer::parse(&answer.to_line()), Some(answer));
        }
    }

    #[test]
    fn requests_round_trip() {
        for request in [
            Request::Want("000000010000000000000003.partial".to_owned()),
            Request::Taken("000000010000000000000003".to_owned()),
        ] {
            assert_eq!(Request::parse(&request.to_line()), Some(request));
        }
        assert_eq!(Request::parse("taken 00000001"), None);
    }

    #[test]
    fn what_is_cut_off_or_leads_elsewhere_is_no_answer() {
        for line in ["", "take a", "take \n", "take ../a\n", "absen\n", "\n"] {
            assert_eq!(Answer::parse(line), None, "{line:?}");
        }
    }
}
