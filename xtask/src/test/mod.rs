//! `cargo xtask test`: every check, layer by layer, from what needs nothing to what needs other kernels.
//!
//! Everything is built once; [`binaries`] runs what was built and counts, [`report`] prints and sums up. A layer that
//! fails does not stop the next one, and its output is repeated at the end.

mod binaries;
mod e2e;
mod report;

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, anyhow};
use report::Report;

use crate::{build, command, docs, setup};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    layer: Option<Layer>,
    /// Only tests whose name contains this, without the checks of the sources and without other kernels.
    filter: Option<String>,
    /// Leave out the layer that boots other kernels.
    #[arg(long)]
    no_vm: bool,
    /// Leave out the layer that needs a real Kubernetes.
    #[arg(long)]
    no_cluster: bool,
}

/// A layer that can be run alone, with options of its own.
#[derive(Debug, clap::Subcommand)]
enum Layer {
    /// Sluice on a real Kubernetes: our scenarios and the upstream suite.
    E2e(e2e::Args),
}

impl Args {
    /// All layers.
    pub(crate) fn everything() -> Self {
        Self { layer: None, filter: None, no_vm: false, no_cluster: false }
    }
}

/// Runs the layers. The exit code is a failure when anything failed.
///
/// # Errors
/// When a layer cannot be run at all.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if let Some(Layer::E2e(args)) = &args.layer {
        return e2e::run(args);
    }
    let mut report = Report::new();
    report.heading("setup");
    report.check("packages", setup::packages());
    let Some(toolchain) = report.check("toolchain of the kernel side", setup::toolchain()) else {
        return Ok(report.finish());
    };
    if args.filter.is_none() {
        sources(&mut report, &toolchain);
    }
    report.heading("build");
    let Some(built) = report.check("tests", build_tests()) else {
        return Ok(report.finish());
    };
    binaries::without_root(&mut report, &built, args.filter.as_deref());
    binaries::with_root(&mut report, &built, args.filter.as_deref());
    match &args.filter {
        None => {
            other_kernels(&mut report, &built, args.no_vm);
            real_kubernetes(&mut report, &built, args.no_cluster);
        }
        Some(filter) if !report.has_run_tests() => {
            report.check::<()>("filter", Err(anyhow!("no test's name contains {filter}")));
        }
        Some(_) => {}
    }
    Ok(report.finish())
}

/// Formatting, lints, licences, generated documents.
fn sources(report: &mut Report, toolchain: &setup::Toolchain) {
    report.heading("sources");
    let mut format = command::cargo();
    report.check("format", command::capture(format.args(["fmt", "--all", "--check"])));
    let mut clippy = command::cargo();
    clippy.args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--quiet",
        "--keep-going",
        "--",
        "-D",
        "warnings",
    ]);
    report.check("lints", command::run(&mut clippy));
    if let Some(mut clippy) = kernel_side_lints(toolchain) {
        report.check("lints of the kernel side", command::capture(&mut clippy));
    } else {
        report.left_out("lints of the kernel side", &format!("{toolchain} has no clippy"));
    }
    report.check("licences, bans, sources", licences());
    report.check("generated documents", docs::check());
}

/// Clippy for the kernel's target, with the compiler of the kernel side; none when that has no clippy.
fn kernel_side_lints(toolchain: &setup::Toolchain) -> Option<Command> {
    let setup::Toolchain::Rustup(_) = toolchain else { return None };
    command::capture(toolchain.program("cargo-clippy").arg("--version")).ok()?;
    let mut clippy = toolchain.program("cargo");
    clippy
        .args(["clippy", "--package", "sluice-ebpf", "--locked", "--quiet", "-Zbuild-std=core"])
        .args(["--target", "bpfel-unknown-none", "--", "-D", "warnings"])
        .env("CARGO_ENCODED_RUSTFLAGS", format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH));
    Some(clippy)
}

fn licences() -> Result<String> {
    let mut deny = command::command(setup::cargo_deny()?);
    deny.args(["--log-level", "warn", "--workspace", "--locked", "check", "--hide-inclusion-graph"]);
    command::capture(deny.args(["licenses", "bans", "sources"]))
}

fn build_tests() -> Result<Vec<build::Executable>> {
    // The binaries, too: tests of the installed program start it.
    let mut cargo = command::cargo();
    let mut built = build::executables(cargo.args(["test", "--workspace", "--locked", "--no-run"]))
        .context("building the tests")?;
    built.retain(|executable| executable.is_test);
    Ok(built)
}

/// The verifiers and the maps of other kernels.
fn other_kernels(report: &mut Report, built: &[build::Executable], no_vm: bool) {
    report.heading("other kernels");
    if no_vm {
        report.left_out("other kernels", "--no-vm");
    } else if !command::is_root() {
        report.left_out("other kernels", "needs root");
    } else {
        binaries::on_other_kernels(report, built);
    }
}

/// Sluice as a user installs it, in a real cluster.
fn real_kubernetes(report: &mut Report, built: &[build::Executable], no_cluster: bool) {
    const NAME: &str = "a real Kubernetes";
    if no_cluster {
        report.left_out(NAME, "--no-cluster");
    } else if !command::is_root() {
        report.left_out(NAME, "needs root");
    } else {
        e2e::layer(report, built, &e2e::Args::default());
    }
}
