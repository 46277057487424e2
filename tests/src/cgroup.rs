//! A cgroup of the test process's own, at which programs see its sockets and no others.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::{Context as _, Result};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// Users of the process's cgroup, and where the process was before, below the root.
static USERS: Mutex<(usize, PathBuf)> = Mutex::new((0, PathBuf::new()));

/// Name of the cgroup that the process itself is in, in its own.
const PROCESSES: &str = "processes";

/// The process's own cgroup2 folder. While there is one, the whole process is in it, and so are those it starts; sockets
/// stay in the cgroup in which they were made.
#[derive(Debug)]
pub struct OwnCgroup {
    root: File,
    folder: File,
}

impl OwnCgroup {
    /// Moves the process into its cgroup, if it is not there yet. Needs root.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enter() -> Result<Self> {
        let root = hierarchy()?;
        let mut users = users();
        if users.0 == 0 {
            users.1 = present()?;
        }
        let path = path_of(&root).join(&users.1).join(name());
        if users.0 == 0 {
            fs::create_dir_all(path.join(PROCESSES)).context("making a cgroup")?;
            join(&path.join(PROCESSES)).context("entering a cgroup")?;
        }
        let folder = File::open(&path).context("opening a cgroup")?;
        users.0 += 1;
        Ok(Self { root, folder })
    }

    /// A path under which every process finds it while this one lives.
    pub fn path(&self) -> PathBuf {
        path_of(&self.folder)
    }

    /// The cgroup in it that the process itself is in.
    pub fn processes(&self) -> PathBuf {
        self.path().join(PROCESSES)
    }

    /// Makes another, empty cgroup in it, which lasts as long.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn child(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        fs::create_dir(&path).context("making a cgroup")?;
        Ok(path)
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        let mut users = users();
        users.0 -= 1;
        if users.0 == 0 {
            // What cannot be removed is empty, and named after this process.
            let before = path_of(&self.root).join(&users.1);
            let _ = join(&before);
            let children = fs::read_dir(self.path()).into_iter().flatten().flatten();
            children.map(|child| child.path()).filter(|path| path.is_dir()).for_each(|path| {
                let _ = fs::remove_dir(path);
            });
            let _ = fs::remove_dir(before.join(name()));
        }
    }
}

/// The root of the hierarchy that this process sees, mounted where nobody else sees the mount.
fn hierarchy() -> Result<File> {
    const NONE: Option<&str> = None;
    let folder = tempfile::Builder::new().prefix("sluice-cgroup-").tempdir().context("making a folder")?;
    let mounted = || {
        unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace (needs root)")?;
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
            .context("keeping mounts private")?;
        mount(Some("none"), folder.path(), Some("cgroup2"), MsFlags::empty(), NONE)
            .context("mounting cgroup2")?;
        File::open(folder.path()).context("opening the root of cgroup2")
    };
    thread::scope(|scope| scope.spawn(mounted).join()).expect("a thread that mounts does not panic")
}

/// The process's cgroup2, below the root that it sees.
fn present() -> Result<PathBuf> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").context("reading the process's cgroups")?;
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/")).context("there is no cgroup2")?;
    Ok(path.into())
}

/// Moves this process, with all of its threads.
fn join(cgroup: &Path) -> io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), process::id().to_string())
}

fn name() -> String {
    format!("sluice-test-{}", process::id())
}

fn path_of(file: &File) -> PathBuf {
    format!("/proc/{}/fd/{}", process::id(), file.as_raw_fd()).into()
}

fn users() -> MutexGuard<'static, (usize, PathBuf)> {
    // Whole whatever panicked beside it.
    USERS.lock().unwrap_or_else(PoisonError::into_inner)
}
