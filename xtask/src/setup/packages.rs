//! The Debian packages that building and testing need.

use std::{fs, path::Path};

use anyhow::{Result, bail};

use crate::command;

/// Package → a file that shows it is installed: a program's name, or a path.
const PACKAGES: &[(&str, &str)] = &[
    ("bpftool", "bpftool"),
    ("build-essential", "cc"),
    ("busybox-static", "busybox"),
    ("cpio", "cpio"),
    ("debian-archive-keyring", "/usr/share/keyrings/debian-archive-keyring.gpg"),
    ("iproute2", "tc"),
    ("iputils-ping", "ping"),
    ("kmod", "depmod"),
    ("nftables", "nft"),
    ("qemu-system-x86", "qemu-system-x86_64"),
    ("strace", "strace"),
    ("tcpdump", "tcpdump"),
    ("xz-utils", "xz"),
];

/// What only `cargo xtask cluster` needs: to build components, to run nodes, and to put into test pods.
const CLUSTER_PACKAGES: &[(&str, &str)] = &[
    ("bind9-dnsutils", "dig"),
    ("busybox-static", "busybox"),
    ("ca-certificates", "/etc/ssl/certs/ca-certificates.crt"),
    ("conntrack", "conntrack"),
    ("curl", "curl"),
    ("iproute2", "ip"),
    ("iptables", "iptables"),
    ("iputils-ping", "ping"),
    ("netcat-openbsd", "nc.openbsd"),
    ("nftables", "nft"),
    ("runc", "runc"),
    ("tcpdump", "tcpdump"),
    ("unzip", "unzip"),
    ("wget", "wget"),
];

/// Installs the packages that are missing.
///
/// # Errors
/// When some are missing and this is not root on a Debian; the message is the command that installs them.
pub(crate) fn install() -> Result<()> {
    install_missing(PACKAGES)
}

/// Installs the packages of [`CLUSTER_PACKAGES`] that are missing.
///
/// # Errors
/// As [`install`].
pub(crate) fn install_for_cluster() -> Result<()> {
    install_missing(CLUSTER_PACKAGES)
}

/// Installs those of `packages` (package → a file that shows it is installed) that are missing.
///
/// # Errors
/// As [`install`].
pub(crate) fn install_missing(packages: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> =
        packages.iter().filter(|(_, file)| !is_there(file)).map(|(package, _)| *package).collect();
    if missing.is_empty() { Ok(()) } else { apt_install(&missing) }
}

/// Installs `packages`, removing none.
///
/// # Errors
/// As [`install`].
pub(super) fn apt_install(packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    if !command::is_root() || command::find("apt-get").is_none() {
        bail!(
            "missing packages: {names}; install them with: sudo apt-get install --no-install-recommends {names}"
        );
    }
    println!("installing {names}");
    let apt = || {
        let mut apt = command::command("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").args([
            "-q",
            "-oDPkg::Lock::Timeout=120",
            "-oDpkg::Use-Pty=0",
        ]);
        apt
    };
    // A third-party source that does not answer is no reason to stop: the installation itself will tell.
    if let Err(error) = command::capture(apt().arg("update")) {
        println!("{error:#}");
    }
    command::capture(apt().args(["install", "-y", "--no-install-recommends", "--no-remove"]).args(packages))
        .map(drop)
}

fn is_there(file: &str) -> bool {
    match file {
        "busybox" => command::find(file).is_some_and(|path| is_static(&path)),
        path if path.starts_with('/') => Path::new(path).exists(),
        program => command::find(program).is_some(),
    }
}

/// The one of Debian's busyboxes that runs without a root file system names no dynamic loader.
fn is_static(program: &Path) -> bool {
    const LOADER: &[u8] = b"/ld-linux";
    fs::read(program).is_ok_and(|bytes| !bytes.windows(LOADER.len()).any(|window| window == LOADER))
}
