//! Canaries: small messages that walvaultd writes into PostgreSQL's WAL (`pg_logical_emit_message`), so that a drill
//! finds one again in the archive and knows how recent what it restored is, however idle the database was.

use jiff::Timestamp;

/// What the prefix of the messages is.
pub const PREFIX: &str = "walvault";
/// What their text begins with; the version and the time follow.
const WORD: &str = "canary 1 ";

/// The statement that writes one. It is no transaction, has no transaction ID and waits for nobody; the time in
/// it is the server's, in microseconds since 1970.
#[must_use]
pub fn statement() -> String {
    format!(
        "SELECT pg_catalog.pg_logical_emit_message(false, '{PREFIX}', \
         '{WORD}' || (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::pg_catalog.int8)"
    )
}

/// When the canary was written that a message is; `None` when it is none.
#[must_use]
pub fn read(prefix: &str, text: &str) -> Option<Timestamp> {
    if prefix != PREFIX {
        return None;
    }
    let micros = text.strip_prefix(WORD)?.parse().ok()?;
    Timestamp::from_microsecond(micros).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_walvaults_own_messages_are_canaries() {
        let at = read("walvault", "canary 1 1795242600000001");
        assert_eq!(
            at.map(Timestamp::as_microsecond),
            Some(1_795_242_600_000_001)
        );
        for (prefix, text) in [
            ("other", "canary 1 1795242600000001"),
            ("walvault", "canary 2 1795242600000001"),
            ("walvault", "canary 1 soon"),
            ("walvault", ""),
        ] {
            assert_eq!(read(prefix, text), None, "{prefix} {text}");
        }
        let longest = walvault_protocol::wal::LONGEST_MESSAGE;
        assert!(PREFIX.len() + 1 + WORD.len() + i64::MAX.to_string().len() <= longest);
    }
}
