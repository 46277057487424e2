//! The cgroups that machines run in: one in every hierarchy that this machine has.
//!
//! A machine's cgroup namespace is rooted in them, so that kubelet finds a tree of its own, and programs attached to a
//! node's cgroup2 root fire for that node only. They are also how everything that runs in a machine is found, when all
//! other records of it are lost.
//!
//! Three layouts are met: cgroup v1 hierarchies alone, v1 with a cgroup2 hierarchy beside them, and cgroup2 alone. In
//! the last one a group that has processes cannot hand controllers to its children (kernel documentation,
//! `admin-guide/cgroup-v2.rst`, "No Internal Process Constraint"); so our groups go below its root, which is exempt, and
//! a machine's processes into a child of its group.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::place;

/// Where hierarchies are mounted.
const MOUNTS: &str = "/sys/fs/cgroup";
/// Longest wait for killed processes to be gone.
const PATIENCE: Duration = Duration::from_secs(20);
/// The group of a machine's own processes on a machine that has cgroup2 alone.
const INIT: &str = "init";

/// All hierarchies of this machine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Hierarchies(Vec<Hierarchy>);

#[derive(Clone, Debug, Eq, PartialEq)]
struct Hierarchy {
    kind: Kind,
    /// Where it is mounted.
    mounted: PathBuf,
    /// The group that ours go below.
    base: PathBuf,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Kind {
    /// Version 1, with its options (`cpu,cpuacct`, `name=systemd`).
    V1(String),
    /// Version 2; `alone` when no hierarchy of version 1 has controllers.
    V2 { alone: bool },
}

impl Hierarchies {
    /// The hierarchies that this process sees.
    ///
    /// # Errors
    /// When `/proc` cannot be read, or no hierarchy is mounted.
    pub(super) fn of_this_machine() -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("reading {path}"));
        let found = Self::parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?);
        if found.0.is_empty() {
            bail!("no cgroup hierarchy is mounted below {MOUNTS}");
        }
        Ok(found)
    }

    /// Reads `/proc/self/mountinfo` and `/proc/self/cgroup`.
    fn parse(mountinfo: &str, own: &str) -> Self {
        let mounts: Vec<Mount> = mountinfo.lines().filter_map(Mount::parse).collect();
        let has_v1 = mounts.iter().any(|mount| mount.kind.is_some_and(|kind| !kind.starts_with("name=")));
        let mut found = Vec::<Hierarchy>::new();
        for mount in mounts {
            let kind = match mount.kind {
                Some(options) => Kind::V1(options.to_owned()),
                None => Kind::V2 { alone: !has_v1 },
            };
            let group = if kind == (Kind::V2 { alone: true }) { "/" } else { own_group(own, &kind) };
            // A group outside what is mounted cannot be reached: ours go to the top of what can.
            let below = Path::new(group).strip_prefix(mount.root).unwrap_or(Path::new(""));
            let base = without_ours(&mount.at.join(below));
            if !found.iter().any(|known| known.kind == kind) {
                found.push(Hierarchy { kind, mounted: mount.at.to_owned(), base });
            }
        }
        Self(found)
    }

    /// Moves this process into a machine's cgroups, and makes them.
    ///
    /// # Errors
    /// When one cannot be made or entered.
    pub(super) fn enter(&self, cluster: &str, machine: &str) -> Result<()> {
        for hierarchy in &self.0 {
            let folder = hierarchy.base.join(cluster).join(machine);
            hierarchy.make(&folder).with_context(|| format!("making cgroup {}", folder.display()))?;
            let init = folder.join(INIT);
            join(if init.exists() { &init } else { &folder })?;
        }
        Ok(())
    }

    /// Makes room for the groups of pods, once a cgroup namespace is rooted in the machine's cgroups.
    ///
    /// # Errors
    /// When a group cannot be made or entered, or a controller not be handed down.
    pub(super) fn make_room(&self, cluster: &str, machine: &str) -> Result<()> {
        for hierarchy in self.0.iter().filter(|hierarchy| hierarchy.is_v2_alone()) {
            let folder = hierarchy.base.join(cluster).join(machine);
            place::make(&folder.join(INIT))?;
            join(&folder.join(INIT))?;
            hand_down_controllers(&folder)?;
        }
        Ok(())
    }

    /// Mounts the hierarchies for a machine, whose cgroup namespace this process is in: in the same layout as here.
    ///
    /// # Errors
    /// When a mount fails.
    pub(super) fn mount(&self) -> Result<()> {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let mounted = |kind: &str, at: &Path, options: Option<&str>| {
            place::make(at)?;
            mount(Some(kind), at, Some(kind), flags, options)
                .with_context(|| format!("mounting {kind} at {}", at.display()))
        };
        if self.0.iter().any(Hierarchy::is_v2_alone) {
            return mounted("cgroup2", Path::new(MOUNTS), None);
        }
        mounted("tmpfs", Path::new(MOUNTS), Some("mode=755"))?;
        for hierarchy in &self.0 {
            match &hierarchy.kind {
                Kind::V1(options) => {
                    let at = Path::new(MOUNTS).join(options.strip_prefix("name=").unwrap_or(options));
                    let named = options.starts_with("name=").then(|| format!("none,{options}"));
                    mounted("cgroup", &at, Some(named.as_ref().unwrap_or(options)))?;
                }
                Kind::V2 { .. } => mounted("cgroup2", &Path::new(MOUNTS).join("unified"), None)?,
            }
        }
        Ok(())
    }

    /// Ends everything that runs in the cgroups of a cluster, or of one of its machines, and removes them. True when
    /// there was something to remove.
    ///
    /// # Errors
    /// When a process does not end, or a cgroup cannot be removed.
    pub(super) fn clear(&self, cluster: &str, machine: Option<&str>) -> Result<bool> {
        let folders: Vec<PathBuf> = self
            .0
            .iter()
            .flat_map(|hierarchy| named(&hierarchy.mounted, cluster))
            .map(|folder| machine.map_or(folder.clone(), |machine| folder.join(machine)))
            .filter(|folder| folder.exists())
            .collect();
        let deadline = Instant::now() + PATIENCE;
        // All at once: a process may be in one hierarchy's group only.
        while kill_all(&folders)? {
            if Instant::now() > deadline {
                bail!("processes in {} do not end", list(&folders));
            }
            thread::sleep(Duration::from_millis(20));
        }
        for folder in &folders {
            remove_tree(folder, deadline)?;
        }
        Ok(!folders.is_empty())
    }
}

impl Hierarchy {
    fn is_v2_alone(&self) -> bool {
        self.kind == Kind::V2 { alone: true }
    }

    /// Makes a group below `base`, with all controllers that it can have.
    fn make(&self, folder: &Path) -> Result<()> {
        let below = folder.strip_prefix(&self.base).context("a cgroup outside its base")?;
        let mut parent = self.base.clone();
        for name in below {
            let child = parent.join(name);
            if self.is_v2_alone() {
                hand_down_controllers(&parent)?;
            }
            place::make(&child)?;
            // A version 1 cpuset starts empty, and takes no process until it is not.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if matches!(self.kind, Kind::V1(_)) && child.join(file).exists() {
                    let inherited = fs::read_to_string(parent.join(file)).context("reading a cpuset")?;
                    fs::write(child.join(file), inherited).context("filling a cpuset")?;
                }
            }
            parent = child;
        }
        Ok(())
    }
}

/// Moves this process into a group.
fn join(folder: &Path) -> Result<()> {
    fs::write(folder.join("cgroup.procs"), "0")
        .with_context(|| format!("entering cgroup {}", folder.display()))
}

/// Lets the children of a cgroup2 group have all of its controllers.
fn hand_down_controllers(folder: &Path) -> Result<()> {
    let path = folder.join("cgroup.controllers");
    let controllers = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    for controller in controllers.split_whitespace() {
        fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"))
            .with_context(|| format!("handing {controller} down from {}", folder.display()))?;
    }
    Ok(())
}

/// A cgroup mount of `/proc/self/mountinfo` (proc(5)).
struct Mount<'a> {
    root: &'a str,
    at: &'a Path,
    /// Options of version 1; none for version 2.
    kind: Option<&'a str>,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let (mut left, mut right) = (left.split(' '), right.split(' '));
        let (root, at) = (left.nth(3)?, Path::new(left.next()?));
        let (kind, options) = (right.next()?, right.nth(1)?);
        if !at.starts_with(MOUNTS) {
            return None;
        }
        match kind {
            "cgroup2" => Some(Self { root, at, kind: None }),
            "cgroup" => {
                let known = |option: &&str| !["rw", "ro", "xattr", "none", "clone_children"].contains(option);
                let known = |option: &&str| known(option) && !option.starts_with("release_agent=");
                let start = options.split(',').find(known)?;
                let at_byte = start.as_ptr() as usize - options.as_ptr() as usize;
                Some(Self { root, at, kind: Some(&options[at_byte..]) })
            }
            _ => None,
        }
    }
}

/// This process's group in a hierarchy, from `/proc/self/cgroup` (cgroups(7)).
fn own_group<'a>(own: &'a str, kind: &Kind) -> &'a str {
    let of_line = |line: &'a str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, group) = (fields.next()?, fields.next()?);
        let is_it = match kind {
            Kind::V1(options) => controllers == options,
            Kind::V2 { .. } => controllers.is_empty(),
        };
        is_it.then_some(group)
    };
    own.lines().find_map(of_line).unwrap_or("/")
}

/// A command that runs inside a machine's group must not make groups below it.
fn without_ours(path: &Path) -> PathBuf {
    path.components()
        .take_while(|part| !part.as_os_str().to_string_lossy().starts_with("sluice-cluster-"))
        .collect()
}

/// Every group with a name, wherever it is in a hierarchy.
fn named(folder: &Path, name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders =
        entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path());
    folders.flat_map(|path| if path.ends_with(name) { vec![path] } else { named(&path, name) }).collect()
}

/// Kills what is in these groups and below. True when there was something.
fn kill_all(folders: &[PathBuf]) -> Result<bool> {
    let mut any = false;
    for folder in folders.iter().flat_map(|folder| with_children(folder)) {
        // Gone with its last process, when something else removes it.
        let Ok(processes) = fs::read_to_string(folder.join("cgroup.procs")) else { continue };
        for pid in processes.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0) {
            if Pid::from_raw(pid) == Pid::this() {
                bail!("this process runs inside the cluster that it is to remove");
            }
            any = true;
            match kill(Pid::from_raw(pid), Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error).with_context(|| format!("killing process {pid}")),
            }
        }
    }
    Ok(any)
}

/// A group and all below it, children first.
fn with_children(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut all: Vec<PathBuf> = folders.flat_map(|entry| with_children(&entry.path())).collect();
    all.push(folder.to_owned());
    all
}

/// Removes a group and all below it. The kernel counts ended processes for a moment longer.
fn remove_tree(folder: &Path, deadline: Instant) -> Result<()> {
    loop {
        let mut removed = Ok(());
        for group in with_children(folder) {
            removed = removed.and(fs::remove_dir(group)); // the others go even when one does not
        }
        match removed {
            Ok(()) => return Ok(()),
            Err(_) if !folder.exists() => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("removing cgroup {}", folder.display()));
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn list(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchy(kind: Kind, mounted: &str, base: &str) -> Hierarchy {
        Hierarchy { kind, mounted: mounted.into(), base: base.into() }
    }

    fn v1(options: &str) -> Kind {
        Kind::V1(options.to_owned())
    }

    #[test]
    fn hierarchies_of_version_1_with_a_cgroup2_beside_them() {
        let mountinfo = "\
24 1 0:21 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
25 24 0:22 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
26 24 0:23 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
27 24 0:24 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/agent,name=systemd
28 24 0:25 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
29 1 0:25 / /elsewhere rw,relatime - cgroup2 cgroup2 rw
";
        let own = "3:cpu,cpuacct:/\n2:memory:/a/b\n1:name=systemd:/user.slice\n0::/user.slice\n";
        let expected = vec![
            hierarchy(v1("cpu,cpuacct"), "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct"),
            hierarchy(v1("memory"), "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/a/b"),
            hierarchy(v1("name=systemd"), "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/systemd/user.slice"),
            hierarchy(
                Kind::V2 { alone: false },
                "/sys/fs/cgroup/unified",
                "/sys/fs/cgroup/unified/user.slice",
            ),
        ];
        assert_eq!(Hierarchies::parse(mountinfo, own), Hierarchies(expected));
    }

    #[test]
    fn cgroup2_alone_takes_our_groups_below_its_root() {
        let mountinfo = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let own = "0::/user.slice/user-0.slice/session-1.scope\n";
        let expected = hierarchy(Kind::V2 { alone: true }, MOUNTS, MOUNTS);
        assert_eq!(Hierarchies::parse(mountinfo, own), Hierarchies(vec![expected]));
    }

    #[test]
    fn a_group_outside_of_what_is_mounted_is_replaced_by_the_top() {
        let mountinfo = "26 24 0:23 /a /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n";
        let base = |own: &str| Hierarchies::parse(mountinfo, own).0[0].base.clone();
        assert_eq!(base("2:memory:/a/b\n"), Path::new("/sys/fs/cgroup/memory/b"));
        assert_eq!(base("2:memory:/\n"), Path::new("/sys/fs/cgroup/memory"));
    }

    #[test]
    fn groups_are_not_made_below_a_machines_own() {
        let mountinfo = "26 24 0:23 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n";
        let found = Hierarchies::parse(mountinfo, "2:memory:/a/sluice-cluster-x/n1/kubepods\n");
        assert_eq!(found.0[0].base, Path::new("/sys/fs/cgroup/memory/a"));
    }
}
