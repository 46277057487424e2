//! What the maps shall hold, named by content: no numbers yet.
//!
//! Rule sets and classes of addresses are named by the [`Digest`] of their canonical text, rules by policy, direction
//! and index, backends by their address. `diff` gives them the numbers the maps already hold for equal content.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use sha2::{Digest as _, Sha256};
use sluice_abi::{Addr, BackendState, Direction, EndpointId, FrontendKey, Prefix, RuleVerdict};

use crate::{
    cluster::{Action, LocalEndpoint, PortMatch, Tier},
    object::{NamespacedName, PolicyName},
    selector::{Peer, Selector},
};

/// The first 16 bytes of SHA-256 over a canonical text: what something means, whatever its number.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Digest(pub [u8; 16]);

impl Digest {
    /// The digest of a text.
    pub fn of(text: &str) -> Self {
        let mut digest = [0; 16];
        digest.copy_from_slice(&Sha256::digest(text.as_bytes())[..16]);
        Self(digest)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Everything the maps of one node shall hold.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DesiredState {
    /// Rule sets of this node's pods, shadow ones among them.
    pub rule_sets: BTreeMap<Digest, Arc<RuleSet>>,
    /// Classes of addresses that the rule sets tell apart.
    pub classes: BTreeMap<Digest, Arc<Class>>,
    /// The entries of each rule set: those about every peer (`None`), and those of the classes that have their own.
    pub rules: BTreeMap<Digest, BTreeMap<Option<Digest>, Arc<[RuleEntry]>>>,
    /// Address or range → class; `None` is a range of which nothing is known within a larger one.
    pub ipcache: BTreeMap<Prefix, Option<Digest>>,
    /// Addresses that live on this node and are served.
    pub endpoints: BTreeMap<Addr, DesiredEndpoint>,
    /// Every attached interface, served or not.
    pub interfaces: BTreeMap<EndpointId, LocalEndpoint>,
    /// ClusterNetworkPolicies that share a place in their tier: they are asked in the order of their names.
    pub ties: BTreeMap<(Tier, u16), BTreeSet<String>>,
    /// The policies of the cluster that are audited: they count in shadow rule sets only.
    pub audited: BTreeSet<PolicyName>,
    /// Services that have frontends.
    pub services: BTreeMap<NamespacedName, Arc<DesiredService>>,
    /// Frontends that several Services ask for: the first by name has it, and the others go without.
    pub contested: BTreeMap<FrontendKey, BTreeSet<NamespacedName>>,
    /// Services whose load balancers ask whether this node has endpoints.
    pub health_checks: BTreeMap<NamespacedName, HealthCheck>,
    /// What the programs know of this node.
    pub node: DesiredNode,
}

/// What an address of this node shall be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DesiredEndpoint {
    /// The node's own stack.
    Host {
        /// Whether NodePorts are served at this address.
        takes_node_ports: bool,
    },
    /// A pod.
    Pod {
        /// Whose address it is.
        id: EndpointId,
        /// Its rule sets, by [`Direction`].
        rule_sets: [Digest; 2],
        /// Those that would be in force if audited policies were enforced too, by [`Direction`], where they differ.
        shadows: [Option<Digest>; 2],
    },
}

/// The policies of a pod in one direction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RuleSet {
    /// For which direction.
    pub direction: Direction,
    /// The NetworkPolicies that isolate; with none of them what no rule decides is allowed.
    pub isolating: BTreeSet<NamespacedName>,
    /// What policies say, in the order in which they are asked: by tier; within Admin and Baseline by precedence, the first
    /// match decides; NetworkPolicies by name and index, any match allows. Where some isolate, none is of Baseline.
    pub rules: Vec<SetRule>,
}

/// One rule of a rule set.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SetRule {
    /// Whose it is.
    pub source: RuleSource,
    /// When it is asked.
    pub tier: Tier,
    /// What becomes of what it matches; a NetworkPolicy accepts.
    pub action: Action,
    /// The peers.
    pub peers: BTreeSet<Peer>,
    /// The ports, names of ingress ports resolved; `None` is every port and every protocol.
    pub ports: Option<BTreeSet<PortMatch>>,
}

/// Which rule of which policy.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RuleSource {
    /// The policy.
    pub policy: PolicyName,
    /// Which of its lists.
    pub direction: Direction,
    /// The index in the list, from 0.
    pub index: u16,
}

impl fmt::Display for RuleSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}[{}]", self.policy, self.direction.name(), self.index)
    }
}

impl RuleSet {
    /// The policies that have a say: those that isolate, and those of the rules.
    pub fn policies(&self) -> BTreeSet<PolicyName> {
        let isolating = self.isolating.iter().cloned().map(PolicyName::NetworkPolicy);
        isolating.chain(self.rules.iter().map(|rule| rule.source.policy.clone())).collect()
    }

    /// Whether something is denied to some peers and not to others by what they are: by a rule that denies, or passes on, or by
    /// an exception. Else selectors only add.
    pub fn denies_some(&self) -> bool {
        let excepts = |peer: &Peer| matches!(peer, Peer::Block(block) if !block.except.is_empty());
        self.rules.iter().any(|rule| match rule.action {
            Action::Accept => rule.peers.iter().any(excepts),
            Action::Deny | Action::Pass => rule.peers.iter().any(|peer| *peer != Peer::Any),
        })
    }

    /// The canonical text: a format, see [`crate::selector`].
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.direction.name());
        for policy in &self.isolating {
            text += &format!("isolated by {policy}\n");
        }
        for SetRule { source, tier, action, peers, ports } in &self.rules {
            match tier {
                Tier::NetworkPolicy => text += &format!("{source}\n"),
                Tier::Admin | Tier::Baseline => {
                    text += &format!("{source} {} {}\n", tier.name(), action.name());
                }
            }
            peers.iter().for_each(|peer| text += &format!(" peer {peer}\n"));
            match ports {
                None => text += " every port\n",
                Some(ports) => ports.iter().for_each(|port| text += &format!(" port {port}\n")),
            }
        }
        text
    }
}

/// Addresses that satisfy the same selectors; never empty.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Class(pub BTreeSet<Arc<Selector>>);

impl fmt::Display for Class {
    /// The canonical text: a format, see [`crate::selector`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, selector) in self.0.iter().enumerate() {
            write!(f, "{}{selector}", if index > 0 { "; " } else { "" })?;
        }
        Ok(())
    }
}

/// One entry of a rule set; the one with the longest prefix decides, and none drops.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RuleEntry {
    /// Which packets.
    pub ports: PortPrefix,
    /// What becomes of them.
    pub verdict: RuleVerdict,
    /// The rule; `None` where no rule matches: what then passes is not isolated, what does not is, within what a rule of a
    /// ClusterNetworkPolicy says of a wider range.
    pub source: Option<Arc<RuleSource>>,
}

/// Protocol and port as far as they matter.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum PortPrefix {
    /// Every packet.
    Any,
    /// The ports of a protocol that begin with the same bits.
    Ports {
        /// IANA protocol number.
        protocol: u8,
        /// The first port.
        first: u16,
        /// Leading bits that count, 0–16.
        bits: u8,
    },
}

impl PortPrefix {
    /// Whether every packet of `other` is one of these.
    pub fn covers(&self, other: &Self) -> bool {
        match (*self, *other) {
            (Self::Any, _) => true,
            (Self::Ports { .. }, Self::Any) => false,
            (Self::Ports { protocol, first, bits }, Self::Ports { protocol: p, first: f, bits: b }) => {
                protocol == p && bits <= b && (u32::from(first ^ f) >> (16 - u32::from(bits))) == 0
            }
        }
    }
}

/// The frontends of a Service.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DesiredService {
    /// Where it listens.
    pub frontends: BTreeMap<FrontendKey, DesiredFrontend>,
    /// Every backend it needs, also those that only keep their flows.
    pub backends: BTreeMap<BackendKey, BackendState>,
    /// Clients that may use the frontends that ask for it.
    pub source_ranges: BTreeSet<Prefix>,
}

/// One frontend.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DesiredFrontend {
    /// What kind of address it is.
    pub kind: FrontendKind,
    /// Where its backends are.
    pub slots: Slots,
    /// Session affinity, seconds.
    pub affinity_s: Option<u32>,
    /// Whether only backends of this node count, though there are others.
    pub is_local: bool,
    /// Whether only clients in the Service's source ranges may use it.
    pub has_source_ranges: bool,
    /// The Service's own port.
    pub service_port: u16,
}

/// What kind of address a frontend is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum FrontendKind {
    /// An address of the cluster.
    #[default]
    ClusterIp,
    /// A port of the nodes.
    NodePort,
    /// An address of the Service's load balancer.
    LoadBalancer,
    /// One of the Service's `externalIPs`.
    ExternalIp,
}

/// The backends that take a frontend's new flows; frontends of a Service with equal ones share their place.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Slots {
    /// The backends in their order; none is there twice.
    pub backends: Arc<[BackendKey]>,
    /// Size of the table of consistent hashing ([`crate::maglev`]); `None` where chance decides.
    pub table: Option<u32>,
}

/// What the programs know of this node.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DesiredNode {
    /// Its address in each family, as far as it has one.
    pub addrs: BTreeSet<Addr>,
    /// Whether what pods send elsewhere takes the node's address.
    pub masquerade: bool,
    /// Ranges that see pods' own addresses; none lies in another.
    pub no_masquerade: BTreeSet<Prefix>,
}

/// What a load balancer is told about a Service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HealthCheck {
    /// Where it asks.
    pub port: u16,
    /// Ready endpoints on this node.
    pub local_endpoints: usize,
}

/// Where a backend listens.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BackendKey {
    /// Its address.
    pub addr: Addr,
    /// IANA protocol number.
    pub protocol: u8,
    /// Its port.
    pub port: u16,
}
