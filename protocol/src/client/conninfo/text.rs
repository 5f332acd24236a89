//! The two notations of a connection string, each reduced to keywords and values
//! (`conninfo_uri_parse`, `conninfo_parse` in `fe-connect.c`).

use zeroize::Zeroizing;

use super::ConnInfoError;

/// A keyword and its value, which may be a password.
pub(super) type Pair = (String, Zeroizing<String>);

/// The pairs in `text`, in order.
pub(super) fn pairs(text: &str) -> Result<Vec<Pair>, ConnInfoError> {
    let schemes = ["postgresql://", "postgres://"];
    match schemes.iter().find_map(|scheme| text.strip_prefix(scheme)) {
        Some(rest) => uri(rest),
        None if has_scheme(text) => Err(ConnInfoError::Syntax(
            "has a scheme that is not postgresql://",
        )),
        None => keyword_values(text),
    }
}

/// Whether `text` begins as a URI does; a value may hold `://` anywhere.
fn has_scheme(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| {
        scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    })
}

fn uri(rest: &str) -> Result<Vec<Pair>, ConnInfoError> {
    let mut pairs = Vec::new();
    let mut push = |keyword: &str, text: &str| -> Result<(), ConnInfoError> {
        if !text.is_empty() {
            pairs.push((keyword.to_owned(), decode(text)?));
        }
        Ok(())
    };

    // As in libpq, credentials end at the first '@' unless a '/' comes before it.
    let (credentials, rest) = match rest.find(['@', '/']) {
        Some(at) if rest[at..].starts_with('@') => (&rest[..at], &rest[at + 1..]),
        _ => ("", rest),
    };
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    push("user", user)?;
    push("password", password)?;

    let (hosts, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (names, ports) = host_list(hosts)?;
    push("host", &names)?;
    push("port", &ports)?;

    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    push("dbname", path.strip_prefix('/').unwrap_or(path))?;
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (keyword, value) = parameter
            .split_once('=')
            .ok_or(ConnInfoError::Syntax("has a parameter without '='"))?;
        let (keyword, value) = (decode(keyword)?, decode(value)?);
        // JDBC's spelling, which libpq accepts too.
        if keyword.as_str() == "ssl" && value.as_str() == "true" {
            pairs.push(("sslmode".to_owned(), Zeroizing::new("require".to_owned())));
        } else {
            pairs.push((keyword.to_string(), value));
        }
    }
    Ok(pairs)
}

/// Names and ports of `host:port,[::1]:port,…`, each list joined by commas; a list without any
/// entry is empty.
fn host_list(hosts: &str) -> Result<(String, String), ConnInfoError> {
    let mut names = Vec::new();
    let mut ports = Vec::new();
    for host in hosts.split(',') {
        let (name, port) = match host.strip_prefix('[') {
            Some(bracketed) => {
                let (name, rest) = bracketed.split_once(']').ok_or(ConnInfoError::Syntax(
                    "has an IPv6 address without its closing ']'",
                ))?;
                match rest.strip_prefix(':') {
                    Some(port) => (name, port),
                    None if rest.is_empty() => (name, ""),
                    None => return Err(ConnInfoError::Syntax("has text after an IPv6 address")),
                }
            }
            None => host.split_once(':').unwrap_or((host, "")),
        };
        names.push(name);
        ports.push(port);
    }
    let joined = |parts: Vec<&str>| {
        if parts.iter().all(|part| part.is_empty()) {
            String::new()
        } else {
            parts.join(",")
        }
    };
    Ok((joined(names), joined(ports)))
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Result<Zeroizing<String>, ConnInfoError> {
    let malformed =
        || ConnInfoError::Syntax("has a '%' that is not followed by two hexadecimal digits");
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        let value = digit().zip(digit()).map(|(high, low)| high << 4 | low);
        match value.map(u8::try_from) {
            Some(Ok(0)) => {
                return Err(ConnInfoError::Syntax(
                    "has %00, which PostgreSQL does not allow",
                ));
            }
            Some(Ok(value)) => bytes.push(value),
            _ => return Err(malformed()),
        }
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(ConnInfoError::Syntax("is not UTF-8 once decoded")),
    }
}

fn keyword_values(text: &str) -> Result<Vec<Pair>, ConnInfoError> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_whitespace());
        let end = end.ok_or(ConnInfoError::Syntax("has a word without '='"))?;
        let (keyword, after) = rest.split_at(end);
        let after = after
            .trim_start()
            .strip_prefix('=')
            .ok_or(ConnInfoError::Syntax("has a word without '='"))?;
        let (value, after) = value(after.trim_start())?;
        pairs.push((keyword.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

/// A value at the front of `text`, quoted or not, and what follows it. A backslash takes the next
/// character literally.
fn value(text: &str) -> Result<(Zeroizing<String>, &str), ConnInfoError> {
    let quoted = text.starts_with('\'');
    let mut value = Zeroizing::new(String::with_capacity(text.len()));
    let mut characters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, character)) = characters.next() {
        match character {
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            '\\' => value.extend(characters.next().map(|(_, next)| next)),
            other if !quoted && other.is_whitespace() => return Ok((value, &text[at..])),
            other => value.push(other),
        }
    }
    if quoted {
        return Err(ConnInfoError::Syntax("has a quote that is not closed"));
    }
    Ok((value, ""))
}
