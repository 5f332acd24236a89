//! A report as one HTML file that needs no network and no script, for the screen and for paper.

use std::fmt::Write;

use super::chart::svg;
use super::document::{Block, Document, Fact, Section, Table};

const STYLE: &str = include_str!("report.css");

/// The document as HTML.
#[must_use]
pub fn html(document: &Document) -> String {
    let title = escape(&document.title);
    // A page that could ask for something would be told no.
    let mut text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"color-scheme\" content=\"light dark\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\"/>\n\
         <link rel=\"icon\" href=\"data:,\"/>\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<header>\n<h1>{title}</h1>\n"
    );
    // Writing to a string does not fail.
    for line in &document.about {
        let _ = writeln!(text, "<p class=\"about\">{}</p>", escape(line));
    }
    text.push_str("</header>\n<main>\n");
    for warning in &document.warnings {
        let _ = writeln!(
            text,
            "<p class=\"warning\" role=\"alert\">{}</p>",
            escape(warning)
        );
    }
    if !document.notices.is_empty() {
        let _ = writeln!(
            text,
            "<ul class=\"notices\">{}</ul>",
            items(&document.notices)
        );
    }
    text.push_str("<dl class=\"numbers\">\n");
    for Fact {
        name,
        value,
        note,
        tone,
    } in &document.summary
    {
        let _ = writeln!(
            text,
            "<div class=\"{}\"><dt>{}</dt><dd>{}<small>{}</small></dd></div>",
            tone.class(),
            escape(name),
            escape(value),
            escape(note)
        );
    }
    text.push_str("</dl>\n");
    for (number, part) in document.sections.iter().enumerate() {
        section(&mut text, number, part);
    }
    text.push_str("</main>\n</body>\n</html>\n");
    text
}

fn section(text: &mut String, number: usize, section: &Section) {
    let _ = writeln!(
        text,
        "<section aria-labelledby=\"s{number}\">\n<h2 id=\"s{number}\">{}</h2>",
        escape(&section.title)
    );
    for block in &section.blocks {
        let _ = match block {
            Block::Text(words) => writeln!(text, "<p>{}</p>", escape(words)),
            Block::Facts(facts) => facts_table(text, facts),
            Block::List(list) => writeln!(text, "<ul>{}</ul>", items(list)),
            Block::Table(it) => table(text, it),
            Block::Bars(bars) => {
                let legend = bars.series.iter().enumerate().map(|(series, name)| {
                    format!(
                        "<li><svg aria-hidden=\"true\" viewBox=\"0 0 12 12\"><rect class=\"s{series}\" width=\"12\" height=\"12\"/></svg>{}</li>",
                        escape(name)
                    )
                });
                writeln!(
                    text,
                    "<figure><figcaption>{}</figcaption>{}<ul class=\"legend\">{}</ul><p class=\"source\">{}</p></figure>",
                    escape(&bars.title),
                    svg(bars),
                    legend.collect::<String>(),
                    escape(&bars.summary)
                )
            }
            Block::Source(words) => writeln!(text, "<p class=\"source\">{}</p>", escape(words)),
        };
    }
    text.push_str("</section>\n");
}

fn facts_table(text: &mut String, facts: &[Fact]) -> std::fmt::Result {
    text.push_str("<table class=\"facts\"><tbody>\n");
    for Fact {
        name,
        value,
        note,
        tone,
    } in facts
    {
        writeln!(
            text,
            "<tr><th scope=\"row\">{}</th><td class=\"{}\">{}</td><td class=\"note\">{}</td></tr>",
            escape(name),
            tone.class(),
            escape(value),
            escape(note)
        )?;
    }
    writeln!(text, "</tbody></table>")
}

fn table(text: &mut String, table: &Table) -> std::fmt::Result {
    if table.rows.is_empty() {
        let (title, nothing) = (escape(&table.title), escape(&table.nothing));
        return writeln!(text, "<p class=\"nothing\"><b>{title}</b> {nothing}</p>");
    }
    let title = escape(&table.title);
    // What scrolls has to be reached with keys as well.
    writeln!(
        text,
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{title}\"><table><caption>{title}</caption><thead><tr>"
    )?;
    for heading in &table.headings {
        writeln!(text, "<th scope=\"col\">{}</th>", escape(heading))?;
    }
    writeln!(text, "</tr></thead><tbody>")?;
    for row in &table.rows {
        let cells = row.iter().map(|cell| format!("<td>{}</td>", escape(cell)));
        writeln!(text, "<tr>{}</tr>", cells.collect::<String>())?;
    }
    writeln!(text, "</tbody></table></div>")
}

fn items(texts: &[String]) -> String {
    texts
        .iter()
        .map(|text| format!("<li>{}</li>", escape(text)))
        .collect()
}

/// A text that means itself (HTML Living Standard, section 13.1.4, and XML 1.0, section 2.2).
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(' '),
            // Control characters, and those that turn the direction of what follows (UAX #9).
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => escaped.push('\u{fffd}'),
            control if control.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_from_outside_is_text_and_nothing_else() {
        assert_eq!(
            escape("<img src=x onerror='a\"&'>"),
            "&lt;img src=x onerror=&#39;a&quot;&amp;&#39;&gt;"
        );
        assert_eq!(escape("a\u{202e}b\u{0}c\nd"), "a\u{fffd}b\u{fffd}c d");
    }
}
