//! The Go that components are built with: the one in `PATH` when it can fetch the version that a module asks for, else
//! a pinned one from the Go module proxy, which serves toolchains as modules.

use std::{
    env, fmt, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::{command, oci::Arch, workspace};

/// The first version that fetches another one when a module asks for it (`GOTOOLCHAIN=auto`).
const OLDEST: (u32, u32) = (1, 21);
/// The version that is fetched, and the SHA-256 of its archives.
const VERSION: &str = "1.26.8";
const AMD64_SHA256: &str = "30c2b1bf7dcc88d3eb0a1364e47ddd9128edb3110a30e8a0ef61cd5856b31de7";
const ARM64_SHA256: &str = "02b36b6787b3ac767668f630e2998df45a3b1f9ffee08d1bf3ef6487cd658d99";
const PROXY: &str = "https://proxy.golang.org";

/// A Go that can build.
pub(super) struct Go {
    program: PathBuf,
    version: String,
}

impl fmt::Display for Go {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.version)
    }
}

impl Go {
    /// Finds one, or fetches it.
    ///
    /// # Errors
    /// When none is there and none can be fetched.
    pub(super) fn find() -> Result<Self> {
        let found = command::find("go").and_then(|program| Self::at(program).ok());
        if let Some(go) = found.filter(|go| is_new_enough(&go.version)) {
            return Ok(go);
        }
        let folder = workspace::tools().join(format!("go{VERSION}"));
        let program = folder.join("bin/go");
        if !program.exists() {
            fetch(&folder)?;
        }
        Self::at(program)
    }

    fn at(program: PathBuf) -> Result<Self> {
        // From a folder without a module: which would ask for another version.
        let mut version = Command::new(&program);
        let version = command::capture(version.args(["env", "GOVERSION"]).current_dir("/"))?;
        Ok(Self { program, version: version.trim().to_owned() })
    }

    /// Go in a module's folder: static programs, whatever the environment says of workspaces and toolchains.
    pub(super) fn command(&self, folder: &Path) -> Command {
        let mut go = Command::new(&self.program);
        go.current_dir(folder)
            .env("CGO_ENABLED", "0")
            .env("GOTOOLCHAIN", "auto")
            .env("GOWORK", "off")
            .env("GO111MODULE", "on");
        go
    }
}

/// True for `go1.21` and newer.
fn is_new_enough(version: &str) -> bool {
    let mut numbers =
        version.trim_start_matches("go").split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= OLDEST,
        _ => false,
    }
}

/// Fetches the pinned version into `folder`.
fn fetch(folder: &Path) -> Result<()> {
    let arch = Arch::HOST;
    let module = format!("golang.org/toolchain@v0.0.1-go{VERSION}.linux-{}", arch.as_str());
    let url = format!("{}/{}.zip", proxy(env::var("GOPROXY").ok().as_deref()), module.replace('@', "/@v/"));
    println!("fetching Go {VERSION}");
    let tools = workspace::tools();
    fs::create_dir_all(&tools).with_context(|| format!("making {}", tools.display()))?;
    let scratch = tempfile::tempdir_in(&tools).context("making a folder to unpack into")?;
    let archive = scratch.path().join("go.zip");
    let mut curl = Command::new("curl");
    command::capture(
        curl.args(["--fail", "--silent", "--show-error", "--location", "--output"]).arg(&archive).arg(&url),
    )?;
    let bytes = fs::read(&archive).with_context(|| format!("reading {}", archive.display()))?;
    let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = match arch {
        Arch::Amd64 => AMD64_SHA256,
        Arch::Arm64 => ARM64_SHA256,
    };
    if hash != expected {
        bail!("{url} has the hash {hash}, not {expected}");
    }
    command::capture(Command::new("unzip").arg("-q").arg(&archive).arg("-d").arg(scratch.path()))?;
    let unpacked = scratch.path().join(module);
    make_executable(&unpacked.join("bin"))?;
    make_executable(&unpacked.join("pkg/tool"))?;
    fs::rename(&unpacked, folder).with_context(|| format!("naming {}", folder.display()))
}

/// A module's archive keeps no permissions (Go module reference, "Module zip files").
fn make_executable(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
        if path.is_dir() {
            make_executable(&path)?;
        } else {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                .with_context(|| format!("changing the mode of {}", path.display()))?;
        }
    }
    Ok(())
}

/// The first proxy of `GOPROXY`, a list of addresses and of words (Go module reference, "GOPROXY protocol").
fn proxy(list: Option<&str>) -> &str {
    let is_address = |entry: &&str| entry.starts_with("http://") || entry.starts_with("https://");
    list.unwrap_or_default()
        .split([',', '|'])
        .map(str::trim)
        .find(is_address)
        .unwrap_or(PROXY)
        .trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_go_that_cannot_fetch_a_newer_one_is_too_old() {
        for new in ["go1.21", "go1.21.0", "go1.26.8", "go1.27rc1", "go2.0"] {
            assert!(is_new_enough(new), "{new}");
        }
        for old in ["go1.19.8", "go1.9", "", "devel"] {
            assert!(!is_new_enough(old), "{old}");
        }
    }

    #[test]
    fn the_proxy_is_the_first_address_that_the_environment_names() {
        assert_eq!(proxy(None), PROXY);
        assert_eq!(proxy(Some("off")), PROXY);
        assert_eq!(proxy(Some("https://go.example.org/,direct")), "https://go.example.org");
        assert_eq!(proxy(Some("direct|http://localhost:3000")), "http://localhost:3000");
    }
}
