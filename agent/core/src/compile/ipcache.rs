//! Address ranges: for every range that a rule names, which blocks hold the addresses it is the smallest range of.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sluice_abi::{Addr, Prefix};

use crate::{
    prefix::{V4_BITS, is_v4, longest},
    selector::{Block, Peer, Selector},
};

/// Selectors that addresses satisfy; several addresses share one.
pub(super) type Satisfied = Arc<BTreeSet<Arc<Selector>>>;

/// The ranges in use, and the blocks that hold each.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges(BTreeMap<Prefix, Satisfied>);

impl Ranges {
    /// The ranges and exceptions of these blocks.
    pub(super) fn of(blocks: &BTreeSet<Block>) -> Self {
        let mut prefixes: BTreeSet<Prefix> =
            blocks.iter().flat_map(|block| block.except.iter().chain([&block.cidr])).copied().collect();
        // In the trie an IPv6 range that covers the mapped addresses would catch IPv4.
        let v4 = Prefix::new(Addr::v4([0; 4]), V4_BITS);
        if prefixes.iter().any(|prefix| !is_v4(prefix) && prefix.covers(&v4)) {
            prefixes.insert(v4);
        }
        let blocks: Vec<_> = blocks
            .iter()
            .map(|block| (block, Arc::new(Selector::Peer(Peer::Block(block.clone())))))
            .collect();
        let held = |prefix: &Prefix| {
            let holding = blocks.iter().filter(|(block, _)| block.covers(prefix));
            holding.map(|(_, selector)| selector.clone()).collect::<BTreeSet<_>>()
        };
        Self(prefixes.into_iter().map(|prefix| (prefix, Arc::new(held(&prefix)))).collect())
    }

    /// The blocks that hold an address.
    pub(super) fn at(&self, addr: &Addr) -> Satisfied {
        longest(&self.0, &Prefix::host(*addr)).cloned().unwrap_or_default()
    }

    /// The ranges whose addresses differ from those of the next larger range, and their blocks.
    pub(super) fn needed(&self) -> impl Iterator<Item = (Prefix, &Satisfied)> {
        self.0.iter().filter_map(|(prefix, satisfied)| {
            let around =
                prefix.bits.checked_sub(1).and_then(|bits| longest(&self.0, &Prefix::new(prefix.addr, bits)));
            let differs = around.map_or(!satisfied.is_empty(), |around| around != satisfied);
            differs.then_some((*prefix, satisfied))
        })
    }
}
