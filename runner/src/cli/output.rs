//! What commands print: tables for people that fit 100 columns, JSON for programs.

use std::io::{self, Write};
use std::time::Duration;

use chrono::{DateTime, Utc};
use curio_chain::TokenAmount;
use serde::Serialize;

/// Widest line that a table may have.
pub const MAX_WIDTH: usize = 100;
/// Between two columns.
const GAP: &str = "  ";

/// How a command answers.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    pub json: bool,
}

impl Output {
    /// Prints `value` as JSON, or the text for people.
    pub fn show<T: Serialize + ?Sized>(self, value: &T, text: impl FnOnce() -> String) {
        let text = if self.json {
            serde_json::to_string_pretty(value).expect("what commands answer has text keys and finite numbers")
        } else {
            text()
        };
        // Whoever reads may have closed the pipe, as `head` does; that is no error.
        let mut stdout = io::stdout().lock();
        let _ = stdout.write_all(text.trim_end().as_bytes()).and_then(|()| stdout.write_all(b"\n"));
    }
}

/// On which side a column is flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Align {
    Left,
    Right,
}

/// One column of a table.
#[derive(Clone, Debug)]
pub struct Column {
    title: &'static str,
    align: Align,
    /// Narrowest width, when the column may lose characters at the end.
    shrinks_to: Option<usize>,
}

/// A column of text.
pub fn text(title: &'static str) -> Column {
    Column { title, align: Align::Left, shrinks_to: None }
}

/// A column of numbers.
pub fn number(title: &'static str) -> Column {
    Column { title, align: Align::Right, shrinks_to: None }
}

impl Column {
    /// Lets the column lose the end of its text when the table would be too wide.
    pub fn shrinks_to(self, width: usize) -> Column {
        Column { shrinks_to: Some(width), ..self }
    }
}

/// Rows under titles.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(columns: impl Into<Vec<Column>>) -> Table {
        Table { columns: columns.into(), rows: Vec::new() }
    }

    /// Adds a row; it has as many cells as the table has columns.
    pub fn row(&mut self, cells: impl Into<Vec<String>>) {
        let cells = cells.into();
        assert_eq!(cells.len(), self.columns.len(), "a row has one cell for each column");
        // A cell is one line, whatever an error message holds.
        self.rows.push(cells.into_iter().map(|cell| cell.split_whitespace().collect::<Vec<_>>().join(" ")).collect());
    }

    /// The table as text, or `empty` when it has no rows.
    pub fn render(&self, empty: &str) -> String {
        if self.rows.is_empty() {
            return format!("{empty}\n");
        }
        let widths = self.widths();
        let titles: Vec<String> = self.columns.iter().map(|column| column.title.to_owned()).collect();
        let mut out = String::new();
        for cells in std::iter::once(&titles).chain(&self.rows) {
            let line: Vec<String> = cells
                .iter()
                .zip(&self.columns)
                .zip(&widths)
                .map(|((cell, column), width)| pad(&shorten(cell, *width), *width, column.align))
                .collect();
            out.push_str(line.join(GAP).trim_end());
            out.push('\n');
        }
        out
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(index, column)| {
                let cells = self.rows.iter().map(|row| row[index].chars().count());
                cells.max().unwrap_or(0).max(column.title.chars().count())
            })
            .collect();
        let gaps = GAP.len() * widths.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > MAX_WIDTH {
            let widest = (0..widths.len())
                .filter(|&index| self.columns[index].shrinks_to.is_some_and(|least| widths[index] > least))
                .max_by_key(|&index| widths[index]);
            let Some(widest) = widest else { break };
            widths[widest] -= 1;
        }
        widths
    }
}

fn shorten(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return cell.to_owned();
    }
    let kept: String = cell.chars().take(width.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

fn pad(cell: &str, width: usize, align: Align) -> String {
    match align {
        Align::Left => format!("{cell:<width$}"),
        Align::Right => format!("{cell:>width$}"),
    }
}

/// How long ago, such as "3m ago".
pub fn ago(now: DateTime<Utc>, then: DateTime<Utc>) -> String {
    match (now - then).to_std() {
        Ok(age) if age.as_secs() == 0 => "now".to_owned(),
        Ok(age) => format!("{} ago", span(age)),
        Err(_) => format!("in {}", span((then - now).to_std().unwrap_or_default())),
    }
}

/// How long ago, or a dash.
pub fn ago_or_dash(now: DateTime<Utc>, then: Option<DateTime<Utc>>) -> String {
    then.map_or_else(|| "-".to_owned(), |then| ago(now, then))
}

/// The largest unit of a length of time alone: "12s", "3m", "5h", "2d".
pub fn span(length: Duration) -> String {
    match length.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..86_400 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// A length of work: "0.4s", "12.3s", "3m 05s", "2h 07m".
pub fn took(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1}s");
    }
    let whole = Duration::from_secs_f64(seconds.min(1e9)).as_secs();
    if whole < 3600 {
        format!("{}m {:02}s", whole / 60, whole % 60)
    } else {
        format!("{}h {:02}m", whole / 3600, whole % 3600 / 60)
    }
}

/// A number of bytes in binary units: "2 KiB", "1.5 TiB".
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut value = count as f64;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let text = format!("{value:.1}");
    format!("{} {}", text.strip_suffix(".0").unwrap_or(&text), UNITS[unit])
}

/// An amount with the four decimals that matter to a person: "12.3456 FIL".
pub fn fil(amount: &TokenAmount) -> String {
    const ATTO_PER_TEN_THOUSANDTH: i64 = 100_000_000_000_000;
    let shown = amount.atto() / ATTO_PER_TEN_THOUSANDTH;
    let sign = if amount.is_negative() { "-" } else { "" };
    let digits = format!("{:0>5}", shown.magnitude().to_string());
    let (whole, fraction) = digits.split_at(digits.len() - 4);
    format!("{sign}{whole}.{fraction} FIL")
}

/// Text, or a dash for nothing.
pub fn or_dash(text: Option<impl Into<String>>) -> String {
    text.map_or_else(|| "-".to_owned(), Into::into)
}

/// Lines of names and values, names padded to the longest.
pub fn properties(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    pairs.iter().map(|(name, value)| format!("{name:<width$}{GAP}{value}\n")).collect()
}

/// Sentences in lines that fit a narrow terminal. A command in backticks stays in one line, to be copied.
pub fn paragraph(sentences: &str) -> String {
    const WIDTH: usize = 80;
    let mut out = String::new();
    let mut width = 0;
    // Every other part stands between backticks.
    let parts = sentences.split('`').enumerate();
    let marked = parts.map(|(index, part)| if index % 2 == 1 { part.replace(' ', "\u{a0}") } else { part.to_owned() });
    for word in marked.collect::<Vec<_>>().join("`").split([' ', '\n', '\t']).filter(|word| !word.is_empty()) {
        let length = word.chars().count();
        if width > 0 {
            let fits = width + 1 + length <= WIDTH;
            out.push(if fits { ' ' } else { '\n' });
            width = if fits { width + 1 } else { 0 };
        }
        out.push_str(&word.replace('\u{a0}', " "));
        width += length;
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn history() -> Table {
        let mut table = Table::new([number("TASK"), text("KIND"), text("ERROR").shrinks_to(10)]);
        table.row(["7".to_owned(), "SDR".to_owned(), String::new()]);
        table.row(["1234".to_owned(), "PreCommitSubmit".to_owned(), "the node is away\nand so on ".repeat(20)]);
        table
    }

    #[test]
    fn a_table_fits_a_hundred_columns_whatever_is_in_it() {
        let text = history().render("nothing");
        assert!(text.lines().all(|line| line.chars().count() <= MAX_WIDTH), "{text}");
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().nth(2).is_some_and(|line| line.ends_with('…')), "{text}");
    }

    #[test]
    fn numbers_are_flush_right_and_titles_stand_over_their_columns() {
        let text = history().render("nothing");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "TASK  KIND             ERROR");
        assert_eq!(lines[1], "   7  SDR");
    }

    #[test]
    fn an_empty_table_says_so() {
        assert_eq!(Table::new([text("NAME")]).render("no machine yet"), "no machine yet\n");
    }

    #[rstest]
    #[case(0, "now")]
    #[case(59, "59s ago")]
    #[case(190, "3m ago")]
    #[case(7300, "2h ago")]
    #[case(200_000, "2d ago")]
    #[case(-120, "in 2m")]
    fn times_are_told_by_their_age(#[case] seconds: i64, #[case] expected: &str) {
        let now = DateTime::UNIX_EPOCH + chrono::Duration::days(20_000);
        assert_eq!(ago(now, now - chrono::Duration::seconds(seconds)), expected);
    }

    #[test]
    fn a_paragraph_breaks_between_words() {
        let text = paragraph(&"twelve chars ".repeat(20));
        assert!(text.lines().all(|line| line.chars().count() <= 80 && !line.ends_with(' ')), "{text}");
        assert_eq!(text.split_whitespace().count(), 40);
    }

    #[test]
    fn a_command_in_a_paragraph_stays_in_one_line() {
        for words in 0..30 {
            let text = paragraph(&format!("{}then run `curio chain confirm`, please", "word ".repeat(words)));
            assert!(text.lines().any(|line| line.contains("`curio chain confirm`,")), "{text}");
        }
    }

    #[rstest]
    #[case(0.44, "0.4s")]
    #[case(185.0, "3m 05s")]
    #[case(7620.0, "2h 07m")]
    fn lengths_of_work_are_short(#[case] seconds: f64, #[case] expected: &str) {
        assert_eq!(took(seconds), expected);
    }

    #[rstest]
    #[case(0, "0.0000 FIL")]
    #[case(12_345_678_900_000_000_000, "12.3456 FIL")]
    #[case(99_999_999_999_999, "0.0000 FIL")]
    #[case(-1_500_000_000_000_000_000, "-1.5000 FIL")]
    fn amounts_have_four_decimals(#[case] atto: i128, #[case] expected: &str) {
        assert_eq!(fil(&TokenAmount::from_atto(atto)), expected);
    }

    #[rstest]
    #[case(2048, "2 KiB")]
    #[case(1_649_267_441_664, "1.5 TiB")]
    #[case(12, "12 B")]
    fn sizes_are_in_binary_units(#[case] count: u64, #[case] expected: &str) {
        assert_eq!(bytes(count), expected);
    }
}
