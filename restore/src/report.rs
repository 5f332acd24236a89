//! What commands print: one JSON value for programs, tables for people.

use std::fmt;
use std::io::Write;

use jiff::Timestamp;
use serde::Serialize;

use crate::exit::{CommandError, Failure, REFUSED};
use crate::target::format_instant;

/// Standard output does not take what is printed.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output: {0}; send it somewhere that takes it")]
pub struct OutputError(#[from] pub std::io::Error);

impl CommandError for OutputError {
    fn exit_code(&self) -> u8 {
        REFUSED
    }
}

/// Prints to standard output.
///
/// # Errors
/// When it does not take it.
pub fn print(text: fmt::Arguments<'_>) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        // Whoever reads has seen enough, as `head` does.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result.map_err(OutputError)?),
    }
}

/// Prints a value as JSON.
///
/// # Errors
/// When standard output does not take it.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(value).map_err(|error| OutputError(error.into()))?;
    print(format_args!("{json}\n"))
}

/// Columns under headings.
#[derive(Debug, Clone)]
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new(headings: &[&'static str]) -> Table {
        Table {
            headings: headings.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row, a cell for each heading.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = self
                .rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count());
            cells
                .chain([self.headings[column].len()])
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.headings.len()).map(width).collect();
        let line = |f: &mut fmt::Formatter<'_>, cells: &mut dyn Iterator<Item = &str>| {
            let padded = cells
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}"));
            let line: Vec<String> = padded.collect();
            writeln!(f, "  {}", line.join("  ").trim_end())
        };
        line(f, &mut self.headings.iter().copied())?;
        for row in &self.rows {
            line(f, &mut row.iter().map(String::as_str))?;
        }
        Ok(())
    }
}

/// An instant in UTC, whole seconds.
#[must_use]
pub fn instant(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// An instant in UTC as `--target-time` takes it.
#[must_use]
pub fn exact_instant(time: Timestamp) -> String {
    format_instant(time)
}

/// A number of bytes, such as `1.4 GiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A length of time, such as `3 min 20 s`.
#[must_use]
pub fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_well() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        assert_eq!(span(59), "59 s");
        assert_eq!(span(3725), "1 h 2 min");
        assert_eq!(span(-5), "0 s");
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["A", "LONG"]);
        table.row(vec!["wide".to_owned(), "b".to_owned()]);
        assert_eq!(table.to_string(), "  A     LONG\n  wide  b\n");
    }
}
