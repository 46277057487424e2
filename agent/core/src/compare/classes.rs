//! What need not be told apart: ports between two boundaries, addresses of one range.

use std::collections::{BTreeMap, BTreeSet};

use sluice_abi::{Addr, Prefix};

use super::{ALL, Ports};
use crate::{
    cluster::PortMatch,
    explain::Protocol,
    prefix::V4_BITS,
    selector::{Block, Peer},
    world::World,
};

/// The classes of ports that no rule of these worlds cuts, of every protocol.
pub(super) fn ports(worlds: [&World; 2]) -> Vec<(Protocol, Ports)> {
    let mut firsts: BTreeMap<Protocol, BTreeSet<u16>> =
        Protocol::ALL.into_iter().map(|protocol| (protocol, BTreeSet::from([0]))).collect();
    for world in worlds {
        for port in rules(world).flat_map(|(_, ports)| ports) {
            for (protocol, first, last) in numbers(world, port) {
                let firsts = firsts.get_mut(&protocol).expect("every protocol");
                firsts.insert(first);
                firsts.extend(last.checked_add(1));
            }
        }
    }
    let mut classes = Vec::new();
    for (protocol, firsts) in firsts {
        let lasts = firsts.iter().skip(1).map(|first| first - 1).chain([ALL.last]);
        classes
            .extend(firsts.iter().zip(lasts).map(|(first, last)| (protocol, Ports { first: *first, last })));
    }
    classes
}

/// Peers and ports of every rule.
fn rules(world: &World) -> impl Iterator<Item = (&BTreeSet<Peer>, &BTreeSet<PortMatch>)> {
    let cluster = world.cluster();
    let of_namespaces = cluster.policies().values().flat_map(|policy| policy.rules.iter().flatten());
    let of_namespaces = of_namespaces.map(|rule| (&rule.peers, &rule.ports));
    let wide = cluster.cluster_policies().values().flat_map(|policy| policy.rules.iter().flatten());
    of_namespaces.chain(wide.map(|rule| (&rule.peers, &rule.ports)))
}

/// The numbers of a port match; a name has those that any pod gives it.
fn numbers(world: &World, port: &PortMatch) -> Vec<(Protocol, u16, u16)> {
    let of = |number: u8| Protocol::ALL.into_iter().find(|known| known.number(Addr::UNSPECIFIED) == number);
    match port {
        PortMatch::All { .. } => Vec::new(),
        PortMatch::Range { protocol, first, last } => {
            of(*protocol).map(|protocol| (protocol, *first, *last)).into_iter().collect()
        }
        PortMatch::Named { protocol, name } => {
            let pods = world.cluster().pods().values();
            let numbers: BTreeSet<u16> = pods.filter_map(|pod| pod.port(name, *protocol)).collect();
            let known = of(*protocol);
            numbers.into_iter().filter_map(|number| Some((known?, number, number))).collect()
        }
    }
}

/// The ranges of addresses that rules tell apart, each with an address that lies in no smaller one and is nobody's.
pub(super) fn ranges(worlds: [&World; 2]) -> Vec<(Prefix, Addr)> {
    let everything =
        [Prefix { addr: Addr::v4([0; 4]), bits: V4_BITS }, Prefix { addr: Addr([0; 16]), bits: 0 }];
    let mut ranges: BTreeSet<Prefix> = everything.into();
    for peer in worlds.into_iter().flat_map(|world| rules(world).flat_map(|(peers, _)| peers)) {
        if let Peer::Block(Block { cidr, except }) = peer {
            ranges.extend(except.iter().chain([cidr]).copied());
        }
    }
    let is_free =
        |addr: Addr| worlds.iter().all(|world| world.pod_at(addr).is_none() && !world.is_node(addr));
    let representative = |range: &Prefix| Some((*range, representative(&ranges, range, is_free)?));
    ranges.iter().filter_map(representative).collect()
}

/// The first address of a range that is free and in no smaller one; the unspecified address is none.
fn representative(ranges: &BTreeSet<Prefix>, range: &Prefix, is_free: impl Fn(Addr) -> bool) -> Option<Addr> {
    let bits = |addr: &Addr| u128::from_be_bytes(addr.0);
    let last_of = |range: &Prefix| bits(&range.addr) | u128::MAX.checked_shr(range.bits.into()).unwrap_or(0);
    let mut next = bits(&range.addr);
    loop {
        let addr = Addr(next.to_be_bytes());
        let smallest = smallest(ranges, addr)?;
        let is_none = next == 0 || next == bits(&Addr::v4([0; 4]));
        if smallest == *range && is_free(addr) && !is_none {
            return Some(addr);
        }
        let skipped = if smallest == *range { next } else { last_of(&smallest) };
        next = skipped.checked_add(1).filter(|next| *next <= last_of(range))?;
    }
}

/// The smallest range that holds an address.
fn smallest(ranges: &BTreeSet<Prefix>, addr: Addr) -> Option<Prefix> {
    (0..=128).rev().map(|bits| Prefix::new(addr, bits)).find(|prefix| ranges.contains(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Prefix {
        let (addr, bits) = text.split_once('/').expect("a range");
        let ip: std::net::IpAddr = addr.parse().expect("an address");
        let bits: u8 = bits.parse().expect("a length");
        Prefix::new(ip.into(), if ip.is_ipv4() { V4_BITS + bits } else { bits })
    }

    #[test]
    fn a_range_is_stood_for_by_an_address_in_no_smaller_one() {
        let ranges: BTreeSet<Prefix> =
            ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/16", "10.1.0.0/31"].map(range).into();
        let of = |text: &str, taken: &str| {
            let is_free = |addr: Addr| addr.to_string() != taken;
            representative(&ranges, &range(text), is_free).map(|addr| addr.to_string())
        };
        assert_eq!(of("0.0.0.0/0", "").as_deref(), Some("0.0.0.1"));
        assert_eq!(of("10.0.0.0/8", "").as_deref(), Some("10.1.0.2"));
        assert_eq!(of("10.0.0.0/16", "10.0.0.0").as_deref(), Some("10.0.0.1"));
        assert_eq!(of("10.1.0.0/31", "10.1.0.0").as_deref(), Some("10.1.0.1"));
        let halves: BTreeSet<Prefix> = ["10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9"].map(range).into();
        assert_eq!(representative(&halves, &range("10.0.0.0/8"), |_| true), None);
    }
}
