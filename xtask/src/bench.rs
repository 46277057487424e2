//! `cargo xtask bench`: figures beside their budgets. `tests/src/bin/bench` measures; this builds it, and what it
//! measures, as shipped.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::{build, command, setup};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A fifth of the rounds: to see that everything runs, not to compare.
    #[arg(long)]
    quick: bool,
    /// Only this group (`datapath`, `latency`, `control`, `services`, `compile`), or figures whose name contains this.
    filter: Option<String>,
    /// What to print; `json` goes into the file `target/bench.json` or `--file`, beside the table.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Where the JSON goes.
    #[arg(long, default_value = "target/bench.json", requires = "output")]
    file: PathBuf,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
enum Output {
    /// A table.
    #[default]
    Table,
    /// A table, and a file of JSON.
    Json,
}

/// Builds everything with optimisation and measures.
///
/// # Errors
/// When something is missing, does not build, or cannot be measured. A budget that is exceeded is no error: it is
/// printed beside the figure.
pub(crate) fn run(args: &Args) -> Result<()> {
    if !command::is_root() {
        bail!("benchmarks make namespaces: run `cargo xtask bench` as root");
    }
    setup::packages()?;
    setup::toolchain()?;
    let mut cargo = command::cargo();
    cargo.args(["build", "--release", "--locked", "--bins"]);
    for package in ["sluice-agent", "sluice-cli", "sluice-cni", "sluice-tests"] {
        cargo.args(["--package", package]);
    }
    let built = build::executables(&mut cargo).context("building the benchmarks")?;
    let bench = built.iter().find(|built| built.target == "bench").context("finding the program `bench`")?;
    let mut bench = command::command(&bench.executable);
    bench.args(args.quick.then_some("--quick")).args(&args.filter);
    if args.output == Output::Json {
        bench.arg("--output").arg(&args.file);
    }
    command::run(&mut bench)
}
