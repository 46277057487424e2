//! The table, and the same as JSON.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::spread::Spread;

/// What was measured so far.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    figures: Vec<Figure>,
    /// Printed before the next figure: a group of which nothing was asked for has none.
    #[serde(skip)]
    heading: Option<String>,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) group: &'static str,
    pub(crate) name: String,
    /// `ns`, `us`, `ms`, `MiB`, or `x` for a ratio.
    pub(crate) unit: &'static str,
    #[serde(flatten)]
    pub(crate) spread: Spread,
    /// What the median must not exceed; none for yardsticks and what DESIGN gives no budget.
    pub(crate) budget: Option<f64>,
}

impl Report {
    /// Names the columns of the group that follows, and says how it was measured.
    pub(crate) fn heading(&mut self, group: &str, how: &[&str]) {
        let how: String = how.iter().map(|line| format!("  {line}\n")).collect();
        let columns = format!("  {:<66} {:>10} {:>21} {:>8}", "", "median", "p10 – p90", "budget");
        self.heading = Some(format!("\n{group}\n{how}{columns}"));
    }

    /// Prints a figure and keeps it.
    pub(crate) fn add(&mut self, figure: Figure) {
        if let Some(heading) = self.heading.take() {
            println!("{heading}");
        }
        let Figure { name, unit, spread, budget, .. } = &figure;
        let digits = if *unit == "ns" { 0 } else { 2 };
        let range = format!("{:.digits$} – {:.digits$}", spread.p10, spread.p90);
        let median = format!("{:.digits$} {unit}", spread.median);
        let judged = match budget {
            Some(budget) if spread.median > *budget => format!("{budget:>8}  OVER"),
            Some(budget) => format!("{budget:>8}  ok"),
            None => String::new(),
        };
        println!("  {name:<66} {median:>10} {range:>21} {judged}");
        self.figures.push(figure);
    }

    /// Writes everything as JSON.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("writing JSON")?;
        fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
    }
}
