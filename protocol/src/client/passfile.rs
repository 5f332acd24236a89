//! The password file (`passwordFromFile` in `fe-connect.c`).

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use crate::auth::Secret;

/// Whom a password is looked up for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lookup<'a> {
    /// The host's name, or the directory of its socket.
    pub(super) host: &'a str,
    pub(super) port: u16,
    /// Any of these. A replication connection goes by `replication`, as libpq's tools have it,
    /// and by the name in the URL, so that one line can serve both kinds.
    pub(super) databases: &'a [&'a str],
    pub(super) user: &'a str,
}

/// The password in the file at `path`, or why there is none. A file that others may read is not
/// used.
pub(super) async fn read(path: &Path, lookup: Lookup<'_>) -> Result<Secret, String> {
    let name = path.display();
    let metadata = tokio::fs::metadata(path).await;
    let metadata = metadata.map_err(|error| {
        format!("none is configured and the password file {name} cannot be read: {error}")
    })?;
    if !metadata.is_file() {
        return Err(format!("the password file {name} is not a plain file"));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(format!(
            "others may read the password file {name}; set its mode to 0600"
        ));
    }
    let content = tokio::fs::read(path).await;
    let content = Zeroizing::new(
        content.map_err(|error| format!("the password file {name} cannot be read: {error}"))?,
    );
    find(&content, lookup).ok_or_else(|| {
        format!(
            "no line of the password file {name} is for {}:{}:{}:{}",
            lookup.host, lookup.port, lookup.databases[0], lookup.user
        )
    })
}

/// The password on the first line that matches.
fn find(content: &[u8], lookup: Lookup<'_>) -> Option<Secret> {
    let content = std::str::from_utf8(content).ok()?;
    let port = lookup.port.to_string();
    content
        .lines()
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| {
            let (host, rest) = field(line)?;
            let (wanted_port, rest) = field(rest)?;
            let (database, rest) = field(rest)?;
            let (user, password) = field(rest)?;
            let local = lookup.host.starts_with('/') && host.as_str() == "localhost";
            let fits = (local || matches(&host, lookup.host))
                && matches(&wanted_port, &port)
                && lookup.databases.iter().any(|name| matches(&database, name))
                && matches(&user, lookup.user);
            fits.then(|| unescape(password.trim_end_matches('\r')))
        })
        .filter(|password| !password.is_empty())
        .map(|mut password| Secret::new(std::mem::take(&mut *password)))
}

fn matches(pattern: &str, value: &str) -> bool {
    pattern == "*" || pattern == value
}

/// The text up to the next colon that is not escaped, unescaped, and what follows the colon.
fn field(text: &str) -> Option<(Zeroizing<String>, &str)> {
    let mut escaped = false;
    let colon = text.bytes().position(|byte| {
        let ends = byte == b':' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })?;
    Some((unescape(&text[..colon]), &text[colon + 1..]))
}

fn unescape(text: &str) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::with_capacity(text.len()));
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => out.push(characters.next().unwrap_or('\\')),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(host: &'static str, databases: &'static [&'static str]) -> Lookup<'static> {
        Lookup {
            host,
            port: 5432,
            databases,
            user: "vault",
        }
    }

    fn found(content: &str, lookup: Lookup<'_>) -> Option<String> {
        let secret = find(content.as_bytes(), lookup)?;
        Some(String::from_utf8_lossy(secret.expose()).into_owned())
    }

    #[test]
    fn the_first_line_that_matches_counts() {
        let content =
            "# db:5432:*:vault:no\nother:*:*:*:no\ndb:5432:replication:vault:one\n*:*:*:*:two\n";
        assert_eq!(
            found(content, lookup("db", &["replication", "app"])).as_deref(),
            Some("one")
        );
        assert_eq!(
            found(content, lookup("db", &["app"])).as_deref(),
            Some("two")
        );
        assert_eq!(found("db:5433:*:*:no", lookup("db", &["app"])), None);
    }

    #[test]
    fn colons_and_backslashes_are_escaped() {
        let content = "fe80\\:\\:1:*:*:vault:p\\:a\\\\b:c\r\n";
        assert_eq!(
            found(content, lookup("fe80::1", &["app"])).as_deref(),
            Some("p:a\\b:c")
        );
    }

    #[test]
    fn localhost_stands_for_sockets() {
        let content = "localhost:*:*:*:here";
        assert_eq!(
            found(content, lookup("/run/postgresql", &["app"])).as_deref(),
            Some("here")
        );
    }

    #[tokio::test]
    async fn a_file_others_may_read_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pgpass");
        std::fs::write(&path, "*:*:*:*:open").expect("written");
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode));
        mode(0o640).expect("a mode");
        let refused = read(&path, lookup("db", &["app"]))
            .await
            .err()
            .expect("refused");
        assert!(refused.ends_with("set its mode to 0600"), "{refused}");
        mode(0o600).expect("a mode");
        assert!(read(&path, lookup("db", &["app"])).await.is_ok());
    }
}
