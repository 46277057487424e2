//! The benchmarks behind `cargo xtask bench`: figures beside their budgets (DESIGN, section 7).
//!
//! [`datapath`] times the hooks on single packets, [`latency`] round trips of real connections, [`control`] the plugin
//! and the agent, [`services`] Services that change, [`compile`] the compiler of policies. [`spread`] is what each gives, [`report`] prints them.
//!
//! **Invariant: everything that is compared is measured in turns.** This machine is as fast as its neighbours let it
//! be: a figure is a difference from, or a ratio to, a yardstick that was measured within the same fraction of a second.
#![expect(clippy::print_stdout, reason = "the table is the answer")]

mod compile;
mod control;
mod datapath;
mod latency;
mod pin;
mod report;
mod services;
mod spread;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Parser;
use report::Report;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", about = "Measure; budgets are those of DESIGN, section 7", long_about = None)]
struct Args {
    /// A fifth of the rounds: to see that everything runs, not to compare.
    #[arg(long)]
    quick: bool,
    /// Only this group (`datapath`, `latency`, `control`, `services`, `compile`), or figures whose name contains this.
    filter: Option<String>,
    /// Write the figures into this file too, as JSON.
    #[arg(short, long)]
    output: Option<PathBuf>,
}

impl Args {
    /// As many rounds as asked for.
    fn rounds(&self, full: usize) -> usize {
        if self.quick { full.div_ceil(5) } else { full }
    }

    /// Whether a figure of a group is wanted.
    fn wants(&self, group: &str, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| group == filter || name.contains(filter.as_str()))
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let mut report = Report::default();
    datapath::measure(args, &mut report)?;
    latency::measure(args, &mut report)?;
    control::measure(args, &mut report)?;
    services::measure(args, &mut report)?;
    compile::measure(args, &mut report)?;
    args.output.as_deref().map_or(Ok(()), |path| report.write(path))
}
