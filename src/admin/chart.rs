//! Line charts as inline SVG: one figure per quantity, both arms in it, with marks for what happened.
//!
//! No scripts and no fonts of its own; colours come from the page's CSS by class, so light and dark follow the reader. A chart has
//! a title and a description for those who cannot see it, and the page shows its numbers as a table. It knows nothing of rollouts.

use crate::clock::Wall;
use std::fmt::Write;

/// One chart.
#[derive(Clone, Debug, Default)]
pub struct Chart<'a> {
    /// Tells its elements from those of other charts of the page.
    pub id: &'a str,
    /// What it shows.
    pub title: &'a str,
    /// In words what is to be seen.
    pub description: String,
    /// Its lines.
    pub lines: Vec<Line<'a>>,
    /// What happened, by time in milliseconds.
    pub marks: Vec<Mark>,
    /// The time that it covers, in milliseconds since the epoch.
    pub from_ms: u64,
    /// See `from_ms`.
    pub to_ms: u64,
    /// Two points further apart than this are not joined.
    pub gap_ms: u64,
    /// A value as text, for the axis.
    pub unit: Unit,
}

/// One line of a chart.
#[derive(Clone, Debug, Default)]
pub struct Line<'a> {
    /// Its name in the legend.
    pub name: &'a str,
    /// Its CSS class.
    pub class: &'a str,
    /// Whether a value holds until the next instead of leading to it.
    pub steps: bool,
    /// Time in milliseconds, and value; none is a gap.
    pub points: Vec<(u64, Option<f64>)>,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub struct Mark {
    /// When, in milliseconds.
    pub at_ms: u64,
    /// Its CSS class.
    pub class: &'static str,
    /// What, for a pointer that rests on it.
    pub text: String,
}

/// How values are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// Plain.
    #[default]
    Plain,
    /// Shares of 1 as percent.
    Share,
    /// Milliseconds.
    Milliseconds,
}

/// The picture is stretched over whatever room there is; only its lines are in it, and they keep their width. Words stand around
/// it as text of the page, so that they keep their size.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 200.0;
/// Lines of the grid, more or less.
const GRID: f64 = 4.0;
/// Lines of the grid that a scale can ask for.
const GRID_MAX: u8 = 10;

impl Chart<'_> {
    /// Whether there is anything to show.
    pub fn is_empty(&self) -> bool {
        self.lines.iter().all(|line| line.points.iter().all(|(_, value)| value.is_none()))
    }

    /// The figure: legend and picture.
    pub fn html(&self) -> String {
        let mut out = String::new();
        let (id, title) = (escape(self.id), escape(self.title));
        let _ = writeln!(out, "<figure class=\"chart\" id=\"{id}\">\n<figcaption>{title}<span class=\"legend\">");
        for line in &self.lines {
            let _ = writeln!(
                out,
                "<span><svg width=\"22\" height=\"8\" aria-hidden=\"true\"><path class=\"line {}\" d=\"M1 4H21\"/></svg>{}</span>",
                escape(line.class),
                escape(line.name)
            );
        }
        out.push_str("</span></figcaption>\n");
        self.picture(&mut out, &id, &title);
        out.push_str("</figure>\n");
        out
    }

    fn picture(&self, out: &mut String, id: &str, title: &str) {
        let _ = writeln!(
            out,
            "<div class=\"plot\">\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" \
             aria-labelledby=\"{id}-t {id}-d\"><title id=\"{id}-t\">{title}</title><desc id=\"{id}-d\">{}</desc>",
            escape(&self.description)
        );
        let (top, step) = self.scale();
        let values: Vec<f64> = (0..=GRID_MAX).map(|line| f64::from(line) * step).collect();
        let values = values.into_iter().take_while(|value| *value <= top + step / 2.0);
        for value in values.clone() {
            let _ = writeln!(out, "<path class=\"grid\" d=\"M0 {:.1}H{WIDTH}\"/>", y_of(value, top));
        }
        for mark in self.marks.iter().filter(|mark| (self.from_ms..=self.to_ms).contains(&mark.at_ms)) {
            let x = self.x_of(mark.at_ms);
            let _ = writeln!(
                out,
                "<g class=\"mark {}\"><title>{}</title><path d=\"M{x:.1} 0V{HEIGHT}\"/><path class=\"dot\" d=\"M{x:.1} 0h.1\"/></g>",
                escape(mark.class),
                escape(&mark.text),
            );
        }
        for line in &self.lines {
            let path = self.path(line, top);
            if !path.is_empty() {
                let _ = writeln!(out, "<path class=\"line {}\" d=\"{path}\"/>", escape(line.class));
            }
        }
        out.push_str("</svg>\n");
        for value in values {
            let (bottom, text) = (100.0 - y_of(value, top) / HEIGHT * 100.0, self.unit.text(value, step));
            let _ = writeln!(out, "<span class=\"y\" style=\"bottom:{bottom:.1}%\">{}</span>", escape(&text));
        }
        for (at_ms, text, class) in self.times() {
            let left = self.x_of(at_ms) / WIDTH * 100.0;
            let _ = writeln!(out, "<span class=\"x {class}\" style=\"left:{left:.1}%\">{}</span>", escape(&text));
        }
        out.push_str("</div>\n");
    }

    fn path(&self, line: &Line<'_>, top: f64) -> String {
        let mut path = String::new();
        let mut before: Option<(u64, f64)> = None;
        let known = &line.points;
        for (place, (at_ms, value)) in known.iter().enumerate() {
            let Some(value) = value.filter(|value| value.is_finite()) else {
                before = None;
                continue;
            };
            let (x, y) = (self.x_of(*at_ms), y_of(value, top));
            let joined = before.filter(|(last_ms, _)| at_ms.saturating_sub(*last_ms) <= self.gap_ms);
            let _ = match joined {
                Some((_, last)) if line.steps && last != value => write!(path, "H{x:.1}V{y:.1}"),
                Some(_) => write!(path, "L{x:.1} {y:.1}"),
                None => {
                    // A point that nothing is joined to would not be seen.
                    let next = known
                        .get(place + 1)
                        .filter(|(next_ms, next)| next.is_some() && next_ms.saturating_sub(*at_ms) <= self.gap_ms);
                    let dot = if next.is_none() { "h2" } else { "" };
                    write!(path, "M{x:.1} {y:.1}{dot}")
                }
            };
            before = Some((*at_ms, value));
        }
        path
    }

    /// The top of the axis and the step of its grid: round numbers.
    fn scale(&self) -> (f64, f64) {
        let values = self.lines.iter().flat_map(|line| &line.points).filter_map(|(_, value)| *value);
        let most = values.filter(|value| value.is_finite()).fold(0.0_f64, f64::max);
        let most = if most > 0.0 { most } else { self.unit.least() };
        let rough = most / GRID;
        let ten = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0]
            .into_iter()
            .map(|part| part * ten)
            .find(|step| *step >= rough)
            .unwrap_or(ten * 10.0);
        ((most / step).ceil() * step, step)
    }

    fn x_of(&self, at_ms: u64) -> f64 {
        let all = self.to_ms.saturating_sub(self.from_ms).max(1) as f64;
        let part = at_ms.clamp(self.from_ms, self.to_ms).saturating_sub(self.from_ms) as f64 / all;
        part * WIDTH
    }

    /// Words on the axis of time: in UTC, with the day where there are several.
    fn times(&self) -> Vec<(u64, String, &'static str)> {
        let all = self.to_ms.saturating_sub(self.from_ms);
        let text = |at_ms: u64| {
            let text = Wall::from_millis(at_ms).to_string();
            let part = |range: std::ops::Range<usize>| text.get(range).unwrap_or_default().to_owned();
            match all {
                ..600_000 => part(11..19),
                600_000..172_800_000 => part(11..16),
                _ => part(5..10),
            }
        };
        let at = |quarter: u64| self.from_ms + all / 4 * quarter;
        (0..=4)
            .map(|quarter| {
                (at(quarter), text(at(quarter)), ["start", "between", "mid", "between", "end"][quarter as usize])
            })
            .collect()
    }
}

fn y_of(value: f64, top: f64) -> f64 {
    let part = if top > 0.0 { (value / top).clamp(0.0, 1.0) } else { 0.0 };
    HEIGHT - part * HEIGHT
}

impl Unit {
    /// The top of an axis on which everything is zero.
    const fn least(self) -> f64 {
        match self {
            Unit::Share => 0.01,
            Unit::Plain | Unit::Milliseconds => 1.0,
        }
    }

    /// A value for an axis whose grid has that step.
    pub fn text(self, value: f64, step: f64) -> String {
        let digits = |step: f64| if step >= 1.0 { 0 } else { (-step.log10().floor()).clamp(0.0, 6.0) as usize };
        let plain = |value: f64, step: f64| {
            let more = usize::from(step > 0.0 && (step * 10_f64.powi(digits(step) as i32)).fract() > 1e-9);
            format!("{value:.*}", digits(step) + more)
        };
        match self {
            Unit::Plain => plain(value, step),
            Unit::Share => plain(value * 100.0, step * 100.0) + "%",
            Unit::Milliseconds if step >= 1000.0 => plain(value / 1000.0, step / 1000.0) + " s",
            Unit::Milliseconds => plain(value, step) + " ms",
        }
    }
}

/// Text that stands for itself in HTML and SVG, in elements and in quoted attributes.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() && c != '\n' && c != '\t' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(u64, Option<f64>)>) -> Chart<'static> {
        Chart {
            id: "rps",
            title: "a <b> & \"c\"",
            description: "<script>".to_owned(),
            lines: vec![Line { name: "x'y", class: "canary", steps: false, points }],
            marks: vec![Mark { at_ms: 1_600_000_005_000, class: "trip", text: "</svg>".to_owned() }],
            from_ms: 1_600_000_000_000,
            to_ms: 1_600_000_010_000,
            gap_ms: 1_500,
            unit: Unit::Share,
        }
    }

    fn at(second: u64, value: f64) -> (u64, Option<f64>) {
        (1_600_000_000_000 + second * 1000, Some(value))
    }

    #[test]
    fn text_from_elsewhere_stays_text() {
        let html = chart(vec![at(1, 0.5)]).html();
        for raw in ["<b>", "<script>", "x'y", "\"c\""] {
            assert!(!html.contains(raw), "{raw} in {html}");
        }
        assert_eq!((html.matches("<svg").count(), html.matches("</svg>").count()), (2, 2));
        assert!(html.contains("a &lt;b&gt; &amp; &quot;c&quot;") && html.contains("role=\"img\""));
    }

    #[test]
    fn axes_have_round_numbers() {
        let scale = |most| chart(vec![at(1, most)]).scale();
        assert_eq!(scale(0.9), (1.0, 0.25));
        assert_eq!(scale(100.0), (100.0, 25.0));
        assert_eq!(scale(7.0), (8.0, 2.0));
        assert!((scale(0.0).0 - 0.01).abs() < 0.003);
        assert_eq!(Unit::Share.text(0.025, 0.005), "2.5%");
        assert_eq!(Unit::Share.text(0.5, 0.25), "50%");
        assert_eq!(Unit::Milliseconds.text(2000.0, 1000.0), "2 s");
        assert_eq!(Unit::Milliseconds.text(2.5, 2.5), "2.5 ms");
        assert_eq!(Unit::Plain.text(40.0, 20.0), "40");
    }

    #[test]
    fn a_gap_is_a_gap_and_a_lonely_point_is_seen() {
        let path = |points| {
            let chart = chart(points);
            chart.path(&chart.lines[0], 1.0)
        };
        assert_eq!(path(vec![at(0, 0.0), at(1, 1.0), at(2, 0.0)]).matches(['M', 'L']).count(), 3);
        assert_eq!(path(vec![at(0, 0.0), at(1, 1.0), at(5, 0.0)]).matches('M').count(), 2);
        assert_eq!(path(vec![at(0, 0.0), (1_600_000_001_000, None), at(2, 0.0)]).matches("h2").count(), 2);
        assert!(chart(vec![(1, None)]).is_empty() && !chart(vec![at(0, 0.0)]).is_empty());
    }
}
