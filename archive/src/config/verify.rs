//! Parts of an archive, as verification takes them.

/// Reads a part of all objects, such as `5%`.
///
/// # Errors
/// How to write it.
pub fn parse_share(text: &str) -> Result<f64, String> {
    let percent = text.strip_suffix('%').and_then(|text| text.parse().ok());
    percent
        .filter(|percent: &f64| *percent > 0.0 && *percent <= 100.0)
        .map(|percent| percent / 100.0)
        .ok_or_else(|| "write it as a part of all objects, such as \"5%\"".to_owned())
}
