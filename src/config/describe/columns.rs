//! Rows as columns that line up and fit a width: what is too wide for its column goes on below itself.

/// What stands in one place of a row: each of these on lines of its own.
pub type Cell = Vec<String>;

/// The rows, each indented by that much, two spaces between columns. Only words that are longer than what is left make
/// a line longer than `columns`.
pub fn lay_out(rows: &[Vec<Cell>], indent: usize, columns: usize, text: &mut String) {
    let widths = widths(rows, columns.saturating_sub(indent));
    let wrapped = |row: &Vec<Cell>| row.iter().zip(&widths).map(|(cell, width)| wrap(cell, *width)).collect();
    let rows: Vec<Vec<Cell>> = rows.iter().map(wrapped).collect();
    // Lines that broke early leave room.
    let widths = natural(&rows);
    for row in &rows {
        let height = row.iter().map(Vec::len).max().unwrap_or(0);
        for index in 0..height {
            let mut line = " ".repeat(indent);
            for (cell, width) in row.iter().zip(&widths) {
                let part = cell.get(index).map_or("", String::as_str);
                line.push_str(&format!("{part:<width$}{:GAP$}", ""));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
}

/// As wide as their widest item. If that is too much the widest give way first, down to their longest word.
fn widths(rows: &[Vec<Cell>], columns: usize) -> Vec<usize> {
    let longest_word = |item: &String| item.split_whitespace().map(|word| word.chars().count()).max().unwrap_or(0);
    // What goes on below itself may be indented.
    let least: Vec<usize> = each_column(rows, |item| longest_word(item) + HANGING);
    let mut widths = natural(rows);
    while widths.iter().map(|width| width + GAP).sum::<usize>() > columns + GAP {
        let can_give = widths.iter_mut().zip(&least).filter(|(width, least)| **width > **least);
        let Some((width, _)) = can_give.max_by_key(|(width, _)| **width) else { break };
        *width -= 1;
    }
    widths
}

/// Of each column its widest item.
fn natural(rows: &[Vec<Cell>]) -> Vec<usize> {
    each_column(rows, |item| item.chars().count())
}

/// Of each column the most that an item of it comes to.
fn each_column(rows: &[Vec<Cell>], of: impl Fn(&String) -> usize) -> Vec<usize> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let items = |column: usize| rows.iter().filter_map(move |row| row.get(column)).flatten();
    (0..count).map(|column| items(column).map(&of).max().unwrap_or(0)).collect()
}

fn wrap(cell: &[String], width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let hanging = if cell.len() > 1 { " ".repeat(HANGING) } else { String::new() };
    for item in cell {
        let mut line = String::new();
        for word in item.split_whitespace() {
            let is_new = line.trim().is_empty();
            if !is_new && line.chars().count() + 1 + word.chars().count() > width {
                lines.push(std::mem::replace(&mut line, format!("{hanging}{word}")));
            } else {
                line.push_str(if is_new { "" } else { " " });
                line.push_str(word);
            }
        }
        lines.push(line);
    }
    lines
}

/// Between two columns.
const GAP: usize = 2;
/// By which the second line of one of several items is indented.
const HANGING: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn laid_out(rows: &[&[&[&str]]], columns: usize) -> String {
        let cell = |cell: &&[&str]| cell.iter().map(|item| (*item).to_owned()).collect();
        let rows: Vec<Vec<Cell>> = rows.iter().map(|row| row.iter().map(cell).collect()).collect();
        let mut text = String::new();
        lay_out(&rows, 2, columns, &mut text);
        text
    }

    #[test]
    fn what_is_too_wide_goes_on_below_itself() {
        let rows: &[&[&[&str]]] = &[
            &[&["stage"], &["gates"], &["also"]],
            &[&["ten"], &["p95 < 20ms", "error_rate <= stable + 0.5%"], &["é"]],
        ];
        let wide = "  stage  gates                        also\n  ten    p95 < 20ms                   é\n         \
                    error_rate <= stable + 0.5%\n";
        assert_eq!(laid_out(rows, 80), wide);
        let narrow = "  stage  gates            also\n  ten    p95 < 20ms       é\n         error_rate <=\n           stable + 0.5%\n";
        assert_eq!(laid_out(rows, 30), narrow);
    }

    #[test]
    fn a_word_is_never_broken() {
        let rows: &[&[&[&str]]] = &[&[&["sum(rate(x[5m]))\n / 2"], &["b"]]];
        assert_eq!(laid_out(rows, 4), "  sum(rate(x[5m])) /  b\n  2\n");
        assert_eq!(laid_out(rows, 80), "  sum(rate(x[5m])) / 2  b\n");
        assert_eq!(laid_out(&[], 80), "");
    }
}
