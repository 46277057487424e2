//! Nodes: their addresses and pod ranges.

use std::{collections::BTreeSet, net::IpAddr};

use ipnetwork::IpNetwork;
use sluice_abi::{Addr, Prefix};

use super::reject::RejectReason;
use crate::object;

/// A node.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Node {
    /// Its internal and external addresses.
    pub addrs: BTreeSet<Addr>,
    /// Its internal addresses, in the order of its object.
    pub internal_addrs: Vec<Addr>,
    /// Addresses of its pods.
    pub pod_ranges: BTreeSet<Prefix>,
    /// The zone it is in; empty when unknown.
    pub zone: String,
}

/// Label of a node's zone (well-known labels, `topology.kubernetes.io/zone`).
const ZONE: &str = "topology.kubernetes.io/zone";

impl Node {
    pub(super) fn read(node: &object::Node) -> (Self, Option<RejectReason>) {
        let mut reason = None;
        let addrs = node.status.addresses.iter().filter(|address| address.address_type.ends_with("IP"));
        let addrs = keep(addrs.map(|address| address_of(&address.address)), &mut reason);
        let first = node.spec.pod_cidrs.is_empty() && !node.spec.pod_cidr.is_empty();
        let ranges = node.spec.pod_cidrs.iter().chain(first.then_some(&node.spec.pod_cidr));
        let pod_ranges = keep(ranges.map(|range| prefix_of(range)), &mut reason);
        let internal = node.status.addresses.iter().filter(|address| address.address_type == "InternalIP");
        let internal_addrs = internal.filter_map(|address| address_of(&address.address).ok()).collect();
        let zone = node.metadata.labels.get(ZONE).cloned().unwrap_or_default();
        (Self { addrs, internal_addrs, pod_ranges, zone }, reason)
    }
}

/// Collects what could be read and remembers the first thing that could not.
pub(super) fn keep<T, C: FromIterator<T>>(
    read: impl Iterator<Item = Result<T, RejectReason>>,
    reason: &mut Option<RejectReason>,
) -> C {
    read.filter_map(|item| match item {
        Ok(item) => Some(item),
        Err(why) => {
            reason.get_or_insert(why);
            None
        }
    })
    .collect()
}

pub(super) fn address_of(text: &str) -> Result<Addr, RejectReason> {
    let ip: IpAddr = text.parse().map_err(|_| RejectReason::Address { text: text.to_owned() })?;
    let addr = Addr::from(ip);
    // A mapped IPv6 address would be taken for IPv4.
    if addr.is_v4() == ip.is_ipv4() { Ok(addr) } else { Err(RejectReason::Address { text: text.to_owned() }) }
}

/// Reads an address range; bits behind its length are cleared, as the API server allows them.
pub(super) fn prefix_of(text: &str) -> Result<Prefix, RejectReason> {
    let wrong = || RejectReason::Cidr { text: text.to_owned() };
    if !text.contains('/') {
        return Err(wrong());
    }
    let network: IpNetwork = text.parse().map_err(|_| wrong())?;
    let addr = Addr::from(network.ip());
    match network {
        IpNetwork::V4(v4) => Ok(Prefix::new(addr, 96 + v4.prefix())),
        IpNetwork::V6(v6) if v6.prefix() >= 96 && addr.is_v4() => Err(wrong()),
        IpNetwork::V6(v6) => Ok(Prefix::new(addr, v6.prefix())),
    }
}
