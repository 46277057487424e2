//! What the programs know of this node: its addresses, and who sees pods' own addresses.

use std::collections::BTreeSet;

use sluice_abi::{Addr, Prefix};

use super::Settings;
use crate::{
    cluster::{Cluster, NodeName},
    desired::DesiredNode,
    prefix::{V4_BITS, in_range, is_v4},
};

/// Ranges that never leave the node's links: IPv4 and IPv6 link-local (RFC 3927, RFC 4291).
const LINK_LOCAL: [Prefix; 2] = [
    Prefix { addr: Addr::v4([169, 254, 0, 0]), bits: V4_BITS + 16 },
    Prefix { addr: Addr([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), bits: 10 },
];

/// Compiles this part anew.
pub(super) fn compile(cluster: &Cluster, node: &NodeName, settings: &Settings) -> DesiredNode {
    let addrs = [true, false].into_iter().filter_map(|v4| address(cluster, node, v4)).collect();
    let no_masquerade = if settings.masquerade { no_masquerade(cluster, settings) } else { BTreeSet::new() };
    DesiredNode { addrs, masquerade: settings.masquerade, no_masquerade }
}

/// The first internal address of the node's object that the node has, else the first of its uplinks.
fn address(cluster: &Cluster, node: &NodeName, v4: bool) -> Option<Addr> {
    let internal = cluster.nodes().get(node).into_iter().flat_map(|node| &node.internal_addrs);
    let own = internal.filter(|addr| cluster.node_addresses().contains(addr));
    own.chain(cluster.uplink_addresses()).find(|addr| addr.is_v4() == v4).copied()
}

fn no_masquerade(cluster: &Cluster, settings: &Settings) -> BTreeSet<Prefix> {
    let nodes = cluster.nodes().values();
    let of_nodes = nodes
        .flat_map(|node| node.pod_ranges.iter().copied().chain(node.addrs.iter().copied().map(Prefix::host)));
    let own = cluster.node_addresses().iter().copied().map(Prefix::host);
    let configured = settings.no_masquerade.iter().copied();
    least(of_nodes.chain(own).chain(configured).chain(LINK_LOCAL))
}

/// The same addresses by as few ranges as possible; none of them covers both families.
fn least(ranges: impl Iterator<Item = Prefix>) -> BTreeSet<Prefix> {
    let mut stack: Vec<Prefix> = Vec::new();
    // A range sorts before what lies in it.
    for range in ranges.flat_map(within_family).collect::<BTreeSet<_>>() {
        if stack.last().is_some_and(|last| in_range(last, &range)) {
            continue;
        }
        let mut whole = range;
        while let Some(both) = stack.last().and_then(|last| union(last, &whole)) {
            stack.pop();
            whole = both;
        }
        stack.push(whole);
    }
    stack.into_iter().collect()
}

/// The range that two neighbours make together.
fn union(low: &Prefix, high: &Prefix) -> Option<Prefix> {
    let both = Prefix::new(low.addr, low.bits.checked_sub(1)?);
    let are_siblings = low.bits == high.bits && low != high && both.covers(high);
    (are_siblings && is_v4(&both) == is_v4(low) && !both.covers(&MAPPED)).then_some(both)
}

/// Every IPv4 address.
const MAPPED: Prefix = Prefix { addr: Addr::v4([0; 4]), bits: V4_BITS };

/// A trie finds mapped IPv4 addresses in an IPv6 range that covers them: such a range is cut around them.
fn within_family(range: Prefix) -> Vec<Prefix> {
    if is_v4(&range) || !range.covers(&MAPPED) {
        return vec![range];
    }
    let halves = (range.bits + 1..=V4_BITS).map(|bits| {
        let mut addr = Prefix::new(MAPPED.addr, bits).addr;
        let last = usize::from(bits - 1);
        addr.0[last / 8] ^= 0x80 >> (last % 8);
        Prefix::new(addr, bits)
    });
    halves.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(texts: &[&str]) -> Vec<Prefix> {
        let range = |text: &&str| {
            let (addr, bits) = text.split_once('/').expect("a range");
            let ip: std::net::IpAddr = addr.parse().expect("an address");
            let bits: u8 = bits.parse().expect("a length");
            Prefix::new(ip.into(), if ip.is_ipv4() { V4_BITS + bits } else { bits })
        };
        texts.iter().map(range).collect()
    }

    #[test]
    fn ranges_in_others_and_halves_of_others_vanish() {
        for (given, wanted) in [
            (&["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24"][..], &["10.0.0.0/23", "10.0.2.0/24"][..]),
            (&["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32"], &["10.0.0.0/8"]),
            (&["10.0.0.0/25", "10.0.0.128/25", "10.0.1.0/24"], &["10.0.0.0/23"]),
            (&["fd00::/64", "fd00:0:0:1::/64", "fd00::5/128"], &["fd00::/63"]),
            (&["0.0.0.0/0", "10.0.0.0/8"], &["0.0.0.0/0"]),
        ] {
            let found = least(ranges(given).into_iter());
            assert_eq!(found, ranges(wanted).into_iter().collect(), "{given:?}");
        }
    }

    #[test]
    fn no_ipv6_range_covers_ipv4() {
        let found = least(ranges(&["::/0", "10.0.0.0/8"]).into_iter());
        let covers = |text: &str| {
            let addr = Addr::from(text.parse::<std::net::IpAddr>().expect("an address"));
            found.iter().any(|range| range.contains(&addr))
        };
        assert!(covers("10.1.2.3") && covers("2001:db8::1") && covers("::1") && covers("ffff::"));
        assert!(!covers("192.0.2.1") && !covers("8.8.8.8"));
    }
}
