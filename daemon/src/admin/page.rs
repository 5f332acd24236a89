//! The page at `/`: one file, compiled in, that asks `/status` for all it shows.

use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};

use super::routes::{Answer, text};

const PAGE: &str = include_str!("page.html");

const REFERRER_POLICY: HeaderName = HeaderName::from_static("referrer-policy");

/// The page. It may run its own script and ask its own server, and nothing else.
pub(super) fn page() -> Answer {
    static POLICY: OnceLock<HeaderValue> = OnceLock::new();
    let policy = POLICY.get_or_init(|| {
        HeaderValue::from_str(&policy()).expect("hashes in base64 are visible ASCII")
    });
    let mut answer = text(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, policy.clone());
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    answer
}

/// Content Security Policy Level 3: script by its hash. Style attributes are set from the page as well.
fn policy() -> String {
    let script = hash(between(PAGE, "<script>", "</script>"));
    format!(
        "default-src 'none'; script-src 'sha256-{script}'; style-src 'unsafe-inline'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let inner = text.split_once(begin).map_or("", |(_, rest)| rest);
    inner.split_once(end).map_or("", |(inner, _)| inner)
}

fn hash(text: &str) -> String {
    STANDARD.encode(Sha256::digest(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_needs_nothing_else() {
        assert!(PAGE.len() <= 100 << 10, "{} bytes", PAGE.len());
        for foreign in [
            "http://",
            "https://",
            "src=",
            "@import",
            "url(",
            "innerHTML",
        ] {
            let found = PAGE
                .replace("http://www.w3.org/2000/svg", "")
                .contains(foreign);
            assert!(!found, "{foreign}");
        }
        assert!(between(PAGE, "<script>", "</script>").contains("fetch("));
    }
}
