//! Numbers, tables and colours as people like to read them. Text in, text out; no terminal is touched here.

use crate::clock::Wall;
use crate::config::units::{print_share, print_span};
use crate::rollout::bucket::Weight;
use crate::rollout::course::span_text;
use std::fmt::Write;
use std::time::Duration;

/// Whether colours are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paint {
    /// On or off.
    pub on: bool,
}

/// The colours there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// As the terminal has it.
    #[default]
    Plain,
    /// Names and headings.
    Bold,
    /// What is there for completeness.
    Dim,
    /// Good.
    Green,
    /// Worth a look.
    Yellow,
    /// Bad.
    Red,
}

impl Paint {
    /// The text in that tone.
    pub fn tone(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Bold => 1,
            Tone::Dim => 2,
            Tone::Red => 31,
            Tone::Green => 32,
            Tone::Yellow => 33,
        };
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Columns that line up; the first is flush left, the others as told.
#[derive(Debug, Default)]
pub struct Table {
    left: Vec<bool>,
    rows: Vec<Vec<(Tone, String)>>,
}

impl Table {
    /// A table whose columns are flush left where `columns` has `<`, else flush right.
    pub fn new(columns: &str) -> Table {
        Table { left: columns.bytes().map(|side| side == b'<').collect(), rows: Vec::new() }
    }

    /// Adds a row of plain cells.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) -> &mut Table {
        self.tones(cells.into_iter().map(|cell| (Tone::Plain, cell.into())))
    }

    /// Adds a row that tells what the columns are.
    pub fn head<'a>(&mut self, cells: impl IntoIterator<Item = &'a str>) -> &mut Table {
        self.tones(cells.into_iter().map(|cell| (Tone::Dim, cell.to_owned())))
    }

    /// Adds a row of cells with a tone each.
    pub fn tones(&mut self, cells: impl IntoIterator<Item = (Tone, String)>) -> &mut Table {
        self.rows.push(cells.into_iter().map(|(tone, cell)| (tone, clean(&cell))).collect());
        self
    }

    /// How wide each column is.
    fn widths(&self) -> Vec<usize> {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|(_, cell)| cell.chars().count()).max().unwrap_or(0)
        };
        (0..self.left.len()).map(width).collect()
    }

    /// How many characters of a line come before its last column.
    pub fn last_column(&self) -> usize {
        let widths = self.widths();
        widths.iter().take(widths.len().saturating_sub(1)).map(|width| width + 2).sum()
    }

    /// The lines, each with a newline; columns are two spaces apart.
    pub fn print(&self, paint: Paint) -> String {
        let widths = self.widths();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((tone, cell), (left, width)) in row.iter().zip(self.left.iter().zip(&widths)) {
                let gap = " ".repeat(width - cell.chars().count().min(*width));
                let cell = paint.tone(*tone, cell);
                let _ = if *left { write!(line, "{cell}{gap}  ") } else { write!(line, "{gap}{cell}  ") };
            }
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }
}

/// Text from elsewhere, with nothing in it that moves a terminal's cursor.
pub fn clean(text: &str) -> String {
    let visible = |c: char| {
        !c.is_control() && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if visible(c) { c } else { '\u{fffd}' }).collect()
}

/// A share like `12.5%`, exact; what is more than everything is shown as everything.
pub fn share(ppm: u32) -> String {
    print_share(Weight::from_ppm(ppm).unwrap_or(Weight::FULL))
}

/// A rate of 0 to 1 like `0.25%`; a dash where there is nothing to divide by.
pub fn rate(rate: Option<f64>) -> String {
    match rate {
        None => DASH.to_owned(),
        Some(rate) if rate > 0.0 && rate < 0.0001 => "<0.01%".to_owned(),
        Some(rate) => format!("{:.2}%", rate * 100.0),
    }
}

/// A time to wait like `1m23s`; under ten seconds with a decimal.
pub fn wait(seconds: f64) -> String {
    let seconds = seconds.clamp(0.0, 1e6);
    if seconds < 10.0 {
        return format!("{seconds:.1}s");
    }
    print_span(Duration::from_secs(seconds.round() as u64))
}

/// A time that something lasts like `22h`, `1h30m`, `45s`, in its two largest units.
pub fn lasting(seconds: f64) -> String {
    let seconds = seconds.clamp(0.0, 1e11);
    if seconds == 0.0 {
        return "0s".to_owned();
    }
    if seconds < 10.0 {
        return wait(seconds);
    }
    // Rounded up: what is left is never shown as nothing.
    span_text(Duration::from_secs(seconds.ceil() as u64))
}

/// The time of a day like `12:26:40 UTC`.
pub fn hour(at: Wall) -> String {
    let day = at.as_secs() % 86_400;
    format!("{:02}:{:02}:{:02} UTC", day / 3600, day / 60 % 60, day % 60)
}

/// A part of a whole like `24.8%`; a dash where the whole is nothing.
pub fn part(part: u64, whole: u64) -> String {
    if whole == 0 { DASH.to_owned() } else { format!("{:.1}%", part as f64 / whole as f64 * 100.0) }
}

/// A latency like `4.13 ms` or `1.25 s`, three digits where there are; a dash where there is none.
pub fn latency(ms: Option<f64>) -> String {
    match ms {
        None => DASH.to_owned(),
        Some(ms) if ms < 9.995 => format!("{ms:.2} ms"),
        Some(ms) if ms < 99.95 => format!("{ms:.1} ms"),
        Some(ms) if ms < 999.5 => format!("{ms:.0} ms"),
        Some(ms) => format!("{:.2} s", ms / 1000.0),
    }
}

/// A count like `22,511`.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A frequency like `375.2` per second.
pub fn frequency(rps: f64) -> String {
    if rps >= 1000.0 { count(rps.round() as u64) } else { format!("{rps:.1}") }
}

/// What is printed where there is no value.
pub const DASH: &str = "-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 1, 125_000, 1_000_000].map(share), ["0%", "0.0001%", "12.5%", "100%"]);
        let rates = [None, Some(0.0), Some(0.000_01), Some(0.000_2), Some(0.34), Some(1.0)];
        assert_eq!(rates.map(rate), ["-", "0.00%", "<0.01%", "0.02%", "34.00%", "100.00%"]);
        let times = [None, Some(0.4), Some(4.128), Some(12.34), Some(123.4), Some(999.6), Some(61_250.0)];
        assert_eq!(times.map(latency), ["-", "0.40 ms", "4.13 ms", "12.3 ms", "123 ms", "1.00 s", "61.25 s"]);
        assert_eq!([0, 999, 1000, 22_511, 1_234_567].map(count), ["0", "999", "1,000", "22,511", "1,234,567"]);
        assert_eq!([0.0, 375.24, 12_345.6].map(frequency), ["0.0", "375.2", "12,346"]);
        assert_eq!([0.0, 0.25, 59.4, 79_200.0, 88_000.0].map(lasting), ["0s", "0.2s", "1m", "22h", "24h26m"]);
        assert_eq!([part(0, 0), part(1, 4), part(3, 3)], ["-", "25.0%", "100.0%"]);
    }

    #[test]
    fn columns_line_up_with_and_without_colour() {
        let mut table = Table::new("<>>");
        table.head(["arm", "requests", "p95"]);
        table.tones([
            (Tone::Bold, "canary".to_owned()),
            (Tone::Plain, "7,431".to_owned()),
            (Tone::Red, "1 s".to_owned()),
        ]);
        table.row(["é", "1", ""]);
        let plain = table.print(Paint { on: false });
        assert_eq!(plain, "arm     requests  p95\ncanary     7,431  1 s\né              1\n");

        let mut painted = table.print(Paint { on: true });
        for code in ["\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m"] {
            painted = painted.replace(code, "");
        }
        assert_eq!(painted.lines().next(), plain.lines().next());
        assert!(table.print(Paint { on: true }).contains("\x1b[31m1 s\x1b[0m"));
    }

    #[test]
    fn text_from_elsewhere_cannot_move_the_cursor() {
        assert_eq!(clean("ok \x1b[2J\r\u{202e}x"), "ok \u{fffd}[2J\u{fffd}\u{fffd}x");
        let mut table = Table::new("<");
        table.row(["a\nb"]);
        assert_eq!(table.print(Paint { on: false }), "a\u{fffd}b\n");
    }
}
