//! The IAM policies of `docs/security.md`, and which of their rights a program used.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// The first block of `language` under the heading `title` of `docs/security.md`.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn block(title: &str, language: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md");
    let document = fs::read_to_string(path).expect("docs/security.md");
    let (_, section) = document
        .split_once(&format!("# {title}\n"))
        .unwrap_or_else(|| panic!("docs/security.md has no section '{title}'"));
    let block = section
        .split_once(&format!("```{language}\n"))
        .and_then(|(_, rest)| rest.split_once("```"));
    let (text, _) = block.unwrap_or_else(|| panic!("'{title}' has no block of {language}"));
    text.to_owned()
}

/// The policy under the heading `#### <title>`, for a bucket and a prefix.
///
/// # Panics
/// When there is none, or it is not JSON.
#[must_use]
pub fn policy(title: &str, bucket: &str, prefix: &str) -> String {
    let json = block(title, "json")
        .replace("BUCKET", bucket)
        .replace("PREFIX", prefix);
    let parsed: Value = serde_json::from_str(&json).expect("a policy is JSON");
    parsed.to_string()
}

/// A right as IAM names it: an action and the resource it is for.
pub type Right = (String, String);

/// The rights that the requests in `log` needed (S3 API reference, "Actions, resources, and condition
/// keys"): one for each line that moto wrote about `bucket`.
#[must_use]
pub fn rights_used(log: &str, bucket: &str) -> BTreeSet<Right> {
    log.lines().filter_map(|line| right(line, bucket)).collect()
}

/// What `policy` grants and nobody used, as `action resource`.
///
/// # Panics
/// When it is not a policy.
#[must_use]
pub fn unused(policy: &str, used: &BTreeSet<Right>) -> Vec<String> {
    let policy: Value = serde_json::from_str(policy).expect("a policy is JSON");
    let mut unused = Vec::new();
    for statement in policy["Statement"].as_array().expect("statements") {
        for action in texts(&statement["Action"]) {
            for resource in texts(&statement["Resource"]) {
                let needed = used
                    .iter()
                    .any(|(name, at)| *name == action && matches(&resource, at));
                if !needed {
                    unused.push(format!("{action} {resource}"));
                }
            }
        }
    }
    unused
}

/// `… "GET /bucket/key?query HTTP/1.1" 200 …`
fn right(line: &str, bucket: &str) -> Option<Right> {
    let mut quoted = line.split('"').skip(1);
    let (request, status) = (quoted.next()?, quoted.next()?);
    if status.trim_start().starts_with("403") {
        return None;
    }
    // It colours what is not answered by 200.
    let request = request.rsplit("\u{1b}[0m").find(|part| !part.is_empty())?;
    let request = request.rsplit('\u{1b}').next()?;
    let request =
        request
            .split_once('m')
            .map_or(request, |(code, rest)| match code.starts_with('[') {
                true => rest,
                false => request,
            });
    let mut words = request.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let rest = target.strip_prefix(&format!("/{bucket}"))?;
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let key = path.trim_start_matches('/');
    let asks = |name: &str| {
        query
            .split('&')
            .any(|pair| pair.split('=').next() == Some(name))
    };
    let action = match (method, key.is_empty()) {
        ("GET", true) if asks("versions") => "ListBucketVersions",
        ("GET", true) if asks("uploads") => "ListBucketMultipartUploads",
        ("GET" | "HEAD", true) => "ListBucket",
        ("GET" | "HEAD", false) => "GetObject",
        ("PUT", false) => "PutObject",
        ("DELETE", false) if asks("uploadId") => "AbortMultipartUpload",
        ("DELETE", false) if asks("versionId") => "DeleteObjectVersion",
        ("DELETE", false) => "DeleteObject",
        _ => return None,
    };
    let resource = match key {
        "" => format!("arn:aws:s3:::{bucket}"),
        key => format!("arn:aws:s3:::{bucket}/{key}"),
    };
    Some((format!("s3:{action}"), resource))
}

fn texts(value: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    match value {
        Value::Array(values) => values.iter().map(text).collect(),
        value => vec![text(value)],
    }
}

/// As IAM compares: `*` stands for any characters.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        if let Some(previous) = last.replace(part) {
            match rest.find(previous) {
                Some(at) => rest = &rest[at + previous.len()..],
                None => return false,
            }
        }
    }
    last.map_or(rest.is_empty(), |last| rest.ends_with(last))
}
