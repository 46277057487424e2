//! Packets that are too large for the way, or come in pieces.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::json;
use sluice_tests::topology::{
    Cluster, Node, OUTSIDE, WAN_MTU,
    traffic::{large_datagram, there_and_back},
};

use crate::{CLUSTER_IPS, HTTP, MIRROR, World};

/// Many packets of full size each way.
const LEN_BYTES: usize = 1 << 20;
/// A datagram of three fragments.
const DATAGRAM_BYTES: usize = 4000;

#[test]
fn path_mtu_is_learnt_through_a_node_port_by_way_of_either_node() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let world = World::new(&cluster)?;
    world.serve(&json!({}), &[world.members()[0]])?;
    let backend = &world.backends[0].netns;
    backend.sysctls(&[("net/ipv4/tcp_mtu_probing", "0")])?;
    for node in cluster.nodes() {
        for (family, ip) in node.addresses().into_iter().enumerate() {
            there_and_back(world.outside(), SocketAddr::new(ip, HTTP.node_port), LEN_BYTES)?;
            // The backend knows the client by its own address, or by the other node's.
            let client = if node.number == 1 { OUTSIDE[family] } else { ip };
            let route = backend.ip(&format!("route get {client}"))?;
            ensure!(route.contains(&format!("mtu {WAN_MTU}")), "by way of {ip}: {route}");
        }
    }
    Ok(())
}

#[test]
fn a_datagram_in_fragments_finds_its_way_there_and_back() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let world = World::new(&cluster)?;
    // As long as the nodes' and pods' own.
    cluster.router.ip_batch("link set wan0 mtu 1500\n")?;
    for member in world.members() {
        world.serve(&json!({}), &[member])?;
        for ip in cluster.nodes().iter().flat_map(Node::addresses) {
            large_datagram(world.outside(), SocketAddr::new(ip, MIRROR.node_port), DATAGRAM_BYTES)?;
        }
        for ip in CLUSTER_IPS {
            for from in world.inside() {
                large_datagram(from, SocketAddr::new(ip.parse()?, MIRROR.number), DATAGRAM_BYTES)?;
            }
        }
    }
    Ok(())
}

#[test]
fn path_mtu_is_learnt_by_who_answers_in_fragments() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let world = World::new(&cluster)?;
    world.serve(&json!({}), &[world.members()[0]])?;
    // The client's own frames are to fit the link: a longer one than its other end takes is lost without a word.
    world.outside().ip_batch(&format!(
        "route change default via 198.51.100.1 mtu {WAN_MTU}
         route change default via 2001:db8:100::1 mtu {WAN_MTU}\n"
    ))?;
    for ip in cluster.nodes().iter().flat_map(Node::addresses) {
        large_datagram(world.outside(), SocketAddr::new(ip, MIRROR.node_port), DATAGRAM_BYTES)?;
    }
    Ok(())
}
