//! Builds the kernel side into `OUT_DIR/sluice-ebpf`, and what measures it into `OUT_DIR/sluice-bench`.
//!
//! `cargo xtask setup` has chosen the compiler and built the linker that fits it; this script only reads that choice,
//! so that a plain `cargo build` works afterwards. `xtask/src/setup/toolchain.rs` writes [`CHOICE`].
//!
//! aya-build takes a package and a toolchain's name; all else reaches it, and the cargo it starts, by environment.

use std::{env, ffi::OsString, fs, iter, path::Path, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain, build_ebpf};

/// Names the compiler: a toolchain of rustup, or the path of a `rustc` whose library source is installed.
const CHOICE: &str = "../target/tools/ebpf-rustc";
/// The folder of bpf-linker, which uses the LLVM of that compiler.
const LINKER_DIR: &str = "../target/tools/bin";

fn main() -> ExitCode {
    for input in
        [CHOICE, "../target/tools/bin/bpf-linker", "../abi/src", "../abi/Cargo.toml", "../Cargo.lock"]
    {
        println!("cargo:rerun-if-changed={input}");
    }
    // For `tests/build.rs`, as `DEP_SLUICE_EBPF_OBJECTS`.
    println!("cargo:objects={}", env::var("OUT_DIR").unwrap_or_default());
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}"); // cargo shows it; a backtrace would bury it
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<()> {
    let choice = fs::read_to_string(CHOICE).unwrap_or_default();
    let choice = choice.trim();
    if choice.is_empty() || !Path::new(LINKER_DIR).join("bpf-linker").exists() {
        bail!("the toolchain of the kernel side is not set up: run `cargo xtask setup`");
    }
    let is_path = choice.starts_with('/');
    set_environment(is_path.then_some(choice))?;
    // A compiler given by path is driven by the cargo that runs this script.
    let cargo_of = if is_path { env::var("RUSTUP_TOOLCHAIN").unwrap_or_default() } else { choice.to_owned() };
    let package = Package { name: "sluice-ebpf", root_dir: "../ebpf", ..Package::default() };
    build_ebpf([package], Toolchain::Custom(&cargo_of))
        .context("building the kernel side (messages above; after an update of Rust: `cargo xtask setup`)")
}

fn set_environment(rustc: Option<&str>) -> Result<()> {
    let linker_dir = fs::canonicalize(LINKER_DIR).context("finding the folder of bpf-linker")?;
    let path = env::var_os("PATH").unwrap_or_default();
    let path =
        env::join_paths(iter::once(linker_dir).chain(env::split_paths(&path))).context("extending PATH")?;
    let mut variables: Vec<(&str, OsString)> = vec![
        ("PATH", path),
        // v3 has 32-bit jumps and arithmetic; Linux 5.10 knows it. aya-build owns the ordinary rustflags, and a
        // profile's flags would also reach build scripts and macros, which run here. Without the linker's flag every
        // small copy is a call of a loop over bytes, a third of a packet's time. The last flag keeps the folder of the
        // sources out of the line numbers: equal sources give an equal object, wherever they lie.
        ("CARGO_UNSTABLE_PROFILE_RUSTFLAGS", "true".into()),
        (
            "CARGO_PROFILE_RELEASE_RUSTFLAGS",
            "-Ctarget-cpu=v3 -Clink-arg=--disable-expand-memcpy-in-order -Zremap-cwd-prefix=.".into(),
        ),
        ("CARGO_PROFILE_RELEASE_BUILD_OVERRIDE_RUSTFLAGS", "".into()),
        // The workspace's release profile is user space's; the kernel side keeps its BTF and line numbers.
        ("CARGO_PROFILE_RELEASE_STRIP", "none".into()),
        // aya-build repeats every line as a warning, and cargo repeats those in every later build.
        ("CARGO_TERM_QUIET", "true".into()),
    ];
    if let Some(rustc) = rustc {
        // aya-build removes `RUSTC`; a released compiler builds `core` only when told to.
        variables.push(("CARGO_BUILD_RUSTC", rustc.into()));
        variables.push(("RUSTC_BOOTSTRAP", "1".into()));
    }
    for (name, value) in variables {
        // SAFETY: this process has one thread.
        unsafe { env::set_var(name, value) };
    }
    Ok(())
}
