//! Where a cluster keeps its things.
//!
//! | Path | What |
//! | --- | --- |
//! | `target/cluster/bin`, `target/cluster/images` | components and test images, of all clusters |
//! | `target/cluster/NAME/pki`, `…/kubeconfig` | certificates; the administrator's access |
//! | `target/cluster/NAME/MACHINE/log/*.log` | logs; `init.log` is that of process 1 |
//! | `target/cluster/NAME/MACHINE/…` | what the machine keeps on its disk |
//! | `/run/sluice-cluster/NAME/MACHINE.{pid,sock}` | the machine's process 1 and the socket it listens on |
//! | `/run/netns/NAME-MACHINE`, `/run/netns/NAME-underlay` | network namespaces |
//! | `…/sluice-cluster-NAME/MACHINE` in every cgroup hierarchy | what runs in the machine |

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context as _, Result};

use super::plan::Machine;
use crate::workspace;

/// What is gone when this machine restarts, of all clusters.
pub(super) const VOLATILE: &str = "/run/sluice-cluster";

/// A cluster's name, and the paths that follow from it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    name: String,
}

impl FromStr for Place {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 20 || name.starts_with('-') || !name.chars().all(is_word) {
            return Err("a name is 1 to 20 of a-z, 0-9 and -");
        }
        if ["bin", "images"].contains(&name) {
            return Err("bin and images are folders of all clusters");
        }
        Ok(Self { name: name.to_owned() })
    }
}

impl Place {
    /// The cluster's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Everything that the cluster keeps.
    pub(super) fn folder(&self) -> PathBuf {
        workspace::cluster().join(&self.name)
    }

    /// What was asked for, while it is up.
    pub(super) fn options(&self) -> PathBuf {
        self.folder().join("options.json")
    }

    /// Locked while the cluster changes. Not in its folder, which `down --wipe` removes.
    pub(super) fn lock(&self) -> PathBuf {
        workspace::cluster().join(format!(".{}.lock", self.name))
    }

    /// Keys and certificates.
    pub(super) fn pki(&self) -> PathBuf {
        self.folder().join("pki")
    }

    /// The administrator's access; it works inside the control plane's network namespace.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.folder().join("kubeconfig")
    }

    /// Everything that a machine keeps.
    pub(super) fn machine(&self, machine: Machine) -> PathBuf {
        self.folder().join(machine.to_string())
    }

    /// A machine's logs.
    pub(super) fn logs(&self, machine: Machine) -> PathBuf {
        self.machine(machine).join("log")
    }

    /// What is gone when this machine restarts.
    pub(super) fn volatile(&self) -> PathBuf {
        Path::new(VOLATILE).join(&self.name)
    }

    /// Names a machine's process 1.
    pub(super) fn pid_file(&self, machine: Machine) -> PathBuf {
        self.volatile().join(format!("{machine}.pid"))
    }

    /// Where a machine's process 1 listens.
    pub(super) fn socket(&self, machine: Machine) -> PathBuf {
        self.volatile().join(format!("{machine}.sock"))
    }

    /// The name of a machine's network namespace.
    pub(super) fn namespace(&self, machine: Machine) -> String {
        format!("{}-{machine}", self.name)
    }

    /// The network namespace that connects the others.
    pub(super) fn underlay(&self) -> String {
        format!("{}-underlay", self.name)
    }

    /// The folder of the cluster's cgroups, in every hierarchy.
    pub(super) fn cgroup(&self) -> String {
        format!("sluice-cluster-{}", self.name)
    }

    /// The machines that have a folder, in use or left behind.
    pub(super) fn machines(&self) -> Vec<Machine> {
        let entries = fs::read_dir(self.folder()).into_iter().flatten().flatten();
        let mut machines: Vec<Machine> =
            entries.filter_map(|entry| Machine::called(entry.file_name().to_str()?)).collect();
        machines.sort_unstable();
        machines
    }
}

/// A network namespace's file.
pub(super) fn namespace_file(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// Where components are.
pub(super) fn components() -> PathBuf {
    workspace::cluster().join("bin")
}

/// Where image archives are.
pub(super) fn images() -> PathBuf {
    workspace::cluster().join("images")
}

/// Makes a folder and what leads to it.
///
/// # Errors
/// When it cannot be made.
pub(super) fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))
}

/// Writes a file that everybody may read, whole, when its contents differ. True when they did.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write(path: &Path, contents: &str) -> Result<bool> {
    write_with_mode(path, contents, 0o644)
}

/// Writes a file for its owner alone, as [`write`] does.
///
/// # Errors
/// As [`write`].
pub(super) fn write_secret(path: &Path, contents: &str) -> Result<bool> {
    write_with_mode(path, contents, 0o600)
}

fn write_with_mode(path: &Path, contents: &str, mode: u32) -> Result<bool> {
    if fs::read_to_string(path).is_ok_and(|known| known == contents) {
        return Ok(false);
    }
    let folder = path.parent().context("a file without a folder")?;
    make(folder)?;
    // In the folder itself: containerd takes no notice of a configuration that is moved in from elsewhere.
    let file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(folder)
        .context("making a temporary file")?;
    fs::write(file.path(), contents).with_context(|| format!("writing {}", path.display()))?;
    file.persist(path).with_context(|| format!("naming {}", path.display()))?;
    Ok(true)
}

/// Removes a file or a folder with all that is in it; that it is absent is fine.
///
/// # Errors
/// When it is there and cannot be removed.
pub(super) fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_word_that_fits_namespaces_files_and_cgroups() {
        for name in ["sluice", "a", "v6-only-2"] {
            assert!(name.parse::<Place>().is_ok(), "{name}");
        }
        for name in ["", "bin", "images", "-a", "A", "a/b", "..", "a name", "abcdefghijklmnopqrstu"] {
            assert!(name.parse::<Place>().is_err(), "{name}");
        }
    }

    #[test]
    fn a_file_is_written_only_when_it_differs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        assert!(write(&path, "1").unwrap());
        assert!(!write(&path, "1").unwrap());
        assert!(write(&path, "2").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "2");
        assert_eq!(fs::read_dir(folder.path().join("a")).unwrap().count(), 1);
        remove(&path).unwrap();
        remove(&path).unwrap();
    }
}
