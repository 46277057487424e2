//! Building the programs: static, for either architecture, on either.
//!
//! Cargo compiles for musl, whose start files and C library come with Rust's target; `rust-lld` links for any machine. Only
//! `ring` has C and assembly: clang compiles it for any machine without headers of a C library.

use std::{env, fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::elf;
use crate::{build, command, oci::Arch, setup, workspace};

/// Package and binary of each program.
const PROGRAMS: &[(&str, &str)] =
    &[("sluice-agent", "sluice-agent"), ("sluice-cli", "sluice"), ("sluice-cni", "sluice-cni")];

/// How programs are compiled.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Profile {
    /// As published.
    Release,
    /// Fast to build, for tests: not optimised, with checks of arithmetic and with symbols.
    Debug,
}

impl Profile {
    /// Cargo's name.
    fn cargo(self) -> &'static str {
        match self {
            Self::Release => "image",
            Self::Debug => "dev",
        }
    }
}

/// Rust's name for an architecture.
pub(crate) fn target(architecture: Arch) -> &'static str {
    match architecture {
        Arch::Amd64 => "x86_64-unknown-linux-musl",
        Arch::Arm64 => "aarch64-unknown-linux-musl",
    }
}

/// Builds every program and returns their paths.
///
/// # Errors
/// When a compiler cannot be had, the build fails, or a program is not static.
pub(crate) fn build(architecture: Arch, profile: Profile) -> Result<Vec<PathBuf>> {
    let target = target(architecture);
    add_target(target)?;
    setup::missing_packages(&[("build-essential", "cc"), ("clang", "clang")])?;
    let mut cargo = command::cargo();
    cargo.args(["build", "--locked", "--bins", "--profile", profile.cargo(), "--target", target]);
    cargo.arg("--target-dir").arg(workspace::root().join("target"));
    cargo.args(PROGRAMS.iter().flat_map(|(package, _)| ["--package", package]));
    cargo.env("CARGO_ENCODED_RUSTFLAGS", rust_flags(profile)?.join("\x1f"));
    for (variable, value) in c_compiler() {
        cargo.env(format!("{variable}_{}", target.replace('-', "_")), value);
    }
    let built = build::executables(&mut cargo)?;
    let path = |name: &str| -> Result<PathBuf> {
        let found = built.iter().find(|built| built.target == name);
        let path = found.with_context(|| format!("cargo built no {name}"))?.executable.clone();
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        elf::check_static(&bytes, architecture).with_context(|| format!("checking {}", path.display()))?;
        Ok(path)
    };
    PROGRAMS.iter().map(|(_, name)| path(name)).collect()
}

/// Adds the target's library to the toolchain when it is not there.
fn add_target(target: &str) -> Result<()> {
    let rustc = || command::command(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let folder = command::capture(rustc().args(["--print", "target-libdir", "--target", target]))?;
    if PathBuf::from(folder.trim()).is_dir() {
        return Ok(());
    }
    ensure!(
        command::find("rustup").is_some(),
        "the compiler has no library for {target}, and there is no rustup to add it"
    );
    println!("adding {target} to the toolchain");
    command::capture(command::command("rustup").args(["target", "add", target])).map(drop)
}

fn rust_flags(profile: Profile) -> Result<Vec<String>> {
    let sysroot = command::capture(command::command("rustc").args(["--print", "sysroot"]))?;
    let cargo_home = match env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => env::home_dir().context("finding the home folder")?.join(".cargo"),
    };
    let renamed = [
        (workspace::root().to_owned(), "/sluice"),
        (cargo_home.join("registry/src"), "/cargo"),
        (PathBuf::from(sysroot.trim()).join("lib/rustlib/src/rust"), "/rust"),
    ];
    let mut flags = vec!["-Clinker=rust-lld".to_owned()];
    // Backtraces keep their names; line numbers would make the image ten times larger.
    flags.extend((profile == Profile::Debug).then(|| "-Cstrip=debuginfo".to_owned()));
    flags.extend(renamed.iter().map(|(path, name)| format!("--remap-path-prefix={}={name}", path.display())));
    Ok(flags)
}

/// What the `cc` crate reads, without the target's name.
fn c_compiler() -> [(&'static str, &'static str); 3] {
    [
        ("CC", "clang"),
        ("AR", "ar"),
        // As `ring` itself does for targets without a C library; hosted, clang's own headers ask for one.
        ("CFLAGS", "-ffreestanding -fbuiltin -nostdlibinc -DRING_CORE_NOSTDLIBINC=1"),
    ]
}
