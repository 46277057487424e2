//! `cargo xtask build`: every binary; and what cargo says it built.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::{command, setup, workspace};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Optimised and stripped, as shipped.
    #[arg(long)]
    release: bool,
}

/// Builds every binary and prints where it is.
///
/// # Errors
/// When the toolchain cannot be set up or the build fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::toolchain()?;
    let mut cargo = command::cargo();
    cargo.args(["build", "--workspace", "--exclude", "sluice-ebpf", "--exclude", "xtask", "--bins"]);
    if args.release {
        cargo.arg("--release");
    }
    for built in executables(&mut cargo)? {
        println!("{:<14} {}", built.target, built.executable.display());
    }
    Ok(())
}

/// Something that cargo built and that can be started.
#[derive(Debug)]
pub(crate) struct Executable {
    /// Folder of its package.
    pub package: PathBuf,
    /// Name of the target.
    pub target: String,
    /// True for integration tests (`tests/*.rs`).
    pub is_integration_test: bool,
    /// True for a test harness; the programs that tests start are built beside them.
    pub is_test: bool,
    /// The file.
    pub executable: PathBuf,
}

impl Executable {
    /// Folder of its package, from the workspace's root.
    pub(crate) fn folder(&self) -> &Path {
        self.package.strip_prefix(workspace::root()).unwrap_or(&self.package)
    }
}

/// A line of `cargo build --message-format=json`, as far as it is read here.
#[derive(Deserialize)]
struct Message {
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    #[serde(default)]
    profile: Profile,
    executable: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
struct Profile {
    test: bool,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// Runs a cargo command that builds; its progress and its errors go to stderr as it works.
///
/// # Errors
/// When it fails, or speaks no JSON.
pub(crate) fn executables(cargo: &mut Command) -> Result<Vec<Executable>> {
    cargo.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
    let mut child = cargo.spawn().with_context(|| format!("starting {}", command::shown(cargo)))?;
    let stdout = child.stdout.take().expect("stdout is piped");
    let mut found = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("reading cargo's messages")?;
        let message: Message =
            serde_json::from_str(&line).with_context(|| format!("reading cargo's message {line}"))?;
        if let Message {
            manifest_path: Some(manifest),
            target: Some(target),
            profile,
            executable: Some(executable),
        } = message
        {
            found.push(Executable {
                package: manifest.parent().context("finding a package's folder")?.to_owned(),
                is_integration_test: target.kind.iter().any(|kind| kind == "test"),
                target: target.name,
                is_test: profile.test,
                executable,
            });
        }
    }
    let status = child.wait().context("waiting for cargo")?;
    if !status.success() {
        bail!("{}: {status}", command::shown(cargo));
    }
    Ok(found)
}
