//! A bpf file system that nobody else sees, for tests.

use std::path::Path;

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use tempfile::TempDir;

/// A bpf file system of its own, mounted until it is dropped.
///
/// The thread that mounts it moves into a mount namespace of its own, so that nothing is left behind however the test
/// ends. Processes that this thread starts see it too. Needs root.
#[derive(Debug)]
pub struct PrivateBpffs {
    dir: TempDir,
}

impl PrivateBpffs {
    /// Moves the calling thread into a new mount namespace and mounts a bpf file system there.
    ///
    /// # Panics
    /// When the kernel refuses: the test cannot go on.
    #[must_use = "it is unmounted when it is dropped"]
    pub fn mount() -> Self {
        const NONE: Option<&str> = None;
        let dir =
            tempfile::Builder::new().prefix("sluice-bpffs-").tempdir().expect("making a folder to mount on");
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace of the thread's own (needs root)");
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
            .expect("keeping mounts to ourselves");
        mount(Some("bpffs"), dir.path(), Some("bpf"), MsFlags::empty(), NONE)
            .expect("mounting a bpf file system");
        Self { dir }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for PrivateBpffs {
    fn drop(&mut self) {
        // An error leaves only what ends with the thread's namespace.
        let _ = umount2(self.dir.path(), MntFlags::MNT_DETACH);
    }
}
