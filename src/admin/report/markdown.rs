//! A report as Markdown that reads well in a chat, a runbook and a terminal.

use super::document::{Block, Table};
use std::fmt::Write;

/// The document as Markdown.
pub fn markdown(document: &[Block]) -> String {
    let mut out = String::new();
    for block in document {
        let _ = match block {
            Block::Heading(level, text) => writeln!(out, "{} {}\n", "#".repeat(usize::from(*level)), escape(text)),
            Block::Text(text) => writeln!(out, "{}\n", escape(text)),
            Block::List(items) => {
                for item in items {
                    let _ = writeln!(out, "- {}", escape(item));
                }
                writeln!(out)
            }
            Block::Table(table) => writeln!(out, "{}", print(table)),
            Block::Charts => Ok(()),
        };
    }
    out
}

/// A table whose columns line up as text as well.
fn print(table: &Table) -> String {
    let rows: Vec<Vec<String>> = std::iter::once(&table.heads)
        .chain(&table.rows)
        .map(|row| row.iter().map(|cell| escape(cell)).collect())
        .collect();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> =
        (0..table.heads.len()).map(|column| width(column).unwrap_or(0).clamp(3, WIDTH_MAX)).collect();
    let mut out = String::new();
    for (place, row) in rows.iter().enumerate() {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let gap = " ".repeat(width.saturating_sub(cell.chars().count()));
            let _ = match table.numbers && column > 0 {
                true => write!(out, "| {gap}{cell} "),
                false => write!(out, "| {cell}{gap} "),
            };
        }
        out.push_str("|\n");
        if place == 0 {
            for (column, width) in widths.iter().enumerate() {
                let _ = match table.numbers && column > 0 {
                    true => write!(out, "| {}: ", "-".repeat(width - 1)),
                    false => write!(out, "| {} ", "-".repeat(*width)),
                };
            }
            out.push_str("|\n");
        }
    }
    out
}

/// Text that stands for itself: nothing in it opens a link, a table cell, a tag or another line.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => escaped.push(' '),
            c if c.is_control() => escaped.push('\u{fffd}'),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' => escaped.extend(['\\', c]),
            '<' => escaped.push_str("&lt;"),
            '&' => escaped.push_str("&amp;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A column that is wider is not padded.
const WIDTH_MAX: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up_and_text_stays_text() {
        let table = Table {
            name: String::new(),
            heads: vec!["arm".to_owned(), "p95".to_owned()],
            rows: vec![vec!["a|b<i>".to_owned(), "1 ms".to_owned()], vec!["x\ny".to_owned(), "12 ms".to_owned()]],
            numbers: true,
        };
        let document =
            [Block::Heading(2, "a_b".to_owned()), Block::Table(table), Block::List(vec!["`[x](y)`".to_owned()])];
        let expected = "\
## a\\_b

| arm        |   p95 |
| ---------- | ----: |
| a\\|b&lt;i> |  1 ms |
| x y        | 12 ms |

- \\`\\[x\\](y)\\`

";
        assert_eq!(markdown(&document), expected);
    }
}
