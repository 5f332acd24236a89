//! A report in Markdown (CommonMark with GitHub's tables).

use std::fmt::Write;

use super::document::{Bars, Block, Document, Fact};

/// The document as Markdown.
#[must_use]
pub fn markdown(document: &Document) -> String {
    let mut text = format!("# {}\n\n", escape(&document.title));
    // Writing to a string does not fail.
    for line in &document.about {
        let _ = writeln!(text, "{}  ", escape(line));
    }
    text.push('\n');
    for warning in &document.warnings {
        let _ = writeln!(text, "> **{}**\n", escape(warning));
    }
    for notice in &document.notices {
        let _ = writeln!(text, "> {}\n", escape(notice));
    }
    facts(&mut text, &document.summary);
    for section in &document.sections {
        let _ = writeln!(text, "\n## {}\n", escape(&section.title));
        for block in &section.blocks {
            match block {
                Block::Text(words) => {
                    let _ = writeln!(text, "{}\n", escape(words));
                }
                Block::Facts(list) => facts(&mut text, list),
                Block::List(items) => {
                    for item in items {
                        let _ = writeln!(text, "- {}", escape(item));
                    }
                    text.push('\n');
                }
                Block::Table(table) if table.rows.is_empty() => {
                    let _ = writeln!(
                        text,
                        "{}: {}\n",
                        escape(&table.title),
                        escape(&table.nothing)
                    );
                }
                Block::Table(table) => {
                    let _ = writeln!(text, "### {}\n", escape(&table.title));
                    rows(&mut text, &table.headings, table.rows.iter().cloned());
                }
                Block::Bars(bars) => chart(&mut text, bars),
                Block::Source(words) => {
                    let _ = writeln!(text, "*{}*\n", escape(words));
                }
            }
        }
    }
    text
}

fn facts(text: &mut String, facts: &[Fact]) {
    let row = |fact: &Fact| vec![fact.name.clone(), fact.value.clone(), fact.note.clone()];
    rows(text, &["Figure", "Value", ""], facts.iter().map(row));
}

fn chart(text: &mut String, bars: &Bars) {
    let _ = writeln!(
        text,
        "### {}\n\n{}\n",
        escape(&bars.title),
        escape(&bars.summary)
    );
    let mut headings = vec!["Time"];
    headings.extend(bars.series.iter().map(String::as_str));
    let shown = |value: &Option<f64>| match value {
        None => "not known".to_owned(),
        Some(value) => bars.unit.show(*value),
    };
    let row = |(label, part): (&String, &Vec<Option<f64>>)| {
        let mut row = vec![label.clone()];
        row.extend(part.iter().map(shown));
        row
    };
    rows(
        text,
        &headings,
        bars.labels.iter().zip(&bars.parts).map(row),
    );
}

fn rows(text: &mut String, headings: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    text.push_str(&line(headings.iter().map(|it| escape(it)).collect()));
    text.push_str(&line(headings.iter().map(|_| "---".to_owned()).collect()));
    for row in rows {
        text.push_str(&line(row.iter().map(|cell| escape(cell)).collect()));
    }
    text.push('\n');
}

/// A text that means itself (CommonMark 0.31, section 2.4), on one line.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut before = ' ';
    let mut left = text.chars().peekable();
    while let Some(character) = left.next() {
        match character {
            '<' => escaped.push_str("&lt;"),
            '&' => escaped.push_str("&amp;"),
            '\\' | '|' | '`' | '*' | '[' | ']' | '~' => {
                escaped.push('\\');
                escaped.push(character);
            }
            // Within a word it means nothing.
            '_' => {
                let next = left.peek().is_some_and(|next| next.is_alphanumeric());
                if !(next && before.is_alphanumeric()) {
                    escaped.push('\\');
                }
                escaped.push('_');
            }
            '#' | '>' | '+' if before == ' ' => {
                escaped.push('\\');
                escaped.push(character);
            }
            control if control.is_control() => escaped.push(' '),
            other => escaped.push(other),
        }
        before = if character.is_control() {
            ' '
        } else {
            character
        };
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_from_outside_is_text_and_nothing_else() {
        assert_eq!(escape("a|b\n# c"), "a\\|b \\# c");
        assert_eq!(escape("<script>"), "&lt;script>");
        assert_eq!(escape("[x](y) `z` *w*"), "\\[x\\](y) \\`z\\` \\*w\\*");
        assert_eq!(escape("keep_last _so_"), "keep_last \\_so\\_");
    }
}
