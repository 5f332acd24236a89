//! The kinds of values that several keys take.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::ConfigError;
use crate::reader::Field;

/// A time such as `"1s"`, `"500ms"` or `"1h 30m"`, or 0.
pub(super) fn duration(
    field: Field,
    bounds: RangeInclusive<Duration>,
) -> Result<Duration, ConfigError> {
    let show = |bound: &Duration| {
        let signed = jiff::SignedDuration::try_from(*bound).unwrap_or(jiff::SignedDuration::MAX);
        format!("{signed:#}")
    };
    let (least, most) = (show(bounds.start()), show(bounds.end()));
    field.is(format!("duration, {least} to {most}"));
    let text = field.text_or_integer()?;
    let parsed = if text == "0" {
        Some(Duration::ZERO)
    } else {
        let parsed = text.parse::<jiff::SignedDuration>().ok();
        parsed.and_then(|parsed| Duration::try_from(parsed).ok())
    };
    let Some(parsed) = parsed else {
        let reason =
            format!("'{text}' is not a time; write it with a unit, such as \"500ms\" or \"1s\"");
        return Err(field.invalid(reason));
    };
    if bounds.contains(&parsed) {
        return Ok(parsed);
    }
    Err(field.invalid(format!(
        "'{text}' is out of bounds; set it from {least} to {most}"
    )))
}

/// A time in days such as `"90d"`, or as [`duration`] takes it; at most `most` days.
pub(super) fn days(field: Field, most: u64) -> Result<Duration, ConfigError> {
    let day = 24 * 3600;
    field.is(format!("days or duration, 0 to {most}d"));
    let text = field.text_or_integer()?;
    match text
        .strip_suffix('d')
        .map(|count| count.trim().parse::<u64>())
    {
        Some(Ok(count)) if count <= most => Ok(Duration::from_secs(count * day)),
        Some(_) => {
            let reason = format!("'{text}' will not do; set it from 0 to \"{most}d\"");
            Err(field.invalid(reason))
        }
        None => duration(field, Duration::ZERO..=Duration::from_secs(most * day)),
    }
}

/// A size in bytes such as `"128MiB"` or 134217728.
pub(super) fn size(field: Field, bounds: RangeInclusive<u64>) -> Result<u64, ConfigError> {
    let (least, most) = (
        bytesize::ByteSize(*bounds.start()),
        bytesize::ByteSize(*bounds.end()),
    );
    field.is(format!("size, {least} to {most}"));
    let text = field.text_or_integer()?;
    let Ok(size) = text.parse::<bytesize::ByteSize>() else {
        let reason = format!("'{text}' is not a size; write it as \"128MiB\", or in bytes");
        return Err(field.invalid(reason));
    };
    if bounds.contains(&size.as_u64()) {
        return Ok(size.as_u64());
    }
    Err(field.invalid(format!(
        "'{text}' is out of bounds; set it from {least} to {most}"
    )))
}

/// Reads a size as the configuration takes it: `700MB`, `4GiB`, or bytes.
///
/// # Errors
/// How to write it.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let size = text.parse::<bytesize::ByteSize>();
    size.map(|size| size.as_u64())
        .map_err(|_| "write it with a unit, such as 700MB or 4GiB, or in bytes".to_owned())
}

/// A count.
pub(super) fn count(field: Field, bounds: RangeInclusive<usize>) -> Result<usize, ConfigError> {
    field.is(format!("number, {} to {}", bounds.start(), bounds.end()));
    let text = field.text_or_integer()?;
    let parsed = text.parse().ok().filter(|count| bounds.contains(count));
    parsed.ok_or_else(|| {
        field.invalid(format!(
            "'{text}' will not do; set it to a number from {} to {}",
            bounds.start(),
            bounds.end()
        ))
    })
}

/// A file's path.
pub(super) fn path(field: Field) -> Result<PathBuf, ConfigError> {
    let path = PathBuf::from(field.is("absolute path").text()?);
    if path.is_absolute() {
        Ok(path)
    } else {
        let reason = format!(
            "'{}' is not an absolute path; begin it with /",
            path.display()
        );
        Err(field.invalid(reason))
    }
}

/// One of several words.
pub(super) fn word<T: Copy>(field: Field, words: &[(&str, T)]) -> Result<T, ConfigError> {
    let quoted: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
    field.is(quoted.join(", "));
    let text = field.text()?;
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let known: Vec<String> = words
        .iter()
        .map(|(word, _)| format!("\"{word}\""))
        .collect();
    Err(field.invalid(format!(
        "'{text}' is not known; set it to {}",
        known.join(" or ")
    )))
}
