//! Port ranges as prefixes, the only thing a trie can hold.

use crate::{cluster::PortMatch, desired::PortPrefix};

/// The fewest prefixes that make up `first..=last`, in rising order.
pub(super) fn prefixes(protocol: u8, first: u16, last: u16) -> impl Iterator<Item = PortPrefix> {
    let (mut next, end) = (u32::from(first), u32::from(last) + 1);
    std::iter::from_fn(move || {
        if next >= end {
            return None;
        }
        let aligned = next.trailing_zeros().min(16);
        let fitting = (end - next).ilog2();
        let free = aligned.min(fitting);
        let start = u16::try_from(next).expect("below the end of a range of ports");
        next += 1 << free;
        let bits = u8::try_from(16 - free).expect("at most 16 bits");
        Some(PortPrefix::Ports { protocol, first: start, bits })
    })
}

/// The prefixes of a port match; a name has none before it is resolved.
pub(super) fn of(port: &PortMatch) -> Vec<PortPrefix> {
    match *port {
        PortMatch::All { protocol } => vec![PortPrefix::Ports { protocol, first: 0, bits: 0 }],
        PortMatch::Range { protocol, first, last } => prefixes(protocol, first, last).collect(),
        PortMatch::Named { .. } => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_range_holds_its_ports_and_no_other(a: u16, b: u16, probe: u16) {
            let (first, last) = (a.min(b), a.max(b));
            let ranges: Vec<_> = prefixes(6, first, last).collect();
            for port in [probe, first, last, first.wrapping_sub(1), last.wrapping_add(1)] {
                let packet = PortPrefix::Ports { protocol: 6, first: port, bits: 16 };
                let holders = ranges.iter().filter(|range| range.covers(&packet)).count();
                prop_assert_eq!(holders, usize::from((first..=last).contains(&port)));
            }
            prop_assert!(ranges.len() <= 30);
        }
    }

    #[test]
    fn the_whole_range_is_one_prefix() {
        assert_eq!(prefixes(6, 0, u16::MAX).count(), 1);
        assert_eq!(prefixes(6, 1, u16::MAX).count(), 16);
    }
}
