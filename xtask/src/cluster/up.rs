//! Up, down, and what changes a cluster in between.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    certificates,
    cgroups::Hierarchies,
    images, kubectl, lock, machine, objects,
    pid1::ctr_import,
    place::{self, Place},
    plan::{Cni, Families, Machine, Options},
    prepare, read_options, underlay,
};
use crate::command;

/// Longest wait for something that a cluster does by itself, on a slow machine.
const PATIENCE: Duration = Duration::from_secs(180);
/// The reference network's file in a node's folder.
const CONFLIST: &str = "cni-net.d/10-reference.conflist";

/// Brings a cluster up, or repairs it.
///
/// # Errors
/// When it is up with other options, or something does not come up; the message holds the end of its log.
pub(super) fn run(place: &Place, options: &Options) -> Result<()> {
    let start = Instant::now();
    let _lock = lock(&place.lock())?;
    let known = read_options(place)?;
    if let Some(known) = known.filter(|known| known != options) {
        let name = place.name();
        bail!(
            "cluster {name} was brought up with other options ({known}); \
             take it down first: cargo xtask cluster down --name {name}"
        );
    }
    prepare()?;
    // First: from here on, `down` has something to take down.
    let text = serde_json::to_string_pretty(options).context("writing options")?;
    place::write(&place.options(), &(text + "\n"))?;
    certificates::ensure(place, options.nodes)?;
    certificates::write_kubeconfigs(place, options.nodes, options.families)?;
    let mut changed = underlay_of_all(place, options)?;
    for machine in Machine::all(options.nodes) {
        changed |= machine::ensure(place, machine, options.families)? || renew_images(place, machine)?;
    }
    changed |= settle(place, options)?;
    if changed {
        println!("cluster {} is up after {:.1} s", place.name(), start.elapsed().as_secs_f64());
    } else {
        println!("cluster {} is up; nothing to do", place.name());
    }
    Ok(())
}

/// Gives a node that is up the test images when they have changed. True when they had.
fn renew_images(place: &Place, machine: Machine) -> Result<bool> {
    let mark = place.machine(machine).join(images::IMPORTED);
    let archive = images::archive()?;
    let name = archive.display().to_string();
    // Without a mark, its process 1 is at it.
    if fs::read_to_string(&mark).is_ok_and(|known| known != name) {
        import(place, machine, &archive)?;
        return place::write(&mark, &name);
    }
    Ok(false)
}

/// The bridge; when it is made, what was connected to a former one is connected anew.
fn underlay_of_all(place: &Place, options: &Options) -> Result<bool> {
    if !underlay::ensure(place, options.families)? {
        return Ok(false);
    }
    for machine in Machine::all(options.nodes) {
        machine::stop(place, machine)?;
    }
    Ok(true)
}

/// Waits until machines are a cluster, and gives it what it is to have. True when it had not.
fn settle(place: &Place, options: &Options) -> Result<bool> {
    kubectl::until_done(place, PATIENCE, &["get", "--raw", "/readyz"])?;
    // The default objects of the API server itself come a moment later.
    let changed = kubectl::until(place, PATIENCE, Machine::ControlPlane, "kube-apiserver", || {
        kubectl::apply(place, &objects::base(options.families)?).map(Some)
    })?;
    let routes = connect(place, options)?;
    if options.cni == Cni::Reference {
        wait_ready(place, options)?;
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        let rollout = ["rollout", "status", "--namespace=kube-system", "deployment/coredns", &timeout];
        kubectl::run(place, &rollout).context("waiting for CoreDNS")?;
    }
    Ok(changed || routes)
}

/// Routes to every node's pods: for the API server, which proxies to pods; with the reference network for nodes, too.
fn connect(place: &Place, options: &Options) -> Result<bool> {
    let mut changed = false;
    for node in (1..=options.nodes).map(Machine::Node) {
        let name = node.to_string();
        let ranges = kubectl::until(place, PATIENCE, node, "kubelet", || {
            let nodes = kubectl::nodes(place)?;
            let node = nodes.into_iter().find(|node| node.name == name && node.ready.is_some());
            Ok(node.map(|node| node.pod_ranges).filter(|ranges| !ranges.is_empty()))
        })?;
        let is_reference = options.cni == Cni::Reference;
        for other in Machine::all(options.nodes).filter(|other| *other != node) {
            if other == Machine::ControlPlane || is_reference {
                add_routes(place, other, node, &ranges, options.families)?;
            }
        }
        if is_reference {
            let conflist = place.machine(node).join(CONFLIST);
            changed |= place::write(&conflist, &objects::reference_conflist(&ranges))?;
        }
    }
    Ok(changed)
}

fn add_routes(place: &Place, at: Machine, to: Machine, ranges: &[String], families: Families) -> Result<()> {
    let gateways = to.addresses(families);
    for range in ranges {
        let gateway = gateways.iter().find(|address| address.is_ipv6() == range.contains(':'));
        let gateway = gateway.with_context(|| format!("{to} has no address of the family of {range}"))?;
        underlay::route(&place.namespace(at), range, *gateway)?;
    }
    Ok(())
}

fn wait_ready(place: &Place, options: &Options) -> Result<()> {
    for node in (1..=options.nodes).map(Machine::Node) {
        kubectl::until(place, PATIENCE, node, "kubelet", || {
            let nodes = kubectl::nodes(place)?;
            let found = nodes.into_iter().find(|found| found.name == node.to_string());
            match found {
                Some(found) if found.ready.as_deref() == Some("True") => Ok(Some(())),
                Some(found) => bail!("{node} is not ready: {}", found.reason),
                None => bail!("{node} has not registered"),
            }
        })?;
    }
    Ok(())
}

/// Takes a cluster down, whatever is left of it.
///
/// # Errors
/// When something does not end or cannot be removed.
pub(super) fn down(place: &Place, wipe: bool) -> Result<()> {
    let _lock = lock(&place.lock())?;
    let mut changed = false;
    for machine in place.machines() {
        changed |= machine::stop(place, machine)?;
    }
    // Also when its folder is gone.
    changed |= Hierarchies::of_this_machine()?.clear(&place.cgroup(), None)?;
    for namespace in underlay::namespaces(place) {
        changed |= underlay::delete(&namespace)?;
    }
    place::remove(&place.options())?;
    for machine in place.machines() {
        forget(place, machine)?;
    }
    place::remove(&place.volatile())?;
    let _ = fs::remove_dir(place::VOLATILE); // the last one turns off the light
    if wipe {
        place::remove(&place.folder())?;
    }
    println!("cluster {} {}", place.name(), if changed { "is down" } else { "was not up; nothing to do" });
    Ok(())
}

/// Removes what a machine kept, but for its logs.
fn forget(place: &Place, machine: Machine) -> Result<()> {
    let folder = place.machine(machine);
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?.flatten() {
        if entry.path() != place.logs(machine) {
            place::remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Ends a machine at once.
///
/// # Errors
/// When the cluster has no such machine, or it does not end.
pub(super) fn stop(place: &Place, machine: Machine) -> Result<()> {
    let _lock = lock(&place.lock())?;
    options_with(place, machine)?;
    machine::stop(place, machine).map(drop)
}

/// Starts a machine that was ended.
///
/// # Errors
/// When the cluster has no such machine, or it does not start.
pub(super) fn start(place: &Place, machine: Machine) -> Result<()> {
    let _lock = lock(&place.lock())?;
    let options = options_with(place, machine)?;
    machine::ensure(place, machine, options.families)?;
    settle(place, &options).map(drop)
}

fn options_with(place: &Place, machine: Machine) -> Result<Options> {
    let options = read_options(place)?.with_context(|| format!("cluster {} is not up", place.name()))?;
    match machine {
        Machine::Node(number) if number > options.nodes => {
            bail!("cluster {} has {} nodes", place.name(), options.nodes)
        }
        Machine::ControlPlane | Machine::Node(_) => Ok(options),
    }
}

/// Imports an archive into every node, at the same time.
///
/// # Errors
/// When the cluster is not up, or a node refuses the archive.
pub(super) fn load(place: &Place, archive: &Path) -> Result<()> {
    let options = read_options(place)?.with_context(|| format!("cluster {} is not up", place.name()))?;
    let archive = archive.canonicalize().with_context(|| format!("finding {}", archive.display()))?;
    thread::scope(|scope| {
        let nodes = (1..=options.nodes).map(Machine::Node);
        let archive = &archive;
        let threads: Vec<_> = nodes.map(|node| scope.spawn(move || import(place, node, archive))).collect();
        threads.into_iter().try_for_each(|thread| {
            let imported = thread.join().expect("importing does not panic")?;
            print!("{imported}");
            Ok(())
        })
    })
}

/// Imports an archive into a node; what `ctr` says of it.
fn import(place: &Place, node: Machine, archive: &Path) -> Result<String> {
    let mut ctr = Command::new("ctr");
    ctr_import(&mut ctr, archive);
    let words = std::iter::once(ctr.get_program()).chain(ctr.get_args());
    let program = std::env::current_exe().context("finding this program")?;
    let mut inside = Command::new(program);
    inside.args(["cluster", "--name", place.name(), "node", &node.to_string(), "--"]).args(words);
    command::capture(&mut inside).with_context(|| format!("importing into {node}"))
}
