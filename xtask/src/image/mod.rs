//! `cargo xtask image`: Sluice as a container image, made without a container engine.
//!
//! [`program`] builds the three programs, [`elf`] proves that they need nothing else, [`licences`] gathers what their
//! authors ask to be passed on, and [`crate::oci`] packs them.
//!
//! **Invariant: nothing to break into.** The image holds static programs and licences: no shell, no library, no package
//! manager.
//!
//! **Invariant: reproducible.** Equal sources, `Cargo.lock` and compilers give an equal image, wherever the sources lie:
//! no time, no path and no build id gets in.

mod elf;
mod licences;
mod program;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    command,
    oci::{self, Arch, Contents, Entry, Image},
    setup, workspace,
};

/// Where the image is published.
const REPOSITORY: &str = "ghcr.io/sluice-net/sluice";
const SOURCE: &str = "https://github.com/sluice-net/sluice";
/// The version of the workspace, and the default tag.
const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Processor architecture; `all` makes one image for both [default: this machine's].
    #[arg(long, value_enum)]
    arch: Option<Architectures>,
    /// The archive [default: target/images/sluice-TAG-ARCH.tar, with `-debug` before the dot for that profile].
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Tag of the image.
    #[arg(long, default_value = VERSION)]
    tag: String,
    /// How the programs are compiled.
    #[arg(long, value_enum, default_value_t = program::Profile::Release)]
    profile: program::Profile,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Architectures {
    Amd64,
    Arm64,
    All,
}

impl Architectures {
    fn list(self) -> &'static [Arch] {
        match self {
            Self::Amd64 => &[Arch::Amd64],
            Self::Arm64 => &[Arch::Arm64],
            Self::All => &[Arch::Amd64, Arch::Arm64],
        }
    }
}

/// Builds the image and prints what is in it and where it is.
///
/// # Errors
/// When the compilers cannot be set up, when the build fails, or when the archive cannot be written.
pub(crate) fn run(args: &Args) -> Result<()> {
    let archive = build(args)?;
    println!("{REPOSITORY}:{} in {} ({})", args.tag, archive.display(), size_of(&archive)?);
    Ok(())
}

/// The archive of an image for a cluster on this machine: quick to build, under the name that the manifests have.
///
/// # Errors
/// As [`run`].
pub(crate) fn for_tests() -> Result<PathBuf> {
    build(&Args { arch: None, output: None, tag: VERSION.to_owned(), profile: program::Profile::Debug })
}

fn build(args: &Args) -> Result<PathBuf> {
    let architectures = args.arch.map_or(&[Arch::HOST][..], Architectures::list);
    let archive = args.output.clone().unwrap_or_else(|| default_archive(args, architectures));
    setup::toolchain()?;
    let labels = labels();
    let images = architectures
        .iter()
        .map(|&architecture| image(architecture, args, &labels))
        .collect::<Result<Vec<_>>>()?;
    oci::write_archive(&archive, &images)?;
    Ok(archive)
}

fn image(architecture: Arch, args: &Args, labels: &BTreeMap<String, String>) -> Result<Image> {
    let mut files = licences::files(architecture)?;
    for program in program::build(architecture, args.profile)? {
        println!(
            "{:<6} {:<13} {:>10}",
            architecture.as_str(),
            command::name_of(&program),
            size_of(&program)?
        );
        let path = Path::new("/usr/bin").join(command::name_of(&program));
        files.push(Entry { path, mode: 0o755, contents: Contents::File(program) });
    }
    Ok(Image {
        names: vec![format!("{REPOSITORY}:{}", args.tag)],
        architecture,
        entrypoint: vec!["/usr/bin/sluice-agent".to_owned()],
        cmd: Vec::new(),
        env: vec!["PATH=/usr/bin".to_owned()],
        user: String::new(),
        labels: labels.clone(),
        files,
    })
}

/// The keys that the OCI image specification defines (annotations.md).
fn labels() -> BTreeMap<String, String> {
    // Without a repository (a source archive) there is no revision to name.
    let revision = command::capture(command::command("git").args([
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]));
    let labels = [
        ("title", "Sluice"),
        ("description", "A Kubernetes network in Rust and eBPF: CNI plugin, node agent, tools"),
        ("licenses", "Apache-2.0"),
        ("source", SOURCE),
        ("url", SOURCE),
        ("version", VERSION),
        ("revision", revision.as_deref().unwrap_or_default().trim()),
    ];
    let labels = labels.into_iter().filter(|(_, value)| !value.is_empty());
    labels.map(|(key, value)| (format!("org.opencontainers.image.{key}"), value.to_owned())).collect()
}

fn default_archive(args: &Args, architectures: &[Arch]) -> PathBuf {
    let architecture = match architectures {
        [one] => one.as_str(),
        _ => "all",
    };
    let profile = match args.profile {
        program::Profile::Release => "",
        program::Profile::Debug => "-debug",
    };
    workspace::root().join(format!("target/images/sluice-{}-{architecture}{profile}.tar", args.tag))
}

/// The size of a file, for people.
fn size_of(path: &Path) -> Result<String> {
    let bytes = fs::metadata(path).with_context(|| format!("reading {}", path.display()))?.len();
    Ok(format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_named_for_what_is_in_it() {
        let name = |profile, architectures| {
            let args = Args { arch: None, output: None, tag: "1.2.3".to_owned(), profile };
            command::name_of(&default_archive(&args, architectures))
        };
        assert_eq!(name(program::Profile::Release, Architectures::Arm64.list()), "sluice-1.2.3-arm64.tar");
        assert_eq!(name(program::Profile::Debug, Architectures::All.list()), "sluice-1.2.3-all-debug.tar");
    }

    #[test]
    fn labels_name_source_version_and_licence_and_none_is_empty() {
        let labels = labels();
        for key in ["source", "version", "licenses"] {
            assert!(labels.contains_key(&format!("org.opencontainers.image.{key}")), "{key}");
        }
        assert!(labels.values().all(|value| !value.is_empty()), "{labels:?}");
    }
}
