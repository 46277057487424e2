//! `cargo xtask demo`: two nodes and a handful of pods, made of namespaces, and what Sluice does for them.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use sluice_tests::demo;

/// Brings up two nodes with the pods, Services and policies of manifests/examples, and shows which traffic passes, what
/// is dropped, and why. Needs root; leaves nothing behind, also on Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "demo")]
struct Args {
    /// Leave everything up until Enter or Ctrl-C, and say how to look around.
    #[arg(long)]
    keep: bool,
}

fn main() -> Result<ExitCode> {
    let all_as_expected = demo::run(Args::parse().keep)?;
    Ok(if all_as_expected { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
