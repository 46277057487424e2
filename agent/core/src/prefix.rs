//! Ranges of addresses: families, and the longest match.

use std::collections::BTreeMap;

use sluice_abi::{Addr, Prefix};

/// The bits of the mapped IPv4 range, `::ffff:0:0/96`.
pub(crate) const V4_BITS: u8 = 96;

/// Whether a range is one of IPv4 addresses.
pub(crate) fn is_v4(prefix: &Prefix) -> bool {
    prefix.bits >= V4_BITS && prefix.addr.is_v4()
}

/// Whether `range` covers `prefix` and is of its family: an IPv6 range does not hold the mapped IPv4 addresses.
pub(crate) fn in_range(range: &Prefix, prefix: &Prefix) -> bool {
    range.covers(prefix) && is_v4(range) == is_v4(prefix)
}

/// The value of the longest prefix that covers `prefix` (itself included), as a trie finds it.
pub(crate) fn longest<'a, T>(entries: &'a BTreeMap<Prefix, T>, prefix: &Prefix) -> Option<&'a T> {
    let mut candidate = *prefix;
    // What covers a prefix sorts before it; each miss tells how many leading bits the next candidate can share with it.
    loop {
        let (found, value) = entries.range(..=candidate).next_back()?;
        if found.covers(prefix) {
            return Some(value);
        }
        let shared = shared_bits(&found.addr, &prefix.addr).min(found.bits);
        let bits = if shared < candidate.bits { shared } else { candidate.bits.checked_sub(1)? };
        candidate = Prefix::new(prefix.addr, bits);
    }
}

fn shared_bits(a: &Addr, b: &Addr) -> u8 {
    let differing = u128::from_be_bytes(a.0) ^ u128::from_be_bytes(b.0);
    u8::try_from(differing.leading_zeros()).expect("at most 128")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_longest_prefix_is_found(
            entries in proptest::collection::btree_set((0u32..64, 0u8..=6), 0..20),
            probe in 0u32..64,
            bits in 0u8..=6,
        ) {
            let prefix = |value: u32, bits: u8| Prefix::new(Addr::v4((value << 26).to_be_bytes()), V4_BITS + bits);
            let entries: BTreeMap<_, _> = entries.into_iter().map(|(value, bits)| (prefix(value, bits), bits)).collect();
            let probe = prefix(probe, bits);
            let covering = entries.iter().filter(|(prefix, _)| prefix.covers(&probe));
            let expected = covering.max_by_key(|(prefix, _)| prefix.bits);
            prop_assert_eq!(longest(&entries, &probe), expected.map(|(_, bits)| bits));
        }
    }
}
