//! `cargo xtask setup`: installs what is missing; does nothing, quickly, when nothing is.

mod packages;
mod toolchain;

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

pub(crate) use packages::{
    install as packages, install_for_cluster as cluster_packages, install_missing as missing_packages,
};
pub(crate) use toolchain::{Toolchain, prepare as toolchain};

use crate::{command, workspace};

const CARGO_DENY_VERSION: &str = "0.20.2";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Installs everything that any command needs.
///
/// # Errors
/// When something is missing and cannot be installed; the message says which command would.
pub(crate) fn run(_: &Args) -> Result<()> {
    packages()?;
    cluster_packages()?;
    let toolchain = toolchain()?;
    let cargo_deny = cargo_deny()?;
    println!("packages     installed");
    println!("kernel side  {toolchain}, linked by {}", workspace::tools().join("bin/bpf-linker").display());
    println!("licences     {}", cargo_deny.display());
    Ok(())
}

/// Builds cargo-deny when it is not here: 1½ minutes on two cores, because it is not optimised.
///
/// # Errors
/// When it cannot be built.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    let program = workspace::tools().join("bin/cargo-deny");
    if !program.exists() {
        println!("building cargo-deny {CARGO_DENY_VERSION} (about 2 minutes)");
        install(
            &["cargo-deny", "--version", CARGO_DENY_VERSION],
            command::cargo().env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"),
        )?;
    }
    Ok(program)
}

/// `cargo install` into the tools of this work tree, quick to build rather than quick to run.
fn install(package: &[&str], cargo: &mut Command) -> Result<()> {
    let target = workspace::tools().join("build");
    cargo
        .args(["install", "--locked", "--force", "--quiet", "--root"])
        .arg(workspace::tools())
        .args(package)
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
        .env("CARGO_PROFILE_RELEASE_LTO", "off");
    command::run(cargo)?;
    fs::remove_dir_all(&target).with_context(|| format!("removing {}", target.display()))
}
