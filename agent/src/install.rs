//! Putting binaries where the node looks for them: the init step of the DaemonSet.
//!
//! Start at [`install`]. Source is the folder of the agent's own binary, so an image installs what it was built with.
//!
//! **Invariant: whole or not at all.** A binary is written beside its target, synced, and renamed over it: the runtime
//! never starts half a plugin, and one that runs meanwhile keeps its own file (no `ETXTBSY`). An equal one is left alone.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::mount::{MsFlags, mount};
use tracing::info;

use crate::{config::Installation, conflist::PLUGIN};

/// The CLI's binary.
const CLI: &str = "sluice";

const MODE: u32 = 0o755;

/// Why something is not in place.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The agent does not know where it is.
    #[error("finding the folder of the agent's binary")]
    Itself(#[source] io::Error),
    /// A binary; what was there before still is.
    #[error("installing {target}", target = target.display())]
    Binary {
        /// Where to.
        target: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A BPF file system.
    #[error("mounting a BPF file system at {path}", path = path.display())]
    Mount {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Puts everything in place.
///
/// # Errors
/// The first [`InstallError`]; what is in place by then stays.
pub fn install(installation: &Installation) -> Result<(), InstallError> {
    if let Some(path) = &installation.bpffs {
        mount_bpffs(path)?;
    }
    let from = match &installation.from {
        Some(from) => from.clone(),
        None => own_folder().map_err(InstallError::Itself)?,
    };
    let cli = installation.bin_dir.as_ref().map(|folder| (CLI, folder));
    for (name, folder) in [(PLUGIN, &installation.cni_bin_dir)].into_iter().chain(cli) {
        let target = folder.join(name);
        match put(&from.join(name), &target) {
            Ok(true) => info!(path = %target.display(), "installed"),
            Ok(false) => info!(path = %target.display(), "installed already"),
            Err(source) => return Err(InstallError::Binary { target, source }),
        }
    }
    Ok(())
}

fn own_folder() -> io::Result<PathBuf> {
    let own = env::current_exe()?;
    own.parent().map(Path::to_owned).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Puts the file `from` at `target` unless it is there already; whether it was written.
fn put(from: &Path, target: &Path) -> io::Result<bool> {
    let mut source = File::open(from)?;
    if is_same(&mut source, target)? {
        return Ok(false);
    }
    let folder = target.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    // The runtime looks plugins up by name: it never sees the temporary file.
    let temporary = target.with_extension("sluice-new");
    let written = (|| {
        // A file of an earlier try may be of any mode, and may run.
        remove_if_there(&temporary)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&temporary)?;
        io::copy(&mut File::open(from)?, &mut file)?;
        // Whatever the umask says.
        file.set_permissions(fs::Permissions::from_mode(MODE))?;
        file.sync_all()?;
        fs::rename(&temporary, target)
    })();
    if written.is_err() {
        // Best effort: the error to report is the first one.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    File::open(folder)?.sync_all()?;
    Ok(true)
}

fn is_same(source: &mut File, target: &Path) -> io::Result<bool> {
    let mut found = match File::open(target) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let (of_source, of_found) = (source.metadata()?, found.metadata()?);
    if of_source.len() != of_found.len() || of_found.permissions().mode() & 0o7777 != MODE {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let count = source.read(&mut left)?;
        if count == 0 {
            return Ok(true);
        }
        match found.read_exact(&mut right[..count]) {
            Ok(()) if left[..count] == right[..count] => {}
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
            _ => return Ok(false),
        }
    }
}

fn mount_bpffs(path: &Path) -> Result<(), InstallError> {
    if sluice_maps::pins::check_bpffs(path).is_ok() {
        return Ok(());
    }
    let failed = |source: io::Error| InstallError::Mount { path: path.to_owned(), source };
    fs::create_dir_all(path).map_err(failed)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), path, Some("bpf"), flags, Some("mode=0700")).map_err(|errno| failed(errno.into()))?;
    info!(path = %path.display(), "BPF file system mounted");
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::MetadataExt,
        process::{Command, Stdio},
    };

    use super::*;

    /// A folder with both binaries, and one to install into.
    fn folders() -> (tempfile::TempDir, Installation) {
        let folder = tempfile::tempdir().expect("a folder");
        let from = folder.path().join("from");
        fs::create_dir(&from).expect("a folder");
        fs::write(from.join(PLUGIN), "plugin 1").expect("a file");
        fs::write(from.join(CLI), "cli 1").expect("a file");
        let installation = Installation {
            from: Some(from),
            cni_bin_dir: folder.path().join("opt/cni/bin"),
            bin_dir: Some(folder.path().join("bin")),
            bpffs: None,
        };
        (folder, installation)
    }

    #[test]
    fn binaries_are_replaced_whole_and_only_when_they_change() {
        let (_folder, installation) = folders();
        let plugin = installation.cni_bin_dir.join(PLUGIN);
        let inode = || fs::metadata(&plugin).expect("installed").ino();
        install(&installation).expect("installed");
        assert_eq!(fs::read_to_string(&plugin).expect("the plugin"), "plugin 1");
        assert_eq!(fs::metadata(&plugin).expect("installed").mode() & 0o7777, 0o755);
        assert!(installation.bin_dir.as_ref().expect("a folder").join(CLI).exists());
        let first = inode();
        install(&installation).expect("installed again");
        assert_eq!(inode(), first, "an equal one is left alone");
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o600)).expect("another mode");
        install(&installation).expect("installed with its mode");
        assert_ne!(inode(), first);
        fs::write(installation.from.as_ref().expect("a folder").join(PLUGIN), "plugin 2").expect("a file");
        install(&installation).expect("replaced");
        assert_eq!(fs::read_to_string(&plugin).expect("the plugin"), "plugin 2");
        assert_eq!(
            fs::read_dir(&installation.cni_bin_dir).expect("the folder").count(),
            1,
            "nothing else stays"
        );
    }

    #[test]
    fn a_plugin_that_runs_is_replaced_under_it() {
        let (_folder, mut installation) = folders();
        installation.bin_dir = None;
        let from = installation.from.clone().expect("a folder").join(PLUGIN);
        fs::copy("/bin/sleep", &from).expect("a binary");
        install(&installation).expect("installed");
        let plugin = installation.cni_bin_dir.join(PLUGIN);
        let mut running =
            Command::new(&plugin).arg("600").stdin(Stdio::null()).spawn().expect("the installed binary");
        fs::write(&from, "another").expect("a file");
        install(&installation).expect("replaced while it runs");
        assert_eq!(fs::read_to_string(&plugin).expect("the new one"), "another");
        running.kill().expect("it still ran");
        running.wait().expect("its end");
    }

    #[test]
    fn what_cannot_be_installed_leaves_the_old_one() {
        let (_folder, installation) = folders();
        install(&installation).expect("installed");
        fs::remove_file(installation.from.as_ref().expect("a folder").join(PLUGIN)).expect("removed");
        let error = install(&installation).expect_err("nothing to install");
        assert!(error.to_string().ends_with("opt/cni/bin/sluice-cni"), "{error}");
        assert_eq!(
            fs::read_to_string(installation.cni_bin_dir.join(PLUGIN)).expect("the old one"),
            "plugin 1"
        );
    }
}
