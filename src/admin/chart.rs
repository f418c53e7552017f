//! Line charts as SVG: one figure per quantity, both arms in it, with marks for what happened. A `Drawing` has everything worked
//! out; the report writes it as HTML, the page builds the same elements from its JSON.
//!
//! No scripts and no fonts of its own; colours come from the page's CSS by class, so light and dark follow the reader. A chart has
//! a title and a description for those who cannot see it, and the page shows its numbers as a table. It knows nothing of rollouts.

use crate::clock::Wall;
use serde::Serialize;
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
    /// The same in a word, written where there is room.
    pub label: String,
}

/// A chart as it is to be seen: lines in a picture of `WIDTH` by `HEIGHT`, words around it by percent of its sides.
#[derive(Clone, Debug, Serialize)]
pub struct Drawing {
    id: String,
    title: String,
    description: String,
    width: f64,
    height: f64,
    lines: Vec<DrawnLine>,
    /// Heights of the lines of the grid.
    grid: Vec<f64>,
    y: Vec<Word>,
    x: Vec<Word>,
    marks: Vec<DrawnMark>,
}

#[derive(Clone, Debug, Serialize)]
struct DrawnLine {
    name: String,
    class: String,
    path: String,
}

#[derive(Clone, Debug, Serialize)]
struct DrawnMark {
    x: f64,
    class: &'static str,
    text: String,
    /// None where there is no room.
    label: Option<Word>,
}

/// A word beside a picture.
#[derive(Clone, Debug, Serialize)]
struct Word {
    /// From the left or from the bottom, in percent.
    at: f64,
    text: String,
    /// How it lies there.
    class: &'static str,
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
/// The width of a letter of a mark's word where a chart is as narrow as on a phone, in percent of it.
const LETTER_PERCENT: f64 = 2.1;
/// How wide a point is drawn that stands alone.
const DOT: f64 = 14.0;
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
        self.drawing().html()
    }

    /// Everything worked out.
    pub fn drawing(&self) -> Drawing {
        let (top, step) = self.scale();
        let values = (0..=GRID_MAX).map(|line| f64::from(line) * step).take_while(|value| *value <= top + step / 2.0);
        let values: Vec<f64> = values.collect();
        let tenths = |value: f64| (value * 10.0).round() / 10.0;
        let word = |at, text, class| Word { at: tenths(at), text, class };
        let y = |value: &f64| word(100.0 - y_of(*value, top) / HEIGHT * 100.0, self.unit.text(*value, step), "");
        let line = |line: &Line<'_>| DrawnLine {
            name: line.name.to_owned(),
            class: line.class.to_owned(),
            path: self.path(line, top),
        };
        let within = self.marks.iter().filter(|mark| (self.from_ms..=self.to_ms).contains(&mark.at_ms));
        let mut marks: Vec<DrawnMark> = within
            .map(|mark| DrawnMark {
                x: tenths(self.x_of(mark.at_ms)),
                class: mark.class,
                text: mark.text.clone(),
                label: Some(word(0.0, mark.label.clone(), "")),
            })
            .collect();
        label(&mut marks);
        Drawing {
            id: self.id.to_owned(),
            title: self.title.to_owned(),
            description: self.description.clone(),
            width: WIDTH,
            height: HEIGHT,
            lines: self.lines.iter().map(line).collect(),
            grid: values.iter().map(|value| tenths(y_of(*value, top))).collect(),
            y: values.iter().map(y).collect(),
            x: self
                .times()
                .into_iter()
                .map(|(at_ms, text, class)| word(self.x_of(at_ms) / WIDTH * 100.0, text, class))
                .collect(),
            marks,
        }
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
                    match next {
                        Some(_) => write!(path, "M{x:.1} {y:.1}"),
                        None => write!(path, "M{:.1} {y:.1}h{DOT}", (x - DOT / 2.0).clamp(0.0, WIDTH - DOT)),
                    }
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

impl Drawing {
    /// The figure as HTML.
    fn html(&self) -> String {
        let mut out = String::new();
        let (id, title) = (escape(&self.id), escape(&self.title));
        let _ = writeln!(out, "<figure class=\"chart\" id=\"{id}\">\n<figcaption>{title}<span class=\"legend\">");
        for line in &self.lines {
            let _ = writeln!(
                out,
                "<span><svg width=\"22\" height=\"8\" aria-hidden=\"true\"><path class=\"line {}\" d=\"M1 4H21\"/></svg>{}</span>",
                escape(&line.class),
                escape(&line.name)
            );
        }
        out.push_str("</span></figcaption>\n");
        self.picture(&mut out, &id, &title);
        out.push_str("</figure>\n");
        out
    }

    fn picture(&self, out: &mut String, id: &str, title: &str) {
        let (width, height) = (self.width, self.height);
        let _ = writeln!(
            out,
            "<div class=\"plot\">\n<svg viewBox=\"0 0 {width} {height}\" preserveAspectRatio=\"none\" role=\"img\" \
             aria-labelledby=\"{id}-t {id}-d\"><title id=\"{id}-t\">{title}</title><desc id=\"{id}-d\">{}</desc>",
            escape(&self.description)
        );
        for y in &self.grid {
            let _ = writeln!(out, "<path class=\"grid\" d=\"M0 {y:.1}H{width}\"/>");
        }
        for DrawnMark { x, class, text, .. } in &self.marks {
            let _ = writeln!(
                out,
                "<g class=\"mark {}\"><title>{}</title><path d=\"M{x:.1} 0V{height}\"/><path class=\"dot\" d=\"M{x:.1} 0h.1\"/></g>",
                escape(class),
                escape(text),
            );
        }
        for line in self.lines.iter().filter(|line| !line.path.is_empty()) {
            let _ = writeln!(out, "<path class=\"line {}\" d=\"{}\"/>", escape(&line.class), line.path);
        }
        out.push_str("</svg>\n");
        for Word { at, text, .. } in &self.y {
            let _ = writeln!(out, "<span class=\"y\" style=\"bottom:{at:.1}%\">{}</span>", escape(text));
        }
        for Word { at, text, class } in &self.x {
            let _ = writeln!(out, "<span class=\"x {class}\" style=\"left:{at:.1}%\">{}</span>", escape(text));
        }
        for (mark, Word { at, text, class }) in self.marks.iter().filter_map(|mark| Some((mark, mark.label.as_ref()?)))
        {
            let kind = escape(mark.class);
            let _ = writeln!(out, "<span class=\"m {class} {kind}\" style=\"left:{at:.1}%\">{}</span>", escape(text));
        }
        out.push_str("</div>\n");
    }
}

/// Gives each mark its word beside it, as long as they do not run into each other; what went wrong comes first.
fn label(marks: &mut [DrawnMark]) {
    let mut taken: Vec<(f64, f64)> = Vec::new();
    let order = |mark: &DrawnMark| usize::from(mark.class == "stage");
    let mut places: Vec<usize> = (0..marks.len()).rev().collect();
    places.sort_by_key(|place| marks.get(*place).map_or(0, order));
    for mark in places {
        let Some(DrawnMark { x, label, .. }) = marks.get_mut(mark) else { continue };
        let Some(word) = label else { continue };
        let (at, room) = (*x / WIDTH * 100.0, word.text.chars().count() as f64 * LETTER_PERCENT + 1.5);
        let after = at + room <= 100.0;
        let (from, to) = if after { (at, at + room) } else { (at - room, at) };
        if word.text.is_empty() || from < 0.0 || taken.iter().any(|(start, end)| from < *end && *start < to) {
            *label = None;
            continue;
        }
        taken.push((from, to));
        (word.at, word.class) = ((at * 10.0).round() / 10.0, if after { "after" } else { "before" });
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
            marks: vec![Mark {
                at_ms: 1_600_000_005_000,
                class: "trip",
                text: "</svg>".to_owned(),
                label: "<i>".to_owned(),
            }],
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
        for raw in ["<b>", "<i>", "<script>", "x'y", "\"c\""] {
            assert!(!html.contains(raw), "{raw} in {html}");
        }
        assert_eq!((html.matches("<svg").count(), html.matches("</svg>").count()), (2, 2));
        assert!(html.contains("a &lt;b&gt; &amp; &quot;c&quot;") && html.contains("role=\"img\""));
    }

    #[test]
    fn words_of_marks_never_run_into_each_other_and_trouble_is_named_first() {
        let mark = |second: u64, class, label: &str| Mark {
            at_ms: 1_600_000_000_000 + second * 100,
            class,
            text: String::new(),
            label: label.to_owned(),
        };
        let mut chart = chart(vec![at(1, 0.5)]);
        chart.marks = vec![
            mark(10, "stage", "canary-5"),
            mark(50, "stage", "canary-25"),
            mark(52, "trip", "trip"),
            mark(99, "stage", "end"),
        ];
        let drawing = chart.drawing();
        let words = drawing.marks.iter().map(|mark| mark.label.as_ref().map(|word| (word.text.as_str(), word.class)));
        let words: Vec<_> = words.collect();
        assert_eq!(words, [Some(("canary-5", "after")), None, Some(("trip", "after")), Some(("end", "before"))]);
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
        assert_eq!(path(vec![at(0, 0.0), (1_600_000_001_000, None), at(2, 0.0)]).matches("h14").count(), 2);
        assert!(chart(vec![(1, None)]).is_empty() && !chart(vec![at(0, 0.0)]).is_empty());
    }
}
