//! `sluice`: asks what the kernel does, and why.
//!
//! One file per command; each makes one answer, a struct that [`output`] prints as a table or as JSON. [`names`] puts
//! words to the numbers.
//!
//! **Invariant: dumps need only the kernel.** They read the pinned maps and nothing else, so they work with the agent
//! dead, and write nothing.

use std::process::ExitCode;

use clap::Parser;

mod args;
mod bpf;
mod clock;
mod conntrack;
mod drops;
mod endpoints;
mod ipcache;
mod monitor;
mod names;
mod offline;
mod output;
mod policy;
mod services;
mod status;

fn main() -> ExitCode {
    match args::run(&args::Args::parse()) {
        Ok(code) => code,
        // Whoever read our answer has seen enough.
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice: {error:#}");
            ExitCode::FAILURE
        }
    }
}
