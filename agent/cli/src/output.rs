//! Answers on standard output: one struct, two forms.

use std::io::{self, BufWriter, Write};

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Serialize;

/// Form of an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs; the keys are API.
    Json,
}

/// What a command answers.
pub(crate) trait Answer: Serialize {
    /// The answer for people; whole lines.
    fn text(&self) -> String;
}

/// Prints an answer.
pub(crate) fn print(format: Format, answer: &impl Answer) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    match format {
        Format::Table => out.write_all(answer.text().as_bytes())?,
        Format::Json => {
            serde_json::to_writer_pretty(&mut out, answer)?;
            out.write_all(b"\n")?;
        }
    }
    out.flush()
}

/// Whether the reader of our output has gone.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A table with a header; columns are as wide as they must be.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// A value, or a dash; an empty text is none.
pub(crate) fn or_dash(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned())
}

/// A list with commas, or a dash.
pub(crate) fn list(values: &[impl ToString]) -> String {
    if values.is_empty() {
        return "-".to_owned();
    }
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
