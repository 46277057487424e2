//! What a node sees instead of this machine's files.
//!
//! A node has this machine's root file system, with: its own `/proc`, `/sys`, cgroups, bpffs, `/run` and `/tmp`; its own
//! folders where kubelet, containerd and networks keep things; and an overlay on `/etc`, `/opt` and `/var`, so that
//! whatever else is written there stays in the node's folder.

use std::{
    fs,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{
    cluster::{
        cgroups::Hierarchies,
        place::{self, Place},
        plan::{Families, Machine},
    },
    workspace,
};

/// Folders that a node may write to without reaching this machine's.
const OVERLAYS: &[&str] = &["/etc", "/opt", "/var"];
/// In the node's folder → in the node.
const BINDS: &[(&str, &str)] = &[
    ("cni-bin", "/opt/cni/bin"),
    ("cni-net.d", "/etc/cni/net.d"),
    ("containerd", "/var/lib/containerd"),
    ("kubelet", "/var/lib/kubelet"),
    ("kubernetes", "/etc/kubernetes"),
    ("log", "/var/log"),
    ("state/cni", "/var/lib/cni"),
    ("state/sluice", "/var/lib/sluice"),
];
/// Settings of the whole machine that kubelet sets when they differ: it is shown that they do not.
const SHOWN_SYSCTLS: &[(&str, &str)] = &[
    ("kernel/keys/root_maxbytes", "25000000"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
];

/// Makes a mount namespace that sends nothing back, with `/proc` of the own process namespace.
///
/// # Errors
/// When a mount fails.
pub(super) fn private() -> Result<()> {
    propagate(MsFlags::MS_PRIVATE)?;
    mounted("proc", "/proc", None)
}

/// Makes a node's view.
///
/// # Errors
/// When a mount fails, or a file cannot be written.
pub(super) fn node(
    place: &Place,
    node: Machine,
    families: Families,
    hierarchies: &Hierarchies,
) -> Result<()> {
    // Pods may ask that mounts are passed on, both ways.
    propagate(MsFlags::MS_SHARED)?;
    // What is only covered is still listed: whoever looks for cgroup2 or bpffs among mounts must find one of each.
    umount2("/sys", MntFlags::MNT_DETACH).context("unmounting this machine's /sys")?;
    mounted("sysfs", "/sys", None)?;
    hierarchies.mount()?;
    mounted("bpf", "/sys/fs/bpf", None)?;
    for (kind, at) in [("debugfs", "/sys/kernel/debug"), ("tracefs", "/sys/kernel/tracing")] {
        let _ = mounted(kind, at, None); // not in every kernel; nothing of Kubernetes needs it
    }
    let workspace = fs::File::open(workspace::root()).context("opening the work tree")?;
    mounted("tmpfs", "/run", Some("mode=755"))?;
    for folder in ["/run/lock", "/run/netns"] {
        place::make(Path::new(folder))?;
    }
    mounted("tmpfs", "/tmp", Some("mode=1777"))?;
    let folder = place.machine(node);
    for path in OVERLAYS {
        overlay(Path::new(path), &folder)?;
    }
    show_again(&workspace)?;
    for (from, to) in BINDS {
        let from = folder.join(from);
        place::make(&from)?;
        place::make(Path::new(to))?;
        bind(&from, Path::new(to))?;
    }
    identity(node, families, &folder)
}

/// An overlay at its own lower layer; in memory when the work tree, and with it the node's folder, is in that layer.
fn overlay(path: &Path, folder: &Path) -> Result<()> {
    let store = if folder.starts_with(path) { Path::new("/run/overlay") } else { &folder.join("overlay") };
    let (upper, work) =
        (store.join("upper").join(path.strip_prefix("/").unwrap_or(path)), store.join("work"));
    let work = work.join(path.strip_prefix("/").unwrap_or(path));
    place::make(&upper)?;
    place::make(&work)?;
    let (lower, upper, work) = (path.display(), upper.display(), work.display());
    mounted(
        "overlay",
        &path.display().to_string(),
        Some(&format!("lowerdir={lower},upperdir={upper},workdir={work}")),
    )
}

/// Puts the work tree back where it was: a mount above may have hidden it.
fn show_again(workspace: &fs::File) -> Result<()> {
    let path = workspace::root();
    if !["/run", "/tmp"].iter().chain(OVERLAYS).any(|hidden| path.starts_with(hidden)) {
        return Ok(());
    }
    place::make(path)?;
    bind(Path::new(&format!("/proc/self/fd/{}", workspace.as_raw_fd())), path)
}

/// Who the node is: its name, its number, and that it has just started.
fn identity(node: Machine, families: Families, folder: &Path) -> Result<()> {
    let name = node.to_string();
    fs::write("/proc/sys/kernel/hostname", &name).context("naming the node")?;
    let mut hosts = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
    hosts.extend(node.addresses(families).iter().map(|address| format!("{address} {name}\n")));
    let machine_id = folder.join("machine-id");
    if !machine_id.exists() {
        place::write(&machine_id, &random_uuid()?.replace('-', ""))?;
    }
    let machine_id = fs::read_to_string(&machine_id).context("reading the node's machine-id")?;
    for (path, contents) in [
        ("/etc/hostname", name.as_str()),
        ("/etc/hosts", &hosts),
        ("/etc/machine-id", &machine_id),
        // Pods of dnsPolicy Default get this: nobody to ask.
        ("/etc/resolv.conf", "# no name server\n"),
    ] {
        place::remove(Path::new(path))?; // it may be a link to a file that is not here
        place::write(Path::new(path), contents)?;
    }
    let boot_id = random_uuid()?;
    let shown = SHOWN_SYSCTLS.iter().copied().chain([("kernel/random/boot_id", boot_id.trim_end())]);
    shown.into_iter().try_for_each(|(setting, value)| show_sysctl(setting, value))
}

fn random_uuid() -> Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/uuid").context("reading a random number")
}

fn show_sysctl(setting: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(setting);
    if !path.exists() || fs::read_to_string(&path).is_ok_and(|set| set.trim_end() == value) {
        return Ok(());
    }
    let shown = PathBuf::from("/run/sysctl").join(setting.replace('/', "."));
    place::write(&shown, &format!("{value}\n"))?;
    bind(&shown, &path)
}

fn mounted(kind: &str, at: &str, options: Option<&str>) -> Result<()> {
    let flags = match kind {
        "proc" | "sysfs" => MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        _ => MsFlags::empty(),
    };
    mount(Some(kind), at, Some(kind), flags, options).with_context(|| format!("mounting {kind} at {at}"))
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("mounting {} at {}", from.display(), to.display()))
}

fn propagate(how: MsFlags) -> Result<()> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | how, None::<&str>)
        .context("changing the propagation of mounts")
}
