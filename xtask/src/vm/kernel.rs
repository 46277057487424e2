//! Debian's kernels of other releases, unpacked beside each other and never installed.
//!
//! apt fetches and verifies them with a private list of sources; the mirror is the one this machine already uses.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::{command, workspace};

/// The name for whatever kernel Debian's development release has.
pub(crate) const NEWEST: &str = "newest";

const IMAGE: &str = "linux-image-";
/// Prefix of a folder that is not whole yet.
const UNPACKING: &str = "unpacking-";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An unpacked kernel.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// What `uname -r` says.
    pub release: String,
    /// Folder of the kernel, its modules and its initrd.
    pub folder: PathBuf,
}

impl Kernel {
    /// The image that boots; newer packages keep it with the modules.
    pub(crate) fn image(&self) -> PathBuf {
        let boot = self.folder.join(format!("boot/vmlinuz-{}", self.release));
        if boot.exists() { boot } else { self.modules().join(&self.release).join("vmlinuz") }
    }

    /// What belongs at `/lib/modules`.
    pub(crate) fn modules(&self) -> PathBuf {
        self.folder.join("lib/modules")
    }
}

/// The kernel of a series, from the cache or from Debian.
///
/// # Errors
/// When no release of Debian has it, or it cannot be fetched or unpacked.
pub(crate) fn fetch(series: &str) -> Result<Kernel> {
    let cache = workspace::vm().join("kernels").join(series);
    if let Some(kernel) = cached(&cache) {
        return Ok(kernel);
    }
    for suite in suites(series) {
        let apt = Apt::new(suite)?;
        if let Some(release) = apt.newest_release(series)? {
            println!("fetching kernel {release} of {suite}");
            return unpack(&apt.download(&release)?, &cache, release);
        }
    }
    bail!("no Debian release among {} has a kernel {series}", suites(series).join(", "))
}

fn suites(series: &str) -> &'static [&'static str] {
    match series {
        NEWEST => &["sid"],
        "5.10" => &["bullseye"],
        "6.1" => &["bookworm"],
        "6.12" => &["bookworm-backports", "trixie"],
        _ => &["bookworm-backports", "trixie-backports", "trixie", "sid"],
    }
}

fn cached(cache: &Path) -> Option<Kernel> {
    let folder =
        fs::read_dir(cache).ok()?.flatten().map(|entry| entry.path()).find(|path| is_unpacked(path))?;
    let release = command::name_of(&folder);
    Some(Kernel { release, folder })
}

/// apt with one source and lists of its own.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn new(suite: &str) -> Result<Self> {
        let apt = Self { folder: workspace::vm().join("apt").join(suite) };
        for folder in ["lists/partial", "cache/archives/partial"] {
            let folder = apt.folder.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        }
        let source = format!("deb [signed-by={KEYRING}] {} {suite} main\n", mirror()?);
        let list = apt.folder.join("sources.list");
        fs::write(&list, source).with_context(|| format!("writing {}", list.display()))?;
        println!("reading the package list of {suite}");
        command::capture(apt.command("apt-get").arg("update"))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = command::command(program);
        let at = |option: &str, name: &str| format!("-o{option}={}", self.folder.join(name).display());
        command
            .arg(at("Dir::Etc::SourceList", "sources.list"))
            .arg("-oDir::Etc::SourceParts=/dev/null")
            .arg(at("Dir::State::Lists", "lists"))
            .arg(at("Dir::Cache", "cache"))
            .args(["-oAcquire::Languages=none", "-oAPT::Sandbox::User=root", "-q"]);
        command
    }

    fn names(&self, prefix: &str) -> Result<String> {
        command::capture(self.command("apt-cache").args(["pkgnames", prefix]))
    }

    fn newest_release(&self, series: &str) -> Result<Option<String>> {
        let prefix = if series == NEWEST { IMAGE.to_owned() } else { format!("{IMAGE}{series}.") };
        let names = self.names(&prefix)?;
        let flavour = format!("-cloud-{}", architecture());
        let releases = names.lines().filter_map(|name| name.strip_prefix(IMAGE));
        let releases = releases
            .filter(|name| name.starts_with(|c: char| c.is_ascii_digit()) && name.ends_with(&flavour));
        Ok(releases.max_by_key(|release| numbers(release)).map(str::to_owned))
    }

    /// Fetches the packages of a kernel into a folder of their own.
    fn download(&self, release: &str) -> Result<TempDir> {
        let mut packages = vec![format!("{IMAGE}{release}")];
        for split_off in ["linux-base-", "linux-binary-", "linux-modules-"] {
            let name = format!("{split_off}{release}");
            packages.extend(self.names(&name)?.lines().filter(|found| *found == name).map(str::to_owned));
        }
        let folder = tempfile::tempdir_in(&self.folder).context("making a folder for packages")?;
        command::capture(self.command("apt-get").arg("download").args(&packages).current_dir(&folder))?;
        Ok(folder)
    }
}

/// The numbers in a release, which order releases.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// The Debian mirror of this machine's own apt configuration.
fn mirror() -> Result<String> {
    let format = "$(REPO_URI) $(LABEL) $(COMPONENT)";
    let targets = command::capture(command::command("apt-get").args([
        "indextargets",
        "--format",
        format,
        "Created-By: Packages",
    ]))?;
    let main = targets.lines().find_map(|line| line.strip_suffix(" Debian main"));
    main.map(str::to_owned).context("finding a Debian mirror in apt's sources (after `apt-get update`)")
}

fn unpack(packages: &TempDir, cache: &Path, release: String) -> Result<Kernel> {
    fs::create_dir_all(cache).with_context(|| format!("making {}", cache.display()))?;
    // Unpacked beside its place and renamed, so that what is in the cache is whole.
    let unpacked = tempfile::Builder::new()
        .prefix(UNPACKING)
        .tempdir_in(cache)
        .context("making a folder to unpack into")?;
    let root = unpacked.path();
    // Packages of before and after the merge of /lib into /usr/lib: both find their place.
    fs::create_dir_all(root.join("usr/lib")).context("making usr/lib")?;
    symlink("usr/lib", root.join("lib")).context("linking lib to usr/lib")?;
    for package in fs::read_dir(packages).context("reading the folder of packages")? {
        let package = package.context("reading the folder of packages")?.path();
        command::capture(command::command("dpkg").arg("-x").args([&package, root]))?;
    }
    let depmod = command::find("depmod").context("finding depmod")?;
    command::capture(command::command(depmod).arg("-b").arg(root).arg(&release))?;
    let folder = cache.join(&release);
    fs::rename(unpacked.keep(), &folder).with_context(|| format!("naming {}", folder.display()))?;
    Ok(Kernel { release, folder })
}

fn is_unpacked(folder: &Path) -> bool {
    !command::name_of(folder).starts_with(UNPACKING) && folder.join("lib/modules").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newer_of_two_releases_is_found_by_number() {
        assert!(numbers("5.10.0-46-cloud-amd64") > numbers("5.10.0-9-cloud-amd64"));
        assert!(numbers("7.10.1+deb14-cloud-amd64") > numbers("7.2.13+deb14-cloud-amd64"));
    }
}
