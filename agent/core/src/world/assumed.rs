//! Addresses for pods whose objects have none yet: manifests that were never applied.
//!
//! A pod of a node with ranges gets an address of each family from them, as its lease would be; any other gets one of
//! [`Assumed::DEFAULT_RANGE`]. A hostNetwork pod gets its node's addresses, else one that no policy has a reason to name.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnetwork::IpNetwork;
use sluice_abi::Addr;

use super::is_finished;
use crate::object::{NamespacedName, Node, Object, ObjectKey, PodIp};

/// The addresses that were given; one memory for two worlds gives equal pods equal addresses.
#[derive(Clone, Debug)]
pub struct Assumed {
    range: IpNetwork,
    given: BTreeMap<NamespacedName, Vec<IpAddr>>,
    nodes: BTreeMap<String, IpAddr>,
    used: BTreeSet<IpAddr>,
    /// Where to look next in each range.
    next: BTreeMap<IpNetwork, u128>,
}

impl Default for Assumed {
    fn default() -> Self {
        Self::within(Self::DEFAULT_RANGE.parse().expect("a range"))
    }
}

impl Assumed {
    /// Where pods of nodes without ranges get their addresses: the range that most guides to Kubernetes use.
    pub const DEFAULT_RANGE: &'static str = "10.244.0.0/16";
    /// Where nodes without addresses get theirs: for benchmarks (RFC 2544), so in no cluster.
    const NODE_RANGE: &'static str = "198.18.0.0/15";

    /// Gives addresses of this range.
    pub fn within(range: IpNetwork) -> Self {
        Self {
            range,
            given: BTreeMap::new(),
            nodes: BTreeMap::new(),
            used: BTreeSet::new(),
            next: BTreeMap::new(),
        }
    }

    /// Gives addresses to the pods that have none and have not finished; says which.
    pub(super) fn fill(&mut self, objects: &mut BTreeMap<ObjectKey, Object>) -> BTreeSet<NamespacedName> {
        let mut nodes = BTreeMap::new();
        for object in objects.values() {
            if let Object::Node(node) = object {
                nodes.insert(node.metadata.name.clone(), node.clone());
            } else if let Object::Pod(pod) = object {
                let ips = pod.status.pod_ips.iter().map(|ip| &ip.ip).chain([&pod.status.pod_ip]);
                self.used.extend(ips.filter_map(|ip| ip.parse::<IpAddr>().ok()));
            }
        }
        let mut filled = BTreeSet::new();
        for object in objects.values_mut() {
            let Object::Pod(pod) = object else { continue };
            let has_some = !pod.status.pod_ip.is_empty() || !pod.status.pod_ips.is_empty();
            if has_some || is_finished(pod) {
                continue;
            }
            let (name, node_name) = (pod.metadata.namespaced_name(), pod.spec.node_name.as_str());
            let node = nodes.get(node_name);
            let ips = if pod.spec.host_network {
                self.of_node(node, if node_name.is_empty() { name.to_string() } else { node_name.to_owned() })
            } else {
                self.of_pod(&name, node)
            };
            pod.status.pod_ips = ips.into_iter().map(|ip| PodIp { ip: ip.to_string() }).collect();
            filled.insert(name);
        }
        filled
    }

    fn of_pod(&mut self, name: &NamespacedName, node: Option<&Node>) -> Vec<IpAddr> {
        if let Some(given) = self.given.get(name) {
            return given.clone();
        }
        let spec = node.map(|node| &node.spec);
        let texts = spec.into_iter().flat_map(|spec| {
            let first = spec.pod_cidrs.is_empty().then_some(&spec.pod_cidr);
            spec.pod_cidrs.iter().chain(first)
        });
        let mut ranges: Vec<IpNetwork> = texts.filter_map(|text| text.parse().ok()).collect();
        if ranges.is_empty() {
            ranges.push(self.range);
        }
        let ips: Vec<IpAddr> = ranges.iter().filter_map(|range| self.free(range)).collect();
        self.given.insert(name.clone(), ips.clone());
        ips
    }

    fn of_node(&mut self, node: Option<&Node>, name: String) -> Vec<IpAddr> {
        let addresses = node.into_iter().flat_map(|node| &node.status.addresses);
        let internal = addresses.filter(|address| address.address_type == "InternalIP");
        let known: Vec<IpAddr> = internal.filter_map(|address| address.address.parse().ok()).collect();
        if !known.is_empty() {
            return known;
        }
        if let Some(given) = self.nodes.get(&name) {
            return vec![*given];
        }
        let range = Self::NODE_RANGE.parse().expect("a range");
        let ip = self.free(&range);
        self.nodes.extend(ip.map(|ip| (name, ip)));
        ip.into_iter().collect()
    }

    /// The first address that nobody has; network, gateway and broadcast addresses are left alone.
    fn free(&mut self, range: &IpNetwork) -> Option<IpAddr> {
        let bits = |ip: IpAddr| u128::from_be_bytes(Addr::from(ip).0);
        let (first, last) = (bits(range.network()).saturating_add(2), bits(range.broadcast()));
        let next = self.next.entry(*range).or_insert(first);
        let mut candidates = (*next..last).map(|bits| (bits, IpAddr::from(Addr(bits.to_be_bytes()))));
        let (bits, ip) = candidates.find(|(_, ip)| !self.used.contains(ip))?;
        *next = bits + 1;
        self.used.insert(ip);
        Some(ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_given_once_each() {
        let mut assumed = Assumed::within("10.0.0.0/29".parse().expect("a range"));
        assumed.used.insert("10.0.0.3".parse().expect("an address"));
        let mut of = |name: &str| assumed.of_pod(&NamespacedName::new("a", name), None);
        let text = |ips: Vec<IpAddr>| ips.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(text(of("one")), ["10.0.0.2"]);
        assert_eq!(text(of("two")), ["10.0.0.4"]);
        assert_eq!(text(of("one")), ["10.0.0.2"]);
        assert_eq!(text(of("three")), ["10.0.0.5"]);
        assert_eq!(text(of("four")), ["10.0.0.6"]);
        assert_eq!(text(of("five")), [""; 0]);
    }
}
