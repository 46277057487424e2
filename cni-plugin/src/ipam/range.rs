//! Ranges of addresses and the choice of one: pure.
//!
//! Never leased: an IPv4 subnet's first and last address (network and broadcast, RFC 919) unless it is a `/31` or
//! `/32` (RFC 3021), and an IPv6 subnet's first (subnet-router anycast, RFC 4291, section 2.6.1) unless it is a
//! `/127` or `/128` (RFC 6164).

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnetwork::IpNetwork;

/// Why a range cannot be leased from.
#[derive(Debug, thiserror::Error)]
pub enum RangeProblem {
    /// An end of the range is not in its subnet.
    #[error("{addr} is not in {subnet}")]
    Outside {
        /// The end.
        addr: IpAddr,
        /// The subnet.
        subnet: IpNetwork,
    },
    /// Nothing is between the ends.
    #[error("no address of {subnet} is left to lease")]
    Empty {
        /// The subnet.
        subnet: IpNetwork,
    },
    /// Link-local, loopback, multicast, unspecified or IPv4-mapped addresses are not a pod's.
    #[error("addresses of {subnet} cannot be a pod's")]
    Reserved {
        /// The subnet.
        subnet: IpNetwork,
    },
    /// The set has no range.
    #[error("the set has no range")]
    NoRange,
    /// A set holds both families.
    #[error("{subnet} has another address family than the first range of its set")]
    MixedFamilies {
        /// The odd one.
        subnet: IpNetwork,
    },
    /// Two ranges of a set share addresses.
    #[error("{subnet} overlaps an earlier range of its set")]
    Overlap {
        /// The later one.
        subnet: IpNetwork,
    },
}

/// The addresses of one subnet that may be leased, both ends included.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Range {
    subnet: IpNetwork,
    first: u128,
    last: u128,
}

impl Range {
    /// A subnet, narrowed to `start..=end` where given.
    ///
    /// # Errors
    /// Any [`RangeProblem`] about a single range.
    pub fn new(subnet: IpNetwork, start: Option<IpAddr>, end: Option<IpAddr>) -> Result<Self, RangeProblem> {
        if let Some(addr) = [start, end].into_iter().flatten().find(|addr| !subnet.contains(*addr)) {
            return Err(RangeProblem::Outside { addr, subnet });
        }
        let host_bits = if subnet.is_ipv6() { 128 } else { 32 } - u32::from(subnet.prefix());
        let network = number(subnet.network());
        let broadcast = network | (1u128.checked_shl(host_bits).unwrap_or(0).wrapping_sub(1));
        let (skip_first, skip_last) =
            (u128::from(host_bits > 1), u128::from(host_bits > 1 && subnet.is_ipv4()));
        let first = start.map_or(0, number).max(network + skip_first);
        let last = end.map_or(u128::MAX, number).min(broadcast - skip_last);
        if first > last {
            return Err(RangeProblem::Empty { subnet });
        }
        if is_reserved(&subnet) {
            return Err(RangeProblem::Reserved { subnet });
        }
        Ok(Self { subnet, first, last })
    }

    fn holds(&self, number: u128) -> bool {
        (self.first..=self.last).contains(&number)
    }
}

/// Ranges of one family, of which a pod gets one address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RangeSet(Vec<Range>);

impl RangeSet {
    /// Makes a set of ranges of one family that do not overlap.
    ///
    /// # Errors
    /// Any [`RangeProblem`] about a set.
    pub fn new(ranges: Vec<Range>) -> Result<Self, RangeProblem> {
        let first = ranges.first().ok_or(RangeProblem::NoRange)?;
        for (index, range) in ranges.iter().enumerate() {
            let subnet = range.subnet;
            if subnet.is_ipv6() != first.subnet.is_ipv6() {
                return Err(RangeProblem::MixedFamilies { subnet });
            }
            if ranges[..index]
                .iter()
                .any(|earlier| earlier.first <= range.last && range.first <= earlier.last)
            {
                return Err(RangeProblem::Overlap { subnet });
            }
        }
        Ok(Self(ranges))
    }

    /// Whether the set gives IPv6 addresses.
    pub fn is_v6(&self) -> bool {
        self.0.iter().any(|range| range.subnet.is_ipv6())
    }

    /// Whether the set can give `addr`.
    pub fn contains(&self, addr: IpAddr) -> bool {
        addr.is_ipv6() == self.is_v6() && self.0.iter().any(|range| range.holds(number(addr)))
    }

    /// Chooses the next address after `cursor`, round and round, that is neither leased nor resting; when there is
    /// none, the resting one that was released first. `None`: every address is leased.
    ///
    /// `resting` maps an address to the time of its release. Looks at no more addresses than are leased and resting,
    /// plus one.
    pub fn choose(
        &self,
        cursor: Option<IpAddr>,
        is_leased: impl Fn(&IpAddr) -> bool,
        resting: &HashMap<IpAddr, u64>,
    ) -> Option<IpAddr> {
        let free = self.after(cursor).find(|addr| !is_leased(addr) && !resting.contains_key(addr));
        free.or_else(|| {
            let candidates = resting.iter().filter(|(addr, _)| self.contains(**addr) && !is_leased(addr));
            candidates.min_by_key(|(addr, released)| (**released, **addr)).map(|(addr, _)| *addr)
        })
    }

    /// Every address once, beginning behind `cursor`.
    fn after(&self, cursor: Option<IpAddr>) -> impl Iterator<Item = IpAddr> {
        let at = cursor.filter(|addr| self.contains(*addr)).map(number);
        let place = at.and_then(|at| self.0.iter().position(|range| range.holds(at)));
        let (place, at) = place.zip(at).unwrap_or((0, 0));
        let (before, from) = self.0.split_at(place);
        // The range of the cursor comes twice: what is behind the cursor first, what is up to it last.
        let head = from.first().map(|range| (range.first.max(at.saturating_add(1)), range.last));
        let tail = from.first().filter(|_| at > 0).map(|range| (range.first, at.min(range.last)));
        let others = from.iter().skip(1).chain(before).map(|range| (range.first, range.last));
        let v6 = self.is_v6();
        head.into_iter()
            .chain(others)
            .chain(tail)
            .flat_map(|(first, last)| first..=last)
            .map(move |n| address(n, v6))
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            write!(f, "{}{}", if index == 0 { "" } else { ", " }, range.subnet)?;
        }
        Ok(())
    }
}

fn is_reserved(subnet: &IpNetwork) -> bool {
    let addr = subnet.network();
    let family = match addr {
        IpAddr::V4(v4) => v4.is_link_local() || v4.octets()[0] == 0 || v4.octets()[0] >= 240,
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some() || v6.is_unspecified(),
    };
    family || addr.is_loopback() || addr.is_multicast()
}

fn number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn address(number: u128, v6: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(bits) if !v6 => Ipv4Addr::from_bits(bits).into(),
        _ => Ipv6Addr::from_bits(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn set(ranges: &[(&str, Option<&str>, Option<&str>)]) -> RangeSet {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let range = |(subnet, start, end): &(&str, Option<&str>, Option<&str>)| {
            Range::new(subnet.parse().expect("a subnet"), start.map(ip), end.map(ip)).expect("a range")
        };
        RangeSet::new(ranges.iter().map(range).collect()).expect("a set")
    }

    fn all(set: &RangeSet, cursor: Option<&str>) -> Vec<String> {
        let cursor = cursor.map(|text| text.parse().expect("an address"));
        set.after(cursor).map(|addr| addr.to_string()).collect()
    }

    #[test]
    fn network_broadcast_and_anycast_addresses_are_never_leased() {
        assert_eq!(all(&set(&[("10.0.0.8/30", None, None)]), None), ["10.0.0.9", "10.0.0.10"]);
        assert_eq!(all(&set(&[("10.0.0.8/31", None, None)]), None), ["10.0.0.8", "10.0.0.9"]);
        assert_eq!(all(&set(&[("10.0.0.8/32", None, None)]), None), ["10.0.0.8"]);
        assert_eq!(all(&set(&[("fd00::/126", None, None)]), None), ["fd00::1", "fd00::2", "fd00::3"]);
        let narrowed = set(&[("10.0.0.0/24", Some("10.0.0.0"), Some("10.0.0.2"))]);
        assert_eq!(all(&narrowed, None), ["10.0.0.1", "10.0.0.2"]);
    }

    #[test]
    fn the_round_goes_on_behind_the_cursor_through_every_range() {
        let set = set(&[("10.0.0.0/29", Some("10.0.0.3"), Some("10.0.0.5")), ("10.0.1.0/30", None, None)]);
        assert_eq!(all(&set, Some("10.0.0.3")), ["10.0.0.4", "10.0.0.5", "10.0.1.1", "10.0.1.2", "10.0.0.3"]);
        assert_eq!(all(&set, Some("10.0.1.2")), ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.1.1", "10.0.1.2"]);
        assert_eq!(all(&set, Some("10.9.9.9")).len(), 5);
    }

    #[test]
    fn subnets_no_pod_may_live_in_are_refused() {
        for subnet in
            ["169.254.0.0/16", "127.0.0.0/8", "224.0.0.0/24", "fe80::/64", "ff02::/64", "::ffff:10.0.0.0/120"]
        {
            let problem = Range::new(subnet.parse().expect("a subnet"), None, None).expect_err(subnet);
            assert!(matches!(problem, RangeProblem::Reserved { .. }), "{subnet}: {problem}");
        }
    }

    proptest! {
        #[test]
        fn every_address_comes_once_and_only_those_of_the_ranges(
            base in any::<u32>(), prefix in 22u8..=32, cursor in any::<u32>(), near in any::<bool>(),
        ) {
            let subnet = ipnetwork::Ipv4Network::new(Ipv4Addr::from_bits(base), prefix).expect("a prefix");
            let Ok(range) = Range::new(subnet.into(), None, None) else { return Ok(()) };
            let set = RangeSet::new(vec![range]).expect("a set");
            let cursor = if near { base } else { cursor };
            let seen: Vec<_> = set.after(Some(Ipv4Addr::from_bits(cursor).into())).collect();
            let unique: HashSet<_> = seen.iter().copied().collect();
            prop_assert_eq!(unique.len(), seen.len());
            prop_assert_eq!(seen.len() as u128, range.last - range.first + 1);
            prop_assert!(seen.iter().all(|addr| set.contains(*addr)));
        }

        #[test]
        fn the_choice_is_never_leased_and_rests_only_when_nothing_else_is_left(
            leased in proptest::collection::hash_set(1u8..=14, 0..14),
            resting in proptest::collection::hash_map(1u8..=14, 0u64..50, 0..14),
            cursor in 0u8..=15,
        ) {
            let ip = |n: u8| IpAddr::from([10, 0, 0, n]);
            let set = set(&[("10.0.0.0/28", None, None)]);
            let taken: HashSet<_> = leased.iter().map(|n| ip(*n)).collect();
            let rest: HashMap<_, _> = resting.iter().map(|(n, at)| (ip(*n), *at)).collect();
            let choice = set.choose(Some(ip(cursor)), |addr| taken.contains(addr), &rest);
            let open: Vec<_> = (1..=14).map(ip).filter(|a| !taken.contains(a)).collect();
            match choice {
                None => prop_assert!(open.is_empty()),
                Some(addr) => {
                    prop_assert!(open.contains(&addr));
                    if let Some(released) = rest.get(&addr) {
                        prop_assert!(open.iter().all(|a| rest.get(a).is_some_and(|other| other >= released)));
                    }
                }
            }
        }

        #[test]
        fn making_a_range_never_panics(
            bits in any::<u128>(), prefix in 0u8..=128, start in any::<Option<u128>>(), v4 in any::<bool>(),
        ) {
            let subnet = if v4 {
                IpNetwork::new(Ipv4Addr::from_bits(bits as u32).into(), prefix % 33)
            } else {
                IpNetwork::new(Ipv6Addr::from_bits(bits).into(), prefix)
            };
            let start = start.map(|bits| IpAddr::from(Ipv6Addr::from_bits(bits)));
            if let Ok(range) = Range::new(subnet.expect("a prefix"), start, None) {
                prop_assert!(range.first <= range.last);
            }
        }
    }
}
