//! `cargo xtask demo`: builds what it needs and runs `tests/src/bin/demo.rs`.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::{build, command, setup};

/// The packages whose binaries the demo starts, and its own.
const PACKAGES: [&str; 4] = ["sluice-agent", "sluice-cli", "sluice-cni", "sluice-tests"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave everything up until Enter or Ctrl-C, and say how to look around.
    #[arg(long)]
    keep: bool,
    /// Build optimised: the first build takes longer.
    #[arg(long)]
    release: bool,
}

/// Builds and shows. The exit code is a failure when something was not as expected.
///
/// # Errors
/// When this is not root, or the build fails.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !command::is_root() {
        bail!("the demo makes network namespaces and loads programs: run it as root");
    }
    setup::packages()?;
    setup::toolchain()?;
    let mut cargo = command::cargo();
    cargo.args(["build", "--locked", "--bins"]).args(PACKAGES.map(|package| format!("--package={package}")));
    if args.release {
        cargo.arg("--release");
    }
    let built = build::executables(&mut cargo)?;
    let demo =
        built.iter().find(|built| built.target == "demo").context("finding the demo among what was built")?;
    let mut demo = command::command(&demo.executable);
    if args.keep {
        demo.arg("--keep");
    }
    let status = demo.status().with_context(|| format!("starting {}", command::shown(&demo)))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
