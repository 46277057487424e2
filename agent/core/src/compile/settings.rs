//! What is configured and decides what the maps hold.

use std::collections::BTreeSet;

use sluice_abi::{Addr, Prefix};

use crate::{maglev, prefix::in_range, prefix::is_v4};

/// Settings of a compiler.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Whether everything of Services is served, so that no other proxy is needed; else only pods' way to cluster
    /// addresses.
    pub replaces_kube_proxy: bool,
    /// Whether what pods send out of the cluster takes the node's address.
    pub masquerade: bool,
    /// Ranges that see pods' own addresses, besides those of the cluster's nodes and pods.
    pub no_masquerade: BTreeSet<Prefix>,
    /// Which of the node's addresses take NodePorts.
    pub node_port_addresses: NodePortAddresses,
    /// Size of the tables of consistent hashing ([`maglev::is_size`]); 0 lets chance decide.
    pub maglev_table_size: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            replaces_kube_proxy: true,
            masquerade: true,
            no_masquerade: BTreeSet::new(),
            node_port_addresses: NodePortAddresses::default(),
            maglev_table_size: maglev::DEFAULT_SIZE,
        }
    }
}

/// Which of the node's addresses take NodePorts (kube-proxy's `--nodeport-addresses`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NodePortAddresses {
    /// Those in the ranges; a family without ranges takes them at all addresses.
    Ranges(BTreeSet<Prefix>),
    /// The node's address of each family.
    Primary,
}

impl Default for NodePortAddresses {
    fn default() -> Self {
        Self::Ranges(BTreeSet::new())
    }
}

impl NodePortAddresses {
    /// Whether an address of the node takes NodePorts, when `primary` are its addresses by family.
    pub fn takes(&self, addr: &Addr, primary: &BTreeSet<Addr>) -> bool {
        let host = Prefix::host(*addr);
        match self {
            Self::Primary => primary.contains(addr),
            Self::Ranges(ranges) => {
                let mut family = ranges.iter().filter(|range| is_v4(range) == addr.is_v4()).peekable();
                family.peek().is_none() || family.any(|range| in_range(range, &host))
            }
        }
    }
}
