//! What Node objects say about the way to pods: which ranges are this node's, and behind which address the others are.
//!
//! **Invariant.** Only `InternalIP` addresses are next hops: other nodes share a link with them, if with any.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use sluice_core::{
    cluster::Change,
    object::{Node, Object, ObjectKey},
};

use crate::{config::network_of, routes::Wanted};

/// Ranges and addresses of every node.
#[derive(Debug)]
pub struct Topology {
    own: String,
    /// Ranges given by configuration; they replace what this node's object says.
    fixed: Vec<IpNetwork>,
    nodes: BTreeMap<String, Place>,
}

#[derive(Debug, Default, Eq, PartialEq)]
struct Place {
    ranges: Vec<IpNetwork>,
    addresses: Vec<std::net::IpAddr>,
}

impl Topology {
    /// Knows no node yet; `own` is the name of this one, and `fixed` its ranges unless its object is to be asked.
    pub fn new(own: String, fixed: Vec<IpNetwork>) -> Self {
        Self { own, fixed, nodes: BTreeMap::new() }
    }

    /// The name of this node.
    pub fn node(&self) -> &str {
        &self.own
    }

    /// Takes in a change; whether it means anything here.
    pub fn observe(&mut self, change: &Change) -> bool {
        if let Change::Upsert(Object::Node(node)) = change {
            let place = Place::read(node);
            if self.nodes.get(&node.metadata.name) == Some(&place) {
                return false;
            }
            self.nodes.insert(node.metadata.name.clone(), place);
            return true;
        }
        if let Change::Delete(ObjectKey::Node(name)) = change {
            self.nodes.remove(name).is_some()
        } else {
            false
        }
    }

    /// Ranges of this node's pods.
    pub fn own_ranges(&self) -> &[IpNetwork] {
        if self.fixed.is_empty() {
            self.nodes.get(&self.own).map_or(&[], |place| &place.ranges)
        } else {
            &self.fixed
        }
    }

    /// The routes that follow.
    pub fn wanted(&self) -> Wanted {
        let others = self.nodes.iter().filter(|(name, _)| **name != self.own);
        let remote = others
            .flat_map(|(_, place)| place.ranges.iter().map(|range| (range, &place.addresses)))
            // A range of everything would be the default route.
            .filter(|(range, _)| range.prefix() > 0)
            .filter_map(|(range, addresses)| {
                let of_family = addresses.iter().find(|address| address.is_ipv4() == range.is_ipv4())?;
                Some((*range, *of_family))
            })
            .collect();
        Wanted { remote, own: self.own_ranges().iter().copied().collect() }
    }
}

impl Place {
    fn read(node: &Node) -> Self {
        let spec = &node.spec;
        let first = (spec.pod_cidrs.is_empty() && !spec.pod_cidr.is_empty()).then_some(&spec.pod_cidr);
        let ranges =
            spec.pod_cidrs.iter().chain(first).filter_map(|range| range.parse().ok()).map(network_of);
        let addresses = node
            .status
            .addresses
            .iter()
            .filter(|address| address.address_type == "InternalIP")
            .filter_map(|address| address.address.parse().ok());
        Self { ranges: ranges.collect(), addresses: addresses.collect() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, ranges: &[&str], addresses: &[(&str, &str)]) -> Change {
        let addresses: Vec<_> =
            addresses.iter().map(|(kind, at)| json!({"type": kind, "address": at})).collect();
        let value = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "spec": {"podCIDRs": ranges}, "status": {"addresses": addresses}});
        Change::Upsert(Object::from_value(value).expect("a node").expect("a known kind"))
    }

    #[test]
    fn other_nodes_ranges_lie_behind_their_internal_address_of_the_same_family() {
        let mut topology = Topology::new("n1".to_owned(), Vec::new());
        let addresses = [("ExternalIP", "192.0.2.9"), ("InternalIP", "10.0.0.2"), ("Hostname", "n2")];
        assert!(topology.observe(&node(
            "n1",
            &["10.244.1.0/24", "fd00:1::/64"],
            &[("InternalIP", "10.0.0.1")]
        )));
        assert!(topology.observe(&node("n2", &["10.244.2.0/24", "fd00:2::/64"], &addresses)));
        assert!(!topology.observe(&node("n2", &["10.244.2.0/24", "fd00:2::/64"], &addresses)), "as before");
        let wanted = topology.wanted();
        assert_eq!(wanted.own.len(), 2);
        let remote: Vec<_> = wanted.remote.iter().map(|(range, via)| format!("{range} {via}")).collect();
        assert_eq!(remote, ["10.244.2.0/24 10.0.0.2"], "without an IPv6 address there is no IPv6 route");
        assert!(topology.observe(&Change::Delete(ObjectKey::Node("n2".to_owned()))));
        assert!(topology.wanted().remote.is_empty());
    }

    #[test]
    fn configured_ranges_replace_the_objects() {
        let fixed = vec!["10.9.0.0/24".parse().expect("a range")];
        let mut topology = Topology::new("n1".to_owned(), fixed.clone());
        topology.observe(&node("n1", &["10.244.1.0/24"], &[]));
        assert_eq!(topology.own_ranges(), fixed);
    }
}
