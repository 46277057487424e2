//! The compiler and the linker of the kernel side.
//!
//! Kernel programs need `core` built from source, and a linker that uses the LLVM of the compiler. Two compilers will
//! do: a nightly of rustup with `rust-src`, or Debian's `rustc-web` with `rust-web-src`. The choice is written to
//! `target/tools/ebpf-rustc`, where `agent/build.rs` reads it.

use std::{
    fmt, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{install, packages::apt_install};
use crate::{command, workspace};

const BPF_LINKER_VERSION: &str = "0.13.0";
/// LLVM versions that this bpf-linker can be built for.
const LLVM_MAJORS: std::ops::RangeInclusive<u32> = 21..=23;
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// A compiler that can build the kernel side.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Toolchain {
    /// A toolchain of rustup, by name.
    Rustup(String),
    /// A released compiler with its library's source, by path.
    Path(PathBuf),
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rustup(name) => f.write_str(name),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

impl Toolchain {
    fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "" => None,
            path if path.starts_with('/') => Some(Self::Path(path.into())),
            name => Some(Self::Rustup(name.to_owned())),
        }
    }

    /// Starts a program of the toolchain.
    pub(crate) fn program(&self, program: &str) -> Command {
        match self {
            Self::Rustup(name) => {
                let mut rustup = command::command("rustup");
                rustup.args(["run", name, program]);
                rustup
            }
            Self::Path(rustc) => command::command(rustc.with_file_name(program)),
        }
    }

    fn rustc(&self, arguments: &[&str]) -> Result<String> {
        command::capture(self.program("rustc").args(arguments))
    }

    /// The LLVM library of the compiler, when the compiler can build the kernel side.
    fn llvm(&self) -> Result<Llvm> {
        let sysroot = PathBuf::from(self.rustc(&["--print", "sysroot"])?.trim());
        let source = sysroot.join("lib/rustlib/src/rust/library/core");
        if !source.exists() {
            bail!("{} is missing", source.display());
        }
        let version = self.rustc(&["-vV"])?;
        let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: ")).unwrap_or_default();
        let major = llvm.split('.').next().and_then(|major| major.parse().ok()).unwrap_or_default();
        if !LLVM_MAJORS.contains(&major) {
            bail!("LLVM {llvm} is not one that bpf-linker {BPF_LINKER_VERSION} knows");
        }
        let folders = ["lib", "lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu"];
        let prefix = format!("libLLVM.so.{major}");
        let library = folders.iter().find_map(|folder| library_in(&sysroot.join(folder), &prefix));
        let library = library.with_context(|| format!("{prefix}* is missing in {}", sysroot.display()))?;
        Ok(Llvm { major, library })
    }
}

/// The shared library that a compiler generates code with.
#[derive(Debug)]
struct Llvm {
    major: u32,
    library: PathBuf,
}

fn library_in(folder: &Path, prefix: &str) -> Option<PathBuf> {
    let files = fs::read_dir(folder).ok()?.flatten();
    files.map(|file| file.path()).find(|path| command::name_of(path).starts_with(prefix))
}

/// Finds or installs a compiler, and builds the linker that fits it when it is not here.
///
/// # Errors
/// When no compiler can be had, with the reason for each way; when the linker cannot be built.
pub(crate) fn prepare() -> Result<Toolchain> {
    let record = workspace::tools().join("ebpf-rustc");
    let recorded = fs::read_to_string(&record).ok().and_then(|text| Toolchain::parse(&text));
    let usable = recorded.clone().and_then(|toolchain| Some((toolchain.llvm().ok()?, toolchain)));
    let (llvm, toolchain) = match usable {
        Some(usable) => usable,
        None => choose()?,
    };
    if !linker_fits(&llvm) {
        build_linker(&llvm)?;
    }
    if recorded.as_ref() != Some(&toolchain) {
        fs::write(&record, format!("{toolchain}\n"))
            .with_context(|| format!("writing {}", record.display()))?;
    }
    Ok(toolchain)
}

fn choose() -> Result<(Llvm, Toolchain)> {
    let rustup = match from_rustup() {
        Ok(found) => return Ok(found),
        Err(error) => error,
    };
    let debian = match from_debian() {
        Ok(found) => return Ok(found),
        Err(error) => error,
    };
    bail!(
        "no compiler for the kernel side. Either run `rustup toolchain install nightly --component rust-src` ({rustup:#}), \
         or install Debian's rustc-web and rust-web-src ({debian:#})"
    )
}

fn from_rustup() -> Result<(Llvm, Toolchain)> {
    if command::find("rustup").is_none() {
        bail!("there is no rustup");
    }
    let toolchain = Toolchain::Rustup("nightly".to_owned());
    if toolchain.rustc(&["--version"]).is_err() {
        println!("installing the nightly toolchain");
        command::capture(command::command("rustup").args([
            "toolchain",
            "install",
            "nightly",
            "--profile",
            "minimal",
            "--component",
            "rust-src",
            "--no-self-update",
        ]))?;
    } else if toolchain.llvm().is_err() {
        println!("adding rust-src to the nightly toolchain");
        command::capture(command::command("rustup").args([
            "component",
            "add",
            "rust-src",
            "--toolchain",
            "nightly",
        ]))?;
    }
    Ok((toolchain.llvm()?, toolchain))
}

fn from_debian() -> Result<(Llvm, Toolchain)> {
    let toolchain = Toolchain::Path(DEBIAN_RUSTC.into());
    if let Ok(llvm) = toolchain.llvm() {
        return Ok((llvm, toolchain));
    }
    apt_install(&["rustc-web", "rust-web-src"])?;
    Ok((toolchain.llvm()?, toolchain))
}

/// The folder that bpf-linker takes for LLVM's: links to the one library it needs. Its path is in the program.
fn llvm_prefix() -> PathBuf {
    workspace::tools().join("llvm")
}

fn linker_fits(llvm: &Llvm) -> bool {
    let linked = llvm_prefix().join("lib").join(command::name_of(&llvm.library)).canonicalize();
    let same_library =
        linked.is_ok_and(|linked| llvm.library.canonicalize().is_ok_and(|library| library == linked));
    let version =
        command::capture(command::command(workspace::tools().join("bin/bpf-linker")).arg("--version"));
    same_library && version.is_ok_and(|version| version.split_whitespace().nth(1) == Some(BPF_LINKER_VERSION))
}

fn build_linker(llvm: &Llvm) -> Result<()> {
    println!("building bpf-linker {BPF_LINKER_VERSION} for LLVM {} (about 1 minute)", llvm.major);
    let lib = llvm_prefix().join("lib");
    if lib.exists() {
        fs::remove_dir_all(&lib).with_context(|| format!("removing {}", lib.display()))?;
    }
    fs::create_dir_all(&lib).with_context(|| format!("making {}", lib.display()))?;
    for name in ["libLLVM.so", &command::name_of(&llvm.library)] {
        symlink(&llvm.library, lib.join(name))
            .with_context(|| format!("linking {} in {}", name, lib.display()))?;
    }
    let feature = format!("llvm-{}", llvm.major);
    install(
        &["bpf-linker", "--version", BPF_LINKER_VERSION, "--no-default-features", "--features", &feature],
        command::cargo().env("LLVM_PREFIX", llvm_prefix()).env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_toolchain_reads_back_as_it_was_written() {
        for toolchain in [Toolchain::Rustup("nightly".to_owned()), Toolchain::Path(DEBIAN_RUSTC.into())] {
            assert_eq!(Toolchain::parse(&format!("{toolchain}\n")), Some(toolchain));
        }
        assert_eq!(Toolchain::parse("\n"), None);
    }
}
