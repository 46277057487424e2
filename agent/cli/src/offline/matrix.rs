//! `sluice policy matrix` as a table.

use std::{
    fmt::Write,
    io::{self, IsTerminal},
};

use serde::Serialize;
use sluice_core::{
    explain::{Port, Protocol},
    matrix::Matrix,
};

use crate::output::Answer;

/// A matrix, and what stands above it.
#[derive(Debug, Serialize)]
pub(super) struct Shown<'a> {
    #[serde(flatten)]
    matrix: &'a Matrix,
    #[serde(skip)]
    title: String,
    #[serde(skip)]
    coloured: bool,
}

impl<'a> Shown<'a> {
    /// Coloured where a person looks who has nothing against it (<https://no-color.org>).
    pub(super) fn new(matrix: &'a Matrix, protocol: Protocol, port: &Port) -> Self {
        let title = if protocol.has_ports() {
            format!("{} {port}", protocol.name())
        } else {
            protocol.name().to_owned()
        };
        let refuses = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { matrix, title, coloured: io::stdout().is_terminal() && !refuses }
    }
}

impl Answer for Shown<'_> {
    fn text(&self) -> String {
        let Matrix { pods, allowed } = self.matrix;
        let digits = pods.len().to_string().len();
        let width = pods.iter().map(|pod| pod.chars().count()).max().unwrap_or_default();
        let mut text = format!("{}: a row opens, a column answers; + allowed, - denied\n\n", self.title);
        let _ = write!(text, "{:digits$}  {:width$} ", "", "");
        for number in 1..=pods.len() {
            let _ = write!(text, " {number:>digits$}");
        }
        text.push('\n');
        for (number, (pod, row)) in (1..).zip(pods.iter().zip(allowed)) {
            let _ = write!(text, "{number:>digits$}  {pod:<width$} ");
            for allowed in row {
                text += &self.cell(*allowed, digits);
            }
            text.push('\n');
        }
        let passing = allowed.iter().flatten().filter(|allowed| **allowed).count();
        let _ = writeln!(text, "\n{passing} of {} pairs allowed", pods.len() * pods.len());
        text
    }
}

impl Shown<'_> {
    fn cell(&self, allowed: bool, digits: usize) -> String {
        let (sign, colour) = if allowed { ("+", "32") } else { ("-", "31") };
        let padded = format!(" {sign:>digits$}");
        if self.coloured { format!("\x1b[{colour}m{padded}\x1b[0m") } else { padded }
    }
}
