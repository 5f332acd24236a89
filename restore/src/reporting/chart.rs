//! Charts as SVG: bars over the parts of a span.

use std::fmt::Write;

use super::document::{Bars, Unit};
use super::html::escape;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 200.0;
/// Room for what is written below and above.
const BELOW: f64 = 22.0;
const ABOVE: f64 = 18.0;

/// The chart as an `svg` element that takes its colours from classes.
#[must_use]
pub fn svg(bars: &Bars) -> String {
    let count = bars.labels.len().max(1) as f64;
    let step = WIDTH / count;
    let tops = bars
        .parts
        .iter()
        .map(|part| part.iter().flatten().filter(|it| **it > 0.0).sum());
    let depths = bars.parts.iter().map(|part| {
        let below: f64 = part.iter().flatten().filter(|it| **it < 0.0).sum();
        -below
    });
    let line = bars.line.as_ref().map_or(0.0, |(_, value)| *value);
    let top: f64 = tops.fold(0.0, f64::max).max(line);
    let depth: f64 = depths.fold(0.0, f64::max);
    // Where there is nothing but zeros, any scale will do.
    let all = if top + depth > 0.0 { top + depth } else { 1.0 };
    let scale = (HEIGHT - ABOVE - BELOW) / all;
    let y = |value: f64| ABOVE + (top - value) * scale;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
        escape(&bars.summary)
    );
    // Writing to a string does not fail.
    for (number, part) in bars.parts.iter().enumerate() {
        let x = number as f64 * step;
        let (width, label) = ((step - 1.0).max(step * 0.7), &bars.labels[number]);
        if part.iter().all(Option::is_none) {
            let _ = write!(
                svg,
                "<rect class=\"unknown\" x=\"{x:.1}\" y=\"{ABOVE}\" width=\"{width:.1}\" height=\"{:.1}\"><title>{}: not known</title></rect>",
                HEIGHT - ABOVE - BELOW,
                escape(label)
            );
        }
        let (mut above, mut below) = (0.0, 0.0);
        for (series, value) in part.iter().enumerate() {
            let Some(value) = value.filter(|value| *value != 0.0) else {
                continue;
            };
            let base = if value > 0.0 { &mut above } else { &mut below };
            let (from, to) = (*base, *base + value);
            *base = to;
            let upper = y(from.max(to));
            let height = (value.abs() * scale).max(0.75);
            let _ = write!(
                svg,
                "<rect class=\"s{series}\" x=\"{x:.1}\" y=\"{upper:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"><title>{}: {} {}</title></rect>",
                escape(label),
                escape(&bars.series[series]),
                bars.unit.show(value)
            );
        }
    }
    let _ = write!(
        svg,
        "<path class=\"axis\" d=\"M0 {0:.1}H{WIDTH}\"/>",
        y(0.0)
    );
    if let Some((name, value)) = &bars.line {
        let at = y(*value);
        let _ = write!(
            svg,
            "<path class=\"line\" d=\"M0 {at:.1}H{WIDTH}\"/><text x=\"{WIDTH}\" y=\"{:.1}\" text-anchor=\"end\">{} {}</text>",
            at - 4.0,
            escape(name),
            bars.unit.show(*value)
        );
    }
    let foot = HEIGHT - 6.0;
    if let (Some(first), Some(last)) = (bars.labels.first(), bars.labels.last()) {
        let _ = write!(svg, "<text x=\"0\" y=\"{foot}\">{}</text>", escape(first));
        if bars.labels.len() > 1 {
            let _ = write!(
                svg,
                "<text x=\"{WIDTH}\" y=\"{foot}\" text-anchor=\"end\">{}</text>",
                escape(last)
            );
        }
    }
    let _ = write!(
        svg,
        "<text x=\"0\" y=\"11\">{}</text></svg>",
        bars.unit.show(top)
    );
    svg
}

impl Unit {
    /// A value of it, as people read it.
    #[must_use]
    pub fn show(self, value: f64) -> String {
        match self {
            Unit::Bytes => crate::report::bytes(value.abs() as u64),
            Unit::Seconds => super::document::lasting(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_no_bar_of_zero() {
        let bars = Bars {
            title: "t".to_owned(),
            summary: "a & b".to_owned(),
            unit: Unit::Seconds,
            labels: vec!["<1>".to_owned(), "2".to_owned(), "3".to_owned()],
            series: vec!["worst".to_owned()],
            parts: vec![vec![Some(3.0)], vec![None], vec![Some(0.0)]],
            line: Some(("objective".to_owned(), 60.0)),
        };
        let drawn = svg(&bars);
        assert_eq!(drawn.matches("class=\"s0\"").count(), 1, "{drawn}");
        assert_eq!(drawn.matches("class=\"unknown\"").count(), 1);
        assert!(drawn.contains("aria-label=\"a &amp; b\"") && drawn.contains("&lt;1&gt;"));
        assert!(drawn.contains("objective 1 min 0 s"));
        let nothing = Bars {
            labels: Vec::new(),
            parts: Vec::new(),
            line: None,
            ..bars
        };
        assert!(!svg(&nothing).contains("NaN") && !svg(&nothing).contains("inf"));
    }

    #[test]
    fn what_went_is_drawn_below_what_came() {
        let bars = Bars {
            title: String::new(),
            summary: String::new(),
            unit: Unit::Bytes,
            labels: vec!["1".to_owned()],
            series: vec!["came".to_owned(), "went".to_owned()],
            parts: vec![vec![Some(3000.0), Some(-1000.0)]],
            line: None,
        };
        let drawn = svg(&bars);
        let y_of = |class: &str| {
            let after = drawn.split(class).nth(1).expect("a bar");
            let y = after.split(" y=\"").nth(1).expect("its place");
            let y = y.split('"').next().expect("a number");
            y.parse::<f64>().expect("a number")
        };
        assert!(y_of("class=\"s0\"") < y_of("class=\"s1\""), "{drawn}");
        assert!(drawn.contains("went 1000 B"));
    }
}
