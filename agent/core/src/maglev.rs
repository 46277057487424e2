//! Consistent hashing for clients from outside: every node makes the same table of the same backends, so it does not
//! matter which node a flow comes to, and few flows move when a backend comes or goes.
//!
//! The algorithm is Maglev's (Eisenbud et al., NSDI 2016, section 3.4): each backend has its own order of the places, made
//! of its content alone, and takes its next free place when it is its turn.

use sha2::{Digest as _, Sha256};

use crate::desired::BackendKey;

/// The table size when nothing else is configured.
pub const DEFAULT_SIZE: u32 = 1021;

/// Table sizes that may be configured; a size is a prime, so that every step through the table visits all of it.
pub const SIZES: std::ops::RangeInclusive<u32> = 251..=16_381;

/// Whether a number can be a table's size.
pub fn is_size(number: u32) -> bool {
    SIZES.contains(&number) && (2..).take_while(|d| d * d <= number).all(|d| !number.is_multiple_of(d))
}

/// For each place of a table, the index of its backend. Each of the backends, which are at most `size`, has its share.
pub fn table(backends: &[BackendKey], size: u32) -> Vec<usize> {
    let mut orders: Vec<Order> = backends.iter().map(|backend| Order::of(backend, u64::from(size))).collect();
    let places = usize::try_from(size).expect("a small table");
    let mut table = vec![None; places];
    let mut taken = 0;
    while taken < places && !orders.is_empty() {
        for (index, order) in orders.iter_mut().enumerate().take(places - taken) {
            let free = std::iter::repeat_with(|| order.next()).find(|place| table[*place].is_none());
            table[free.expect("a place is free")] = Some(index);
            taken += 1;
        }
    }
    table.into_iter().flatten().collect()
}

/// The order in which a backend wants the places.
#[derive(Debug)]
struct Order {
    next: u64,
    step: u64,
    size: u64,
}

impl Order {
    fn of(backend: &BackendKey, size: u64) -> Self {
        let hash = Sha256::new()
            .chain_update(backend.addr.0)
            .chain_update(backend.port.to_be_bytes())
            .chain_update([backend.protocol])
            .finalize();
        let word = |at: usize| hash[at..at + 8].iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        Self { next: word(0) % size, step: word(8) % (size - 1) + 1, size }
    }

    fn next(&mut self) -> usize {
        let place = self.next;
        self.next = (place + self.step) % self.size;
        usize::try_from(place).expect("a small table")
    }
}

#[cfg(test)]
mod tests {
    use sluice_abi::Addr;

    use super::*;

    fn backends(count: u8) -> Vec<BackendKey> {
        (1..=count)
            .map(|last| BackendKey { addr: Addr::v4([10, 0, 0, last]), protocol: 6, port: 80 })
            .collect()
    }

    #[test]
    fn sizes_are_primes_in_the_range() {
        assert!([251, 1021, 16_381].into_iter().all(is_size));
        assert!([0, 2, 241, 1022, 1023, 16_384, 16_411].into_iter().all(|size| !is_size(size)));
        assert!(is_size(DEFAULT_SIZE));
    }

    #[test]
    fn every_backend_has_its_share() {
        for count in [1, 3, 10, 100] {
            let table = table(&backends(count), 1021);
            assert_eq!(table.len(), 1021);
            for index in 0..usize::from(count) {
                let share = table.iter().filter(|place| **place == index).count();
                assert!(share.abs_diff(1021 / usize::from(count)) <= 1, "{index} of {count} has {share}");
            }
        }
        assert!(table(&[], 1021).is_empty());
    }

    #[test]
    fn few_flows_move_when_one_of_a_hundred_backends_leaves() {
        let all = backends(100);
        let fewer: Vec<_> = all.iter().copied().filter(|backend| backend.addr.0[15] != 42).collect();
        let (before, after) = (table(&all, 16_381), table(&fewer, 16_381));
        let moved = before.iter().zip(&after).filter(|(old, new)| {
            let old = all[**old];
            old.addr.0[15] != 42 && old != fewer[**new]
        });
        assert!(moved.count() * 100 <= 16_381 * 3, "more than 3 % moved without need");
    }

    #[test]
    fn the_table_is_the_same_on_every_node_and_in_every_version() {
        let table = table(&backends(3), 251);
        let first: String = table.iter().take(24).map(ToString::to_string).collect();
        assert_eq!(first, "100012102120200212010111");
    }
}
