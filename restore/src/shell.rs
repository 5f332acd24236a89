//! Words of the commands that walvault tells an operator to run.

/// A word for the shell, as it is where it needs no quotes.
#[must_use]
pub fn word(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+,:@".contains(&byte);
    match !text.is_empty() && text.bytes().all(is_plain) {
        true => text.to_owned(),
        false => quoted(text),
    }
}

/// A word for the shell in quotes.
#[must_use]
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_the_shell_would_read_more_into_them() {
        assert_eq!(word("/data/ts_1"), "/data/ts_1");
        assert_eq!(word("/it's $HOME"), r"'/it'\''s $HOME'");
        assert_eq!(word(""), "''");
    }
}
