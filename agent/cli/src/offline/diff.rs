//! `sluice policy diff` in words.

use std::{collections::BTreeMap, fmt::Write, path::PathBuf, process::ExitCode};

use anyhow::bail;
use clap::Args;
use sluice_core::compare::{Comparison, compare};

use super::{
    answered, code,
    input::{Reading, warn_of_doubts},
};
use crate::output::{self, Answer, Format};

const EXIT_CODES: &str = "\
Exit codes:
  0  no verdict changes
  1  some do
  2  no answer: the command line or a file is wrong";

/// What to compare.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Diff {
    /// The old objects and the new ones, twice: a file, a folder or - for standard input
    #[arg(short, long, required = true, value_name = "OLD -f NEW")]
    filename: Vec<PathBuf>,
    /// Objects that both sides have: pods and namespaces, where -f are policies alone
    #[arg(long, value_name = "PATH")]
    with: Vec<PathBuf>,
    #[command(flatten)]
    reading: Reading,
}

/// `sluice policy diff`: whose verdict changes.
pub(crate) fn run(format: Format, diff: &Diff) -> anyhow::Result<ExitCode> {
    let answer = || {
        let [old, new] = diff.filename.as_slice() else {
            bail!("-f is needed twice: for the old objects, and for the new ones");
        };
        let mut assumed = diff.reading.assumed();
        let mut world = |path: &PathBuf| {
            let paths: Vec<PathBuf> = diff.with.iter().chain([path]).cloned().collect();
            diff.reading.world(&paths, &mut assumed)
        };
        let (old, new) = (world(old)?, world(new)?);
        warn_of_doubts(&new);
        let comparison = compare(&old, &new);
        output::print(format, &comparison)?;
        Ok(code(comparison.changes.is_empty()))
    };
    answered(answer())
}

impl Answer for Comparison {
    fn text(&self) -> String {
        let mut text = String::new();
        if !self.changes.is_empty() {
            let mut flows: BTreeMap<_, (&str, String)> = BTreeMap::new();
            for change in &self.changes {
                let ends = (&change.from, &change.to, change.old, change.new);
                let (last, text) = flows.entry(ends).or_default();
                if !text.is_empty() {
                    text.push_str(", ");
                }
                let ports = change.ports.map(|ports| ports.to_string());
                let protocol = (*last != change.protocol).then(|| change.protocol.to_owned());
                *text += &protocol.into_iter().chain(ports).collect::<Vec<_>>().join(" ");
                *last = change.protocol;
            }
            let rows = flows.into_iter().map(|((from, to, old, new), (_, flows))| {
                [from.clone(), to.clone(), format!("{old} → {new}"), flows]
            });
            text = output::table(["FROM", "TO", "VERDICT", "ON"], rows) + "\n";
        }
        for (what, pods) in [("new", &self.added), ("gone", &self.removed)] {
            if !pods.is_empty() {
                // Writing to a string cannot go wrong.
                let _ = writeln!(text, "{what}, so not compared: {}", pods.join(", "));
            }
        }
        let _ = match self.changes.len() {
            0 => writeln!(text, "no verdict changes between {} pods, nor to or from outside", self.compared),
            1 => writeln!(text, "1 change"),
            many => writeln!(text, "{many} changes"),
        };
        text
    }
}
