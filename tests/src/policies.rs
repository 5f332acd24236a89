//! The IAM policies of `docs/security.md`.

use std::fs;
use std::path::Path;

/// The policy under the heading `#### <title>`, for a bucket and a prefix.
///
/// # Panics
/// When there is none, or it is not JSON.
#[must_use]
pub fn policy(title: &str, bucket: &str, prefix: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md");
    let document = fs::read_to_string(path).expect("docs/security.md");
    let (_, section) = document
        .split_once(&format!("#### {title}\n"))
        .unwrap_or_else(|| panic!("docs/security.md has no section '{title}'"));
    let block = section
        .split_once("```json\n")
        .and_then(|(_, rest)| rest.split_once("```"));
    let (json, _) = block.expect("a policy");
    let json = json.replace("BUCKET", bucket).replace("PREFIX", prefix);
    let parsed: serde_json::Value = serde_json::from_str(&json).expect("a policy is JSON");
    parsed.to_string()
}
