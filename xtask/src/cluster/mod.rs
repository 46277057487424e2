//! `cargo xtask cluster`: a real Kubernetes on one machine, without Docker and without a registry.
//!
//! Every node is a kubelet and a containerd in namespaces and cgroups of their own; the control plane is one more such
//! machine, which is no node. [`plan`] says what was asked for and which names and addresses follow, [`place`] where
//! things are; [`components`] and [`images`] make what runs; [`underlay`], [`cgroups`] and [`machine`] make machines,
//! whose process 1 is [`pid1`]; [`up`] puts it all together, [`status`] shows it.
//!
//! **Invariant: all of it goes away.** Whatever a cluster makes outside of `target/cluster` is in its cgroups, its
//! network namespaces or `/run/sluice-cluster`, and is found there by name when every other record is lost.
//!
//! **Invariant: nothing of this machine changes.** Its network namespace, its settings and its folders stay as they are.

mod access;
mod certificates;
mod cgroups;
mod components;
mod configuration;
mod images;
mod kubectl;
mod machine;
mod objects;
mod pid1;
mod place;
mod plan;
mod status;
mod underlay;
mod up;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::ExitCode,
};

pub(crate) use access::{Access, remove};
use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use pid1::Request;
use place::Place;
use plan::Machine;
pub(crate) use plan::Options;

use crate::{command, setup, workspace};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The cluster's name; several may be up at once.
    #[arg(long, global = true, default_value = "sluice")]
    name: Place,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Bring the cluster up, or repair it. Does nothing when it is up.
    Up(Options),
    /// Take it down: everything but components, images and certificates.
    Down {
        /// Remove its certificates and logs, too.
        #[arg(long)]
        wipe: bool,
    },
    /// Show its machines, their components and its nodes.
    Status {
        /// How to show it.
        #[arg(short, long, value_enum, default_value_t)]
        output: status::Output,
    },
    /// Run kubectl.
    Kubectl {
        /// Its arguments.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Run a command in all namespaces and cgroups of a node.
    Node {
        /// The node (1 or n1), or control-plane.
        node: Machine,
        /// The command and its arguments; bash when there is none.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Run a command of this machine in the control plane's network namespace, with KUBECONFIG and PATH set.
    Run {
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Import an image archive into every node.
    Load {
        /// The archive (`docker save`, an OCI layout in a tar).
        archive: PathBuf,
    },
    /// End a component and start it again.
    Restart {
        /// A node (1 or n1), or control-plane.
        machine: Machine,
        /// kubelet, containerd, kube-proxy; etcd, kube-apiserver, …, where `kube-` may be left out.
        component: String,
    },
    /// Take a component down and keep it down; without one, the whole machine at once, as a power cut would.
    Stop {
        /// A node (1 or n1), or control-plane.
        machine: Machine,
        /// As in `restart`.
        component: Option<String>,
    },
    /// Start what was stopped.
    Start {
        /// A node (1 or n1), or control-plane.
        machine: Machine,
        /// As in `restart`.
        component: Option<String>,
    },
    /// Print the path of the administrator's kubeconfig. It works where `cluster run` runs.
    Path,
    /// Build the components and images that `up` needs, and nothing else.
    Build {
        /// The upstream test suite, too.
        #[arg(long)]
        e2e: bool,
    },
    /// Start a machine's process 1.
    #[command(hide = true)]
    Launch { machine: Machine },
    /// Be a machine's process 1.
    #[command(hide = true)]
    Pid1 { machine: Machine },
}

/// Does what was asked; the exit code is that of the command that was run.
///
/// # Errors
/// When this is not root, or what was asked cannot be done.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let place = &args.name;
    if let Command::Path = args.command {
        println!("{}", place.kubeconfig().display());
        return Ok(ExitCode::SUCCESS);
    }
    if !command::is_root() {
        bail!("a cluster is made of namespaces and cgroups: run it as root");
    }
    let done = match &args.command {
        Command::Up(options) => up::run(place, options),
        Command::Down { wipe } => up::down(place, *wipe),
        Command::Status { output } => status::run(place, *output),
        Command::Load { archive } => up::load(place, archive),
        Command::Restart { machine, component } => ask(place, *machine, component, Request::Restart),
        Command::Stop { machine, component: Some(component) } => {
            ask(place, *machine, component, Request::Stop)
        }
        Command::Start { machine, component: Some(component) } => {
            ask(place, *machine, component, Request::Start)
        }
        Command::Stop { machine, component: None } => up::stop(place, *machine),
        Command::Start { machine, component: None } => up::start(place, *machine),
        Command::Build { e2e } => build(*e2e),
        Command::Launch { machine } => pid1::launch(place, *machine),
        Command::Pid1 { machine } => pid1::run(place, *machine),
        Command::Kubectl { arguments } => {
            let mut kubectl =
                machine::beside(place, Machine::ControlPlane, &place::components().join("kubectl"))?;
            return machine::become_program(kubectl.args(arguments));
        }
        Command::Run { command } => {
            let mut beside = machine::beside(place, Machine::ControlPlane, command[0].as_ref())?;
            return machine::become_program(beside.args(&command[1..]));
        }
        Command::Node { node, command } => {
            let shell = ["bash".to_owned()];
            return machine::run_inside(place, *node, if command.is_empty() { &shell } else { command });
        }
        Command::Path => Ok(()),
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn build(with_suite: bool) -> Result<()> {
    prepare()?;
    if with_suite {
        components::e2e()?;
    }
    println!("{}", place::components().display());
    Ok(())
}

/// Installs and builds what a cluster needs.
fn prepare() -> Result<()> {
    setup::cluster_packages()?;
    let _lock = lock(&workspace::cluster().join(".components.lock"))?;
    components::ensure()?;
    images::ensure().map(drop)
}

fn ask(place: &Place, machine: Machine, component: &str, request: fn(String) -> Request) -> Result<()> {
    machine::ask(place, machine, &request(full_name(machine, component))).map(drop)
}

/// A component's name, also when its `kube-` was left out.
fn full_name(machine: Machine, component: &str) -> String {
    let is_short = match machine {
        Machine::ControlPlane => ["apiserver", "controller-manager", "scheduler"].contains(&component),
        Machine::Node(_) => component == "proxy",
    };
    if is_short { format!("kube-{component}") } else { component.to_owned() }
}

/// What a cluster that is up, or was, was asked for.
///
/// # Errors
/// When its file is there and cannot be read.
fn read_options(place: &Place) -> Result<Option<Options>> {
    let path = place.options();
    match fs::read_to_string(&path) {
        Ok(text) => {
            let options =
                serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
            Ok(Some(options))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// Held so that two commands do not change the same at once; waits until the other one is done.
fn lock(path: &Path) -> Result<Flock<File>> {
    place::make(&workspace::cluster())?;
    let file = File::options().create(true).append(true).open(path);
    let file = file.with_context(|| format!("opening {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("waiting for {}", path.display()))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Line::try_parse_from(std::iter::once("cluster").chain(line.split(' '))).map(|line| line.args)
    }

    fn options(line: &str) -> Options {
        let Command::Up(options) = parse(line).unwrap().command else { panic!("{line} brings nothing up") };
        options
    }

    #[test]
    fn options_are_shown_as_they_can_be_typed() {
        for line in [
            "up",
            "up --nodes 3 --families ipv6 --kube-proxy nftables --cni reference",
            "up --taint a=b:NoSchedule --taint c=:NoExecute --apiserver-arg --v=4",
        ] {
            let asked = options(line);
            assert_eq!(options(&format!("up {asked}")), asked, "{line}");
        }
    }

    #[test]
    fn options_are_kept_as_they_were_asked() {
        let asked = options("up --families dual --taint a=b:NoSchedule --apiserver-arg=--v=4");
        let text = serde_json::to_string(&asked).unwrap();
        assert_eq!(serde_json::from_str::<Options>(&text).unwrap(), asked);
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_is_done() {
        for line in
            ["up --nodes 0", "up --nodes 101", "up --taint a", "restart n0 kubelet", "down --name bin"]
        {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_component_is_found_without_its_prefix() {
        assert_eq!(full_name(Machine::ControlPlane, "apiserver"), "kube-apiserver");
        assert_eq!(full_name(Machine::ControlPlane, "etcd"), "etcd");
        assert_eq!(full_name(Machine::Node(1), "proxy"), "kube-proxy");
        assert_eq!(full_name(Machine::Node(1), "kubelet"), "kubelet");
    }
}
