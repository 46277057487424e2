//! The programs of a cluster: tools of two Go modules, built from the Go module proxy.
//!
//! `tests/cluster/kubernetes` and `tests/cluster/runtime` pin every version. A module is built when what its build
//! depends on has changed since, which a stamp beside the programs tells.

mod go;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use go::Go;
use sha2::{Digest as _, Sha256};

use super::place;
use crate::{command, workspace};

/// Reference CNI plugins, which every node has.
pub(super) const PLUGINS: [&str; 5] = ["bridge", "host-local", "loopback", "portmap", "ptp"];

/// Programs of one Go module.
struct Module {
    /// Its folder in `tests/cluster`.
    name: &'static str,
    /// The programs, as they are called here.
    programs: &'static [&'static str],
    /// What the linker is told of the module's version.
    linker_flags: fn(&str) -> Result<String>,
    /// Minutes that a first build takes on two cores.
    minutes: u32,
}

const KUBERNETES: Module = Module {
    name: "kubernetes",
    programs: &[
        "agnhost",
        "ginkgo",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-proxy",
        "kube-scheduler",
        "kubectl",
        "kubelet",
        "regression-issue-74839",
    ],
    linker_flags: kubernetes_version,
    minutes: 6,
};

const RUNTIME: Module = Module {
    name: "runtime",
    programs: &[
        "bridge",
        "cnitool",
        "containerd",
        "containerd-shim-runc-v2",
        "coredns",
        "ctr",
        "etcd",
        "host-local",
        "loopback",
        "portmap",
        "ptp",
    ],
    linker_flags: |_| Ok(String::new()),
    minutes: 3,
};

/// The upstream suite, and the package that it is compiled from.
const SUITE: (&str, &str) = ("e2e.test", "k8s.io/kubernetes/test/e2e");

/// Builds what a cluster runs, when it is missing or of other versions.
///
/// # Errors
/// When there is no Go and none can be had, or a build fails.
pub(super) fn ensure() -> Result<()> {
    RUNTIME.ensure()?;
    KUBERNETES.ensure()
}

/// Builds the upstream test suite of the same Kubernetes, and returns its path.
///
/// # Errors
/// As [`ensure`].
pub(super) fn e2e() -> Result<PathBuf> {
    let (program, package) = SUITE;
    let build = |go: &Go, flags: &str, out: &Path| {
        let mut test = go.command(&KUBERNETES.folder());
        test.args(["test", "-c", "-trimpath", "-ldflags", flags, "-o"]).arg(out.join(program)).arg(package);
        command::run(&mut test)
    };
    KUBERNETES.stamped(program, &[program], 2, build)?;
    Ok(place::components().join(program))
}

/// The version of a module that the runtime's or Kubernetes' module requires (`v1.36.3`).
///
/// # Errors
/// When it requires none of that name.
pub(super) fn version(module: &str) -> Result<String> {
    for tools in [KUBERNETES, RUNTIME] {
        let path = tools.folder().join("go.mod");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        if let Some(version) = required(&text, module) {
            return Ok(version.to_owned());
        }
    }
    bail!("no Go module of tests/cluster requires {module}")
}

/// `PATH` with the components before this machine's programs.
pub(super) fn path() -> String {
    let known = std::env::var("PATH").unwrap_or_default();
    format!("{}:{known}:/usr/local/sbin:/usr/sbin:/sbin", place::components().display())
}

impl Module {
    fn folder(&self) -> PathBuf {
        workspace::root().join("tests/cluster").join(self.name)
    }

    fn ensure(&self) -> Result<()> {
        self.stamped(self.name, self.programs, self.minutes, |go, flags, out| self.build(go, flags, out))
    }

    /// Runs a build when its stamp tells that its programs are not those that it would give.
    fn stamped(
        &self,
        name: &str,
        programs: &[&str],
        minutes: u32,
        build: impl FnOnce(&Go, &str, &Path) -> Result<()>,
    ) -> Result<()> {
        let out = place::components();
        let read = |file: &str| {
            let path = self.folder().join(file);
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let (module, sums) = (read("go.mod")?, read("go.sum")?);
        let flags = format!("-s -w {}", (self.linker_flags)(&module)?);
        let flags = flags.trim_end();
        let (stamp, path) = (stamp(&[&module, &sums, flags]), out.join(format!(".{name}.stamp")));
        let is_there = programs.iter().all(|program| out.join(program).exists());
        if is_there && fs::read_to_string(&path).is_ok_and(|known| known == stamp) {
            return Ok(());
        }
        place::make(&out)?;
        let go = Go::find()?;
        println!("building {name} with {go} (about {minutes} minutes the first time)");
        build(&go, flags, &out)?;
        place::write(&path, &stamp).map(drop)
    }

    fn build(&self, go: &Go, flags: &str, out: &Path) -> Result<()> {
        let mut list = go.command(&self.folder());
        // `tool` also names packages that programs are made of.
        list.args(["list", "-f", "{{if eq .Name \"main\"}}{{.ImportPath}}{{end}}", "tool"]);
        let packages = command::capture(&mut list)?;
        let mut build = go.command(&self.folder());
        // Built beside their place and renamed: they may be running.
        let folder = tempfile::tempdir_in(out).context("making a folder to build into")?;
        self.keep(out, folder.path())?;
        build
            .args(["build", "-trimpath", "-ldflags", flags, "-o"])
            .arg(folder.path())
            .args(packages.split_whitespace());
        command::run(&mut build)?;
        for entry in fs::read_dir(folder.path()).context("reading what was built")? {
            let built = entry.context("reading what was built")?.path();
            let to = out.join(called(&command::name_of(&built)));
            fs::rename(&built, &to).with_context(|| format!("naming {}", to.display()))?;
        }
        let missing: Vec<&str> =
            self.programs.iter().copied().filter(|program| !out.join(program).exists()).collect();
        if !missing.is_empty() {
            bail!("the module {} did not build {}", self.name, missing.join(", "));
        }
        Ok(())
    }

    /// Copies what was built before into the folder of the build: Go links a program again only when it would differ.
    fn keep(&self, out: &Path, folder: &Path) -> Result<()> {
        for program in self.programs {
            let known = out.join(program);
            let name = if *program == called(ETCD_SERVER) { ETCD_SERVER } else { program };
            if known.exists() {
                fs::copy(&known, folder.join(name)).with_context(|| format!("copying {program}"))?;
            }
        }
        Ok(())
    }
}

/// What Go calls etcd: by the last part of its package's name.
const ETCD_SERVER: &str = "server";

fn called(built: &str) -> &str {
    if built == ETCD_SERVER { "etcd" } else { built }
}

/// `-X` flags that tell Kubernetes its version; a module's version alone leaves `v0.0.0-master`.
fn kubernetes_version(go_mod: &str) -> Result<String> {
    let version = required(go_mod, "k8s.io/kubernetes").context("go.mod requires no k8s.io/kubernetes")?;
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let set = |name: &str, value: &str| format!("-X k8s.io/component-base/version.{name}={value}");
    Ok([set("gitVersion", version), set("gitMajor", major), set("gitMinor", minor)].join(" "))
}

/// The version that a `go.mod` requires of a module.
fn required<'a>(go_mod: &'a str, module: &str) -> Option<&'a str> {
    go_mod.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word == "require");
        (words.next() == Some(module)).then(|| words.next()).flatten().filter(|word| word.starts_with('v'))
    })
}

fn stamp(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts.iter().chain([&std::env::consts::ARCH]) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GO_MOD: &str = "module m\n\ngo 1.26.0\n\ntool k8s.io/kubernetes/cmd/kubelet\n\n\
        require k8s.io/kubernetes v1.36.3\n\nrequire (\n\tgithub.com/coredns/coredns v1.15.0\n)\n\n\
        replace k8s.io/api => k8s.io/api v0.36.3\n";

    #[test]
    fn a_version_is_the_one_that_is_required() {
        assert_eq!(required(GO_MOD, "k8s.io/kubernetes"), Some("v1.36.3"));
        assert_eq!(required(GO_MOD, "github.com/coredns/coredns"), Some("v1.15.0"));
        assert_eq!(required(GO_MOD, "k8s.io/api"), None);
        assert_eq!(required(GO_MOD, "k8s.io"), None);
    }

    #[test]
    fn kubernetes_is_told_its_version() {
        let flags = kubernetes_version(GO_MOD).unwrap();
        assert!(flags.contains("version.gitVersion=v1.36.3 "), "{flags}");
        assert!(flags.ends_with("version.gitMinor=36"), "{flags}");
    }

    #[test]
    fn another_version_or_another_flag_is_another_stamp() {
        let one = stamp(&["a", "b"]);
        assert_eq!(one, stamp(&["a", "b"]));
        assert_ne!(one, stamp(&["a", "c"]));
        assert_ne!(one, stamp(&["ab", ""]));
    }

    #[test]
    fn the_modules_pin_what_the_cluster_names() {
        for module in
            ["k8s.io/kubernetes", "github.com/coredns/coredns", "github.com/containerd/containerd/v2"]
        {
            assert!(version(module).is_ok_and(|version| version.starts_with('v')), "{module}");
        }
    }
}
