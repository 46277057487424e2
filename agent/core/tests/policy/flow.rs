//! A whole flow: both its ends, as far as they are of the node that judges.

use std::net::IpAddr;

use serde_json::Value;
use sluice_abi::Direction;

use super::oracle::{Corners, Oracle, addresses, hit};

/// A packet that opens a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    /// IANA protocol number.
    pub(crate) protocol: u8,
    /// Destination port; 0 where the protocol has none.
    pub(crate) port: u16,
}

/// Whether those pods of a node that are ends of a flow allow it.
pub(crate) fn allows(objects: &[Value], node: &str, packet: &Packet, corners: &mut Corners) -> bool {
    let oracle = Oracle { objects };
    let Packet { src, dst, protocol, port } = *packet;
    let is_pod = |addr| oracle.pod_at(addr).is_some();
    let is_local = |addr| oracle.pod_at(addr).is_some_and(|pod| pod["spec"]["nodeName"] == node);
    if is_pod(src) && oracle.pod_at(src) == oracle.pod_at(dst) {
        return hit(corners, "a pod reaches itself", true);
    }
    let nodes = oracle.of_kind("Node").filter(|object| object["metadata"]["name"] == node);
    let own: Vec<IpAddr> =
        nodes.flat_map(|node| addresses(&node["status"]["addresses"], "address")).collect();
    // "traffic to and from the node where a Pod is running is always allowed".
    if (is_local(src) || is_local(dst)) && (own.contains(&src) || own.contains(&dst)) {
        return hit(corners, "a pod and its own node", true);
    }
    let mut side = |addr, direction, peer| {
        !is_local(addr) || oracle.judged(addr, direction, peer, (protocol, port), corners) == Some(true)
    };
    side(src, Direction::Egress, dst) && side(dst, Direction::Ingress, src)
}
