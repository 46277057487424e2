//! The images of a cluster, made here: there is no registry to pull from.
//!
//! Test pods run upstream's `agnhost` under upstream's names, in a root file system of what the upstream specs run in
//! it: busybox, and Debian's programs where busybox's will not do (OpenBSD's `nc` for `-v -t`; GNU `wget`, because
//! Debian's static busybox crashes on `-T`; `dig`, `curl`, `ip`, `ss`; whatever starts others, `sh` first, because
//! busybox's starts its own `nc` and `wget` whatever `PATH` says).
//!
//! The archive's name holds a hash of what is in it, so that a node imports it once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use super::{certificates, components, place};
use crate::{
    command,
    oci::{self, Arch, Contents, Entry, Image},
};

/// What containerd keeps a pod's namespaces with.
pub(super) const PAUSE: &str = "registry.k8s.io/pause:3.10.2";

/// The file in a node's folder that names the archive whose images the node has.
pub(super) const IMPORTED: &str = "imported";

/// The tools image under the names that the network specs of the pinned Kubernetes ask for (its
/// `test/utils/image/manifest.go`): name, entry point, arguments.
const TOOLS: &[(&str, &[&str], &[&str])] = &[
    (PAUSE, &["/agnhost"], &["pause"]),
    // The conformance tests of ClusterNetworkPolicy ask for this one.
    ("registry.k8s.io/e2e-test-images/agnhost:2.45", &["/agnhost"], &["pause"]),
    ("registry.k8s.io/e2e-test-images/agnhost:2.55", &["/agnhost"], &["pause"]),
    ("registry.k8s.io/e2e-test-images/agnhost:2.63.0", &["/agnhost"], &["pause"]),
    ("registry.k8s.io/e2e-test-images/busybox:1.37.0-1", &[], &["sh"]),
    ("registry.k8s.io/e2e-test-images/glibc-dns-testing:2.0.0", &[], &["sh"]),
    ("registry.k8s.io/e2e-test-images/nginx:1.15-4", &["/agnhost"], &["netexec", "--http-port=80"]),
    ("registry.k8s.io/e2e-test-images/nginx:1.27-0", &["/agnhost"], &["netexec", "--http-port=80"]),
    ("registry.k8s.io/e2e-test-images/regression-issue-74839:1.4", &["/regression-issue-74839"], &[]),
];

/// Debian's programs in the tools image, and what they are called here where that differs.
const PROGRAMS: &[(&str, &str)] = &[
    ("bash", "bash"),
    ("conntrack", "conntrack"),
    ("curl", "curl"),
    ("dig", "dig"),
    ("env", "env"),
    ("getent", "getent"),
    ("ip", "ip"),
    ("nc", "nc.openbsd"),
    ("nohup", "nohup"),
    ("nslookup", "nslookup"),
    ("ping", "ping"),
    ("setsid", "setsid"),
    ("sh", "dash"),
    ("ss", "ss"),
    ("tcpdump", "tcpdump"),
    ("timeout", "timeout"),
    ("wget", "wget"),
    ("xargs", "xargs"),
];

/// Files that programs expect.
const FILES: &[(&str, &str)] = &[
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/nsswitch.conf", "hosts: files dns\n"),
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"),
    // As busybox's: a server that does not answer is not asked twenty times.
    ("etc/wgetrc", "tries = 1\n"),
];

/// CoreDNS under upstream's name.
///
/// # Errors
/// When the runtime's module does not pin it.
pub(super) fn coredns() -> Result<String> {
    Ok(format!("registry.k8s.io/coredns/coredns:{}", components::version("github.com/coredns/coredns")?))
}

/// Makes the archive when it is missing, and removes those of other contents. Its path.
///
/// # Errors
/// When a program is missing, or the archive cannot be written.
pub(super) fn ensure() -> Result<PathBuf> {
    let images = images()?;
    let archive = place::images().join(format!("tests-{}.tar", fingerprint(&images)?));
    if !archive.exists() {
        println!("assembling test images");
        oci::write_archive(&archive, &images)?;
    }
    for entry in fs::read_dir(place::images()).context("reading the folder of images")?.flatten() {
        if entry.path() != archive {
            place::remove(&entry.path())?;
        }
    }
    Ok(archive)
}

/// The archive that [`ensure`] has made.
///
/// # Errors
/// When there is none.
pub(super) fn archive() -> Result<PathBuf> {
    let folder = place::images();
    let mut entries =
        fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?.flatten();
    let archive = entries.next().with_context(|| format!("{} is empty", folder.display()))?;
    Ok(archive.path())
}

fn images() -> Result<Vec<Image>> {
    let files = tools()?;
    let image = |name: &str, entrypoint: &[&str], cmd: &[&str], files: Vec<Entry>| Image {
        names: vec![name.to_owned()],
        architecture: Arch::HOST,
        entrypoint: entrypoint.iter().map(|word| (*word).to_owned()).collect(),
        cmd: cmd.iter().map(|word| (*word).to_owned()).collect(),
        env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
        user: String::new(),
        labels: BTreeMap::new(),
        files,
    };
    let mut images: Vec<Image> =
        TOOLS.iter().map(|(name, entrypoint, cmd)| image(name, entrypoint, cmd, files.clone())).collect();
    let coredns_files = vec![file("coredns", &place::components().join("coredns"))];
    images.push(image(&coredns()?, &["/coredns"], &[], coredns_files));
    Ok(images)
}

/// The root file system of test pods.
fn tools() -> Result<Vec<Entry>> {
    let components = place::components();
    let [certificate, key] = certificates::localhost()?;
    let mut files = vec![
        file("agnhost", &components.join("agnhost")),
        // A name server of its own, for specs that need another than the cluster's.
        file("coredns", &components.join("coredns")),
        file("localhost.crt", &certificate),
        file("localhost.key", &key),
        file("regression-issue-74839", &components.join("regression-issue-74839")),
        link("agnhost-2", "agnhost"),
        directory("tmp", 0o1777),
        directory("uploads", 0o777),
    ];
    files.extend(FILES.iter().map(|(path, contents)| Entry {
        path: path.into(),
        mode: 0o644,
        contents: Contents::Bytes(contents.as_bytes().to_vec()),
    }));
    let mut libraries = BTreeSet::new();
    for (name, program) in PROGRAMS {
        let path = command::find(program).with_context(|| format!("finding {program}"))?;
        libraries.extend(shared_libraries(&path)?);
        files.push(file(&format!("bin/{name}"), &path));
    }
    files.extend(libraries.iter().map(|library| file(&library.display().to_string(), library)));
    files.extend(busybox()?);
    Ok(files)
}

/// Everything that busybox can be, but for what is there already.
fn busybox() -> Result<Vec<Entry>> {
    let path = command::find("busybox").context("finding busybox")?;
    let list = command::capture(command::command(&path).arg("--list"))?;
    let mut files = vec![file("bin/busybox", &path)];
    let names =
        list.lines().filter(|name| *name != "busybox" && !PROGRAMS.iter().any(|(known, _)| known == name));
    files.extend(names.map(|name| link(&format!("bin/{name}"), "busybox")));
    Ok(files)
}

/// The shared libraries of a program, and its loader, as `ldd` finds them.
fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let list = command::capture(command::command("ldd").arg(program))?;
    Ok(libraries_in(&list))
}

/// Paths in the output of `ldd`: `name => /path (address)`, or `/path (address)`.
fn libraries_in(list: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let path = line.split_once("=> ").map_or(line, |(_, path)| path).split_whitespace().next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    list.lines().filter_map(path).collect()
}

fn file(path: &str, from: &Path) -> Entry {
    Entry { path: path.into(), mode: 0o755, contents: Contents::File(from.to_owned()) }
}

fn link(path: &str, to: &str) -> Entry {
    Entry { path: path.into(), mode: 0o777, contents: Contents::Symlink(to.into()) }
}

fn directory(path: &str, mode: u32) -> Entry {
    Entry { path: path.into(), mode, contents: Contents::Directory }
}

/// Tells archives apart: by names, by sizes and times of files, which change whenever contents do.
fn fingerprint(images: &[Image]) -> Result<String> {
    let mut hash = Sha256::new();
    for image in images {
        hash.update(format!("{:?} {:?} {:?}\n", image.names, image.entrypoint, image.cmd));
    }
    let mut seen = BTreeSet::new();
    for entry in images.iter().flat_map(|image| &image.files) {
        if !seen.insert((&entry.path, &entry.contents)) {
            continue;
        }
        hash.update(format!("{} {:o} ", entry.path.display(), entry.mode));
        match &entry.contents {
            Contents::File(path) => {
                let about = fs::metadata(path).with_context(|| format!("looking at {}", path.display()))?;
                let modified = about.modified().context("reading a file's time")?;
                hash.update(format!("{} {} {modified:?}\n", path.display(), about.len()));
            }
            Contents::Bytes(bytes) => hash.update(bytes),
            Contents::Symlink(target) => hash.update(format!("-> {}\n", target.display())),
            Contents::Directory => hash.update("/\n"),
        }
    }
    Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_what_ldd_has_found() {
        let list = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tlibgone.so => not found\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(libraries_in(list), expected);
        assert!(libraries_in("\tstatically linked\n").is_empty());
    }
}
