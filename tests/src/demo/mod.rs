//! What Sluice does, shown on two nodes with the objects of `manifests/examples`.
//!
//! Start at [`run`]. [`control_plane`] does what Kubernetes' controllers, scheduler and kubelets would; [`probes`] says
//! who may reach whom and tries it; [`report`] prints.
//!
//! **Invariant: nothing is left.** Everything lives in namespaces that end with this process (see [`crate::topology`]);
//! no signal needs to be handled for that.

#![expect(clippy::print_stdout, reason = "what is shown")]

mod control_plane;
mod probes;
mod report;

use std::{io, path::Path};

use anyhow::{Context as _, Result};
use control_plane::World;
use nix::sys::signal::Signal;
use report::Report;

use crate::topology::{AgentOptions, Cluster, OUTSIDE};

/// Shows it; whether everything was as expected.
///
/// # Errors
/// When the nodes cannot be brought up.
pub fn run(keep: bool) -> Result<bool> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/examples");
    let examples = examples.canonicalize().context("finding manifests/examples")?;
    println!("Bringing up two nodes with the objects of {}", examples.display());
    let cluster = Cluster::start(2)?;
    let world = World::bring_up(&cluster, &examples)?;
    let mut report = Report::default();
    report.pods(&world);

    report.heading("Who reaches whom");
    report.probes(&probes::all(&cluster, &world)?)?;
    report
        .heading("Which backend answers: 120 connections to the Service inference, TCP 80, from frontend-1");
    report.balance(&world, 120)?;
    report.heading("Path MTU: 2 MiB from reporter to a host behind a link with a smaller MTU");
    for to in OUTSIDE {
        report.path_mtu(&world, to)?;
    }

    let node = cluster.node(1);
    report.heading("sluice policy dump, on node-1");
    println!("{}", node.sluice("policy dump")?);
    report.heading("sluice drops, on node-1");
    println!("{}", node.sluice("drops")?);
    report.heading("sluice drops --counters, on node-1");
    report.counters(&node.sluice("drops --counters")?);
    for node in cluster.nodes() {
        report.policies_are_named(node, &world)?;
    }

    report.heading("The same with the agent of node-1 killed (SIGKILL)");
    node.stop_agent(Signal::SIGKILL)?;
    report.probes(&probes::on_node(&cluster, &world, 1)?)?;
    report.heading("Drops on node-1 by reason and policy, read with its agent dead");
    report.causes(node)?;
    report.policies_are_named(node, &world)?;
    node.spawn_agent(&AgentOptions::default())?;
    node.await_ready()?;

    let as_expected = report.finish();
    if keep {
        say_how_to_enter(&cluster, &world);
        io::stdin().read_line(&mut String::new()).context("waiting for Enter")?;
    }
    Ok(as_expected)
}

fn say_how_to_enter(cluster: &Cluster, world: &World<'_>) {
    println!("\nEverything stays up until Enter or Ctrl-C. In another shell, as root:\n");
    println!("  # objects that the agents watch; change them and see");
    println!("  cd {}\n", cluster.objects.folder().display());
    for node in cluster.nodes() {
        let (netns, mounts) = (node.netns.path(), node.mounts.namespace());
        println!("  # {}: `sluice` and the agent's log (/run/log) are there", node.name);
        println!("  nsenter --net={} --mount={} bash", netns.display(), mounts.display());
    }
    println!();
    for pod in &world.pods {
        println!("  nsenter --net={} bash   # {} on {}", pod.netns.path().display(), pod.name, pod.node.name);
    }
    if let Ok(sluice) = crate::topology::binary("sluice") {
        println!("\n  # on a node\n  {} endpoints", sluice.display());
    }
}
