//! The one door for developers: `cargo xtask …`. One file per command.
//!
//! **Invariant: a command brings what it needs.** On a fresh Debian 12 with cargo and root it installs what is missing
//! (see [`setup`]); elsewhere it says in one line what is missing and which command would install it.
//!
//! **Invariant: nothing is hidden.** What is left out is said and counted; what fails shows its output.
#![expect(clippy::print_stdout, reason = "the commands' answers")]

mod bench;
mod build;
mod chart;
mod ci;
mod cluster;
mod command;
mod demo;
mod docs;
mod image;
mod mutants;
mod oci;
mod setup;
mod test;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, long_about = None)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what is missing: Debian packages, the kernel side's compiler and linker.
    Setup(setup::Args),
    /// Build every binary and say where it is.
    Build(build::Args),
    /// Show on two nodes made of namespaces what passes, what is dropped, and why. Needs root.
    Demo(demo::Args),
    /// Check and test everything, layer by layer.
    Test(test::Args),
    /// Break the compiler of policies in many small ways, and see that its tests notice each.
    Mutants(mutants::Args),
    /// Measure: figures beside their budgets. Needs root.
    Bench(bench::Args),
    /// What continuous integration runs: every layer of `test`.
    Ci,
    /// Run a command on another kernel.
    Vm(vm::Args),
    /// A real Kubernetes on this machine, without Docker. Needs root.
    Cluster(cluster::Args),
    /// Build Sluice's container image.
    Image(image::Args),
    /// Generate the documents that are made from code.
    Docs(docs::Args),
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Setup(args) => setup::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Build(args) => build::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Mutants(args) => mutants::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Bench(args) => bench::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Ci => ci::run(),
        Command::Vm(args) => vm::run(&args),
        Command::Cluster(args) => cluster::run(&args),
        Command::Image(args) => image::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Docs(args) => docs::run(&args).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
