//! Where the node's cgroups are: the root of the cgroup2 hierarchy that holds every process of the node.
//!
//! A container's own mounts do not show it: its cgroup namespace makes its own cgroup look like the root. So it is looked
//! for through process 1 of the agent's process namespace, which is the node's own when the pod has `hostPID: true`. In a
//! node that is itself a container (kind) process 1 is that container's, and its root holds the node and nothing else.

use std::{
    cmp::Reverse,
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::{ffi::OsStringExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};

/// Which cgroup holds the node's processes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum CgroupRoot {
    /// The root of the hierarchy that process 1 sees.
    #[default]
    OfInit,
    /// This folder, or `unified` in it, as hybrid hosts have it.
    At(PathBuf),
}

/// Why the node's cgroup cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// Process 1 does not show its mounts.
    #[error("reading the mounts of process 1")]
    Mounts(#[source] io::Error),
    /// No cgroup2 is mounted (cgroup v1 has no hooks for sockets' addresses).
    #[error("process 1 has mounted no cgroup2")]
    NotMounted,
    /// The folder cannot be opened.
    #[error("opening {path}", path = path.display())]
    Open {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The folder is something else.
    #[error("{path} is no folder of a cgroup2 file system", path = path.display())]
    NotCgroup2 {
        /// The folder.
        path: PathBuf,
    },
}

/// A cgroup, open.
#[derive(Debug)]
pub(super) struct Cgroup {
    pub(super) path: PathBuf,
    pub(super) folder: File,
    /// Number of the cgroup as the kernel tells it of links: the folder's inode (`cgroup_id`, `linux/cgroup.h`).
    pub(super) id: u64,
}

/// Opens the node's cgroup.
pub(super) fn open(root: &CgroupRoot) -> Result<Cgroup, CgroupError> {
    match root {
        CgroupRoot::At(path) => match open_at(path) {
            Err(error @ CgroupError::NotCgroup2 { .. }) => open_at(&path.join("unified")).map_err(|_| error),
            opened => opened,
        },
        CgroupRoot::OfInit => {
            let mounts = fs::read("/proc/1/mountinfo").map_err(CgroupError::Mounts)?;
            let mount = best_mount(&mounts).ok_or(CgroupError::NotMounted)?;
            let inside = mount.strip_prefix("/").unwrap_or(&mount);
            open_at(&Path::new("/proc/1/root").join(inside))
        }
    }
}

fn open_at(path: &Path) -> Result<Cgroup, CgroupError> {
    let failed = |source| CgroupError::Open { path: path.to_owned(), source };
    let folder = File::open(path).map_err(failed)?;
    if fstatfs(&folder).map_err(|error| failed(error.into()))?.filesystem_type() != CGROUP2_SUPER_MAGIC {
        return Err(CgroupError::NotCgroup2 { path: path.to_owned() });
    }
    let id = folder.metadata().map_err(failed)?.ino();
    Ok(Cgroup { path: path.to_owned(), folder, id })
}

/// Where the cgroup2 hierarchy is mounted from nearest to its root (proc(5), "mountinfo").
///
/// A mount may show a part only. The part's path is told as seen from the reader's own cgroup namespace: the root is `/`,
/// or `/../..` from further down.
fn best_mount(mountinfo: &[u8]) -> Option<PathBuf> {
    let mounts = mountinfo.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let (root, mount_point) = (fields.nth(3)?, fields.next()?);
        let is_cgroup2 = fields.skip_while(|field| *field != b"-").nth(1)? == b"cgroup2";
        is_cgroup2.then(|| (depth(root), unescaped(mount_point)))
    });
    mounts.min_by_key(|(depth, _)| *depth).map(|(_, path)| path)
}

/// Folders below the reader's root, then how far above it.
fn depth(root: &[u8]) -> (usize, Reverse<usize>) {
    let steps = || root.split(|byte| *byte == b'/').filter(|step| !step.is_empty());
    let up = steps().filter(|step| *step == b"..").count();
    (steps().count() - up, Reverse(up))
}

/// Blanks, tabs, line feeds and backslashes stand as `\` and three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let code = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found_at_its_root() {
        let cases: [(&str, Option<&str>); 6] = [
            // A host with cgroup2 only.
            (
                "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate",
                Some("/sys/fs/cgroup"),
            ),
            // A hybrid host.
            (
                "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                 41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
                Some("/sys/fs/cgroup/unified"),
            ),
            // Read from a pod with a cgroup namespace of its own; somebody has mounted a part too.
            (
                "50 24 0:30 /../../system.slice /run/part rw - cgroup2 none rw\n35 24 0:30 /../../.. /sys/fs/cgroup rw - cgroup2 c rw",
                Some("/sys/fs/cgroup"),
            ),
            (
                "50 24 0:30 /system.slice /run/part rw - cgroup2 none rw\n35 24 0:30 / /cg\\040two rw - cgroup2 c rw",
                Some("/cg two"),
            ),
            ("32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu", None),
            ("", None),
        ];
        for (mountinfo, want) in cases {
            assert_eq!(best_mount(mountinfo.as_bytes()), want.map(PathBuf::from), "{mountinfo}");
        }
    }

    #[test]
    fn another_file_system_is_no_cgroup() {
        let error = open(&CgroupRoot::At("/proc".into())).expect_err("a proc file system");
        assert_eq!(error.to_string(), "/proc is no folder of a cgroup2 file system");
    }
}
