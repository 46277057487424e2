//! Which backends clients inside get: of their node, of their zone, or all.

use std::io::ErrorKind;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sluice_tests::topology::{
    Cluster,
    objects::{Hint, SliceMember},
    traffic::{SILENCE, Want},
};

use crate::{CLUSTER_IPS, DNS, HTTP, World, expect, expect_who};

#[test]
fn internal_traffic_policy_local_leads_to_this_nodes_backends_only() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let world = World::new(&cluster)?;
    let local = json!({"internalTrafficPolicy": "Local"});
    world.serve(&local, &world.members())?;
    for (pod, node) in world.clients.iter().zip(cluster.nodes()) {
        let name = format!("web-{}", node.number);
        for port in [HTTP, DNS] {
            for probe in port.at_all(CLUSTER_IPS) {
                expect_who(&pod.netns, probe, &[&name])?;
                expect_who(&node.netns, probe, &[&name])?;
            }
            // Of cluster addresses alone.
            for probe in world.node_ports(port) {
                expect_who(&pod.netns, probe, &["web-1", "web-2"])?;
            }
        }
    }
    world.serve(&local, &[world.members()[0]])?;
    for port in [HTTP, DNS] {
        let probes = port.at_all(CLUSTER_IPS);
        expect(&[&world.clients[0].netns, &cluster.node(1).netns], &probes, Want::Answer)?;
        expect(&[&world.clients[1].netns], &probes, Want::Silence)?;
        for probe in probes {
            let error =
                probe.send(&cluster.node(2).netns, SILENCE).err().context("a node's process is told")?;
            let error = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            ensure!(error == Some(ErrorKind::PermissionDenied), "{probe:?}: {error:?}");
        }
    }
    Ok(())
}

#[test]
fn hints_lead_clients_to_their_zone_or_node_when_every_backend_has_one() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let world = World::new(&cluster)?;
    for (node, zone) in cluster.nodes().iter().zip(["a", "b"]) {
        let mut object: Value = node.object();
        object["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": zone});
        cluster.objects.put(&node.name, &object)?;
    }
    let [first, second] = world.members();
    let expect_all = |members: [SliceMember<'_>; 2], names: [&[&str]; 2]| {
        world.serve(&json!({"trafficDistribution": "PreferClose"}), &members)?;
        for ((pod, node), names) in world.clients.iter().zip(cluster.nodes()).zip(names) {
            for probe in [HTTP.at_all(CLUSTER_IPS), DNS.at_all(CLUSTER_IPS)].concat() {
                expect_who(&pod.netns, probe, names)?;
                expect_who(&node.netns, probe, names)?;
            }
        }
        Ok::<_, anyhow::Error>(())
    };
    let with = |hints: [Hint<'static>; 2]| {
        [SliceMember { hint: hints[0], ..first }, SliceMember { hint: hints[1], ..second }]
    };
    let both = &["web-1", "web-2"][..];
    expect_all(with([Hint::Zone("a"), Hint::Zone("b")]), [&["web-1"], &["web-2"]])?;
    expect_all(with([Hint::Zone("b"), Hint::Zone("a")]), [&["web-2"], &["web-1"]])?;
    expect_all(with([Hint::Zone("a"), Hint::Zone("a")]), [both, both])?;
    expect_all(with([Hint::Zone("a"), Hint::None]), [both, both])?;
    expect_all(with([Hint::Node("node-2"), Hint::Node("node-1")]), [&["web-2"], &["web-1"]])
}
