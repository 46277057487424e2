//! `cargo xtask ci`: what continuous integration runs, in the same order.

use std::process::ExitCode;

use anyhow::Result;

use crate::test;

/// Runs every layer of `cargo xtask test`.
///
/// # Errors
/// When a layer cannot be run at all; layers that fail are in the exit code.
pub(crate) fn run() -> Result<ExitCode> {
    test::run(&test::Args::everything())
}
