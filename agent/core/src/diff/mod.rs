//! Turns the difference between what is wanted and what the maps hold into an ordered plan.
//!
//! Start at [`diff`], or at [`Differ`], which makes plans after changes for what they touch. `bind` gives symbols the numbers that the maps already hold for equal content, and new ones to
//! what is new; `moves` finds a safe way from old identities to new ones; `narrow` closes what left-out addresses would find open; `policy`, `service` and `node` put the steps in order.
//!
//! **Invariant: the order is safe.** Each judgement (endpoint, direction, peer, port) passes, at every moment of the
//! plan, what both the old and the new state pass, and nothing that neither does. The order: numbers, names, backends,
//! slots and rules; addresses to an identity that is right under old and new rule sets; endpoints; addresses to their
//! final identity; new endpoints; the node; frontends; epoch; a grace period; deletions. Endpoints that go are deleted first: absence is closed.
//!
//! **Invariant: no plan is forgotten halfway.** The epoch to come is written ([`Numbers::Epoch`]) before the first step that
//! changes a verdict. Where it differs from the epoch, a plan was cut short, and the next one moves the epoch whatever else it does.
//!
//! **Invariant: no rule changes in place.** A set in force only gets entries for identities that no address carries yet.
//! A changed policy is another set, under another number.
//!
//! **Invariant: whole or not at all.** What does not fit at its peak (additions come before deletions) is left out whole
//! and reported; the old state stays in force for it.
//!
//! **Invariant: a full map closes.** An address that is left out is let pass nothing that is denied to it: `narrow` sees to that.

mod bind;
mod moves;
mod narrow;
mod node;
mod policy;
mod service;
mod shadow;

use std::collections::{BTreeMap, BTreeSet};

use sluice_abi::{Direction, EndpointId, FrontendKey, maps, maps::Numbers, protocol};

use crate::{
    cluster::Tier,
    compile::Changes,
    desired::DesiredState,
    object::{NamespacedName, PolicyName},
    plan::{Actual, Plan, Step},
};

/// Capacities of the maps, in entries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "each field is the map of that name")]
pub struct Limits {
    pub endpoints: usize,
    pub interfaces: usize,
    pub ipcache: usize,
    pub ipcache_cidrs: usize,
    pub rules: usize,
    pub frontends: usize,
    pub slots: usize,
    pub backends: usize,
    pub source_ranges: usize,
    pub no_masquerade: usize,
    pub endpoint_meta: usize,
    pub identity_meta: usize,
    pub rule_set_meta: usize,
    pub rule_meta: usize,
    pub policy_meta: usize,
    pub service_meta: usize,
}

impl Default for Limits {
    /// The capacities in [`sluice_abi::maps`], but for one entry of each trie: kernels before 6.13 need a free one to
    /// replace the value of another (`trie_update_elem`, `kernel/bpf/lpm_trie.c`).
    fn default() -> Self {
        let of = |map: maps::MapSpec| usize::try_from(map.max_entries).unwrap_or(usize::MAX);
        let of_trie = |map: maps::MapSpec| of(map).saturating_sub(1);
        Self {
            endpoints: of(maps::ENDPOINTS),
            interfaces: of(maps::INTERFACES),
            ipcache: of(maps::IPCACHE),
            ipcache_cidrs: of_trie(maps::IPCACHE_CIDRS),
            rules: of_trie(maps::RULES),
            frontends: of(maps::FRONTENDS),
            slots: of(maps::SLOTS),
            backends: of(maps::BACKENDS),
            source_ranges: of_trie(maps::SOURCE_RANGES),
            no_masquerade: of_trie(maps::NO_MASQUERADE),
            endpoint_meta: of(maps::ENDPOINT_META),
            identity_meta: of(maps::IDENTITY_META),
            rule_set_meta: of(maps::RULE_SET_META),
            rule_meta: of(maps::RULE_META),
            policy_meta: of(maps::POLICY_META),
            service_meta: of(maps::SERVICE_META),
        }
    }
}

/// What to do, and what is left out.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Outcome {
    /// The steps; empty when the maps hold what is wanted.
    pub plan: Plan,
    /// What does not fit.
    pub rejected: Vec<Rejection>,
    /// Endpoints whose rules are in force once the plan has been carried out up to its first [`Step::Grace`].
    pub in_force: BTreeSet<EndpointId>,
}

/// Something that does not fit a map; the old state stays in force for it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Rejection {
    /// The compiled policies of some pods; they keep their old ones, new pods stay closed.
    #[error("{map} has no room for the {} rules of {}", direction.name(), list(policies))]
    RuleSet {
        /// The full map.
        map: &'static str,
        /// In which direction.
        direction: Direction,
        /// The policies that have a say about these pods.
        policies: Vec<PolicyName>,
    },
    /// Every audit; what is enforced fares as if there were none.
    #[error("{map} has no room for the audit of {}", list(policies))]
    Audit {
        /// The full map.
        map: &'static str,
        /// The policies that are not audited, though they should be.
        policies: Vec<PolicyName>,
    },
    /// Addresses of peers; rules about their selectors do not reach them. Where that would let them pass what is denied to them,
    /// something else is said to be [`Rejection::Narrowed`] or [`Rejection::Closed`].
    #[error("{map} has no room for {count} more addresses")]
    Addresses {
        /// The full map.
        map: &'static str,
        /// How many are left out.
        count: usize,
    },
    /// Rule sets that deny some of the addresses left out: whoever cannot be told from those is denied the same.
    #[error(
        "{map} has no room for addresses that the {} rules of {} deny: who cannot be told from them is denied the same",
        direction.name(), list(policies)
    )]
    Narrowed {
        /// The full map.
        map: &'static str,
        /// In which direction.
        direction: Direction,
        /// The policies that have a say about these pods.
        policies: Vec<PolicyName>,
    },
    /// A pod of this node whose old rules would let addresses pass that were left out and are denied; it is closed.
    #[error("{map} has no room for addresses that endpoint {} denies, and no other rules do: it is closed", endpoint.0)]
    Closed {
        /// The full map.
        map: &'static str,
        /// Which endpoint.
        endpoint: EndpointId,
    },
    /// A pod of this node; it stays closed.
    #[error("{map} has no room for endpoint {}", endpoint.0)]
    Endpoint {
        /// The full map.
        map: &'static str,
        /// Which endpoint.
        endpoint: EndpointId,
    },
    /// Every change of policy: nothing smaller could be left out.
    #[error("{map} has no room for any change of policy")]
    Policies {
        /// The full map.
        map: &'static str,
    },
    /// A Service; its old backends stay.
    #[error("{map} has no room for Service {service}")]
    Service {
        /// The full map.
        map: &'static str,
        /// Which Service.
        service: NamespacedName,
    },
    /// A Service's tables of consistent hashing: chance chooses its backends, on each node anew.
    #[error("{map} has no room for a table of Service {service}: chance chooses its backends")]
    Table {
        /// The full map.
        map: &'static str,
        /// Which Service.
        service: NamespacedName,
    },
    /// Ranges that see pods' own addresses: the old ones stay, and so does the node's address.
    #[error("{map} has no room for {count} more ranges of the cluster")]
    Node {
        /// The full map.
        map: &'static str,
        /// How many are too many.
        count: usize,
    },
    /// A frontend that two Services ask for; the first by name has it.
    #[error("{} of Service {service} is Service {holder}'s already", words(frontend))]
    Contested {
        /// The frontend.
        frontend: FrontendKey,
        /// Which Service goes without.
        service: NamespacedName,
        /// Which Service has it.
        holder: NamespacedName,
    },
    /// ClusterNetworkPolicies of one tier with the same priority; they are asked in this order. Nothing is left out.
    #[error("ClusterNetworkPolicies {} of tier {} share priority {priority}: asked in this order", list(policies), tier.name())]
    Tied {
        /// Their tier.
        tier: Tier,
        /// Their priority.
        priority: u16,
        /// Their names, in order.
        policies: Vec<String>,
    },
}

impl Rejection {
    /// The map that was too small for rules or their peers.
    fn full_map(&self) -> Option<&'static str> {
        match self {
            Self::RuleSet { map, .. }
            | Self::Addresses { map, .. }
            | Self::Policies { map }
            | Self::Narrowed { map, .. }
            | Self::Closed { map, .. } => Some(map),
            Self::Audit { .. }
            | Self::Endpoint { .. }
            | Self::Service { .. }
            | Self::Table { .. }
            | Self::Node { .. }
            | Self::Contested { .. }
            | Self::Tied { .. } => None,
        }
    }
}

fn words(key: &FrontendKey) -> String {
    let port = u16::from_be_bytes(key.port);
    let protocol = match key.protocol {
        protocol::TCP => "TCP".to_owned(),
        protocol::UDP => "UDP".to_owned(),
        protocol::SCTP => "SCTP".to_owned(),
        number => number.to_string(),
    };
    match key.addr {
        FrontendKey::NODE_V4 => format!("node port {port}/{protocol} over IPv4"),
        FrontendKey::NODE_V6 => format!("node port {port}/{protocol} over IPv6"),
        addr => format!("{addr} port {port}/{protocol}"),
    }
}

fn list<T: ToString>(policies: &[T]) -> String {
    policies.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The plan that makes the maps hold what is wanted.
pub fn diff(desired: &DesiredState, actual: &Actual, limits: &Limits) -> Outcome {
    Differ::new(*limits).plan(desired, &Changes::default(), actual)
}

/// Makes one plan after another; each costs about what has changed since the last.
#[derive(Clone, Debug)]
pub struct Differ {
    limits: Limits,
    /// What the maps hold once the last plan has been carried out; `None` when that has to be read from them.
    memory: Option<Memory>,
}

#[derive(Clone, Debug)]
struct Memory {
    services: service::Services,
    policy_rejected: Vec<Rejection>,
    node_rejected: Vec<Rejection>,
    in_force: BTreeSet<EndpointId>,
}

impl Differ {
    /// Knows nothing of the maps yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, memory: None }
    }

    /// To be told when a plan was not carried out whole, or somebody else wrote to the maps: the next plan is made of
    /// everything the maps hold.
    pub fn forget(&mut self) {
        self.memory = None;
    }

    /// To be told, by who carries out what stands behind a plan's [`Step::Grace`] later than the next plan, when all of it is
    /// done: until then plans avoid what it touches, while there is other room.
    pub fn cleared(&mut self) {
        if let Some(memory) = &mut self.memory {
            memory.services.cleared();
        }
    }

    /// The plan that makes the maps hold what is wanted; `changes` are those of `desired` since the last plan, which was carried
    /// out whole. The first plan looks at everything.
    pub fn plan(&mut self, desired: &DesiredState, changes: &Changes, actual: &Actual) -> Outcome {
        let limits = &self.limits;
        let before = self.memory.take();
        // What did not fit may fit now.
        let keeps = |rejected: fn(&Memory) -> &Vec<Rejection>| {
            before.as_ref().is_some_and(|memory| rejected(memory).is_empty())
        };
        let plans_policy = changes.policy || !keeps(|memory| &memory.policy_rejected);
        let plans_node = changes.node || !keeps(|memory| &memory.node_rejected);
        let mut numbers = NumberSource::new(actual, plans_policy);
        let mut policy = Phases::default();
        if plans_policy {
            policy = policy::plan(desired, actual, limits, &mut numbers);
        } else if let Some(before) = &before {
            policy.in_force.clone_from(&before.in_force);
        }
        let node = if plans_node { node::plan(&desired.node, actual, limits) } else { Phases::default() };
        let (services, service) = match before {
            None => service::Services::first_plan(desired, actual, limits, &mut numbers),
            Some(Memory { mut services, .. }) => {
                let phases = services.plan(&changes.services, desired, actual, limits, &mut numbers);
                (services, phases)
            }
        };
        self.memory = Some(Memory {
            services,
            policy_rejected: policy.rejected.clone(),
            node_rejected: node.rejected.clone(),
            in_force: policy.in_force.clone(),
        });
        let mut outcome = in_order(actual, &numbers, policy, node, service);
        outcome.rejected.extend(ties(desired));
        outcome
    }
}

/// ClusterNetworkPolicies that share a place.
fn ties(desired: &DesiredState) -> impl Iterator<Item = Rejection> {
    desired.ties.iter().map(|((tier, priority), names)| Rejection::Tied {
        tier: *tier,
        priority: *priority,
        policies: names.iter().cloned().collect(),
    })
}

/// Puts the halves together.
fn in_order(
    actual: &Actual,
    numbers: &NumberSource,
    policy: Phases,
    node: Phases,
    service: Phases,
) -> Outcome {
    let epoch = next_epoch(actual, !policy.switch.is_empty());
    let mut plan: Plan = numbers.steps();
    let is_intended = |epoch: &u32| actual.numbers.get(&Numbers::Epoch) == Some(epoch);
    plan.extend(epoch.filter(|epoch| !is_intended(epoch)).map(|epoch| Step::Number(Numbers::Epoch, epoch)));
    for prepare in [policy.prepare, node.prepare, service.prepare] {
        plan.extend(prepare);
    }
    for switch in [policy.switch, node.switch, service.switch] {
        plan.extend(switch);
    }
    plan.extend(epoch.map(Step::Epoch));
    let clear: Plan = [policy.clear, node.clear, service.clear].into_iter().flatten().collect();
    if !clear.is_empty() {
        plan.push(Step::Grace);
    }
    plan.extend(clear);
    let rejected = [policy.rejected, node.rejected, service.rejected].into_iter().flatten().collect();
    Outcome { plan, rejected, in_force: policy.in_force }
}

/// The epoch to write, when verdicts change or a plan that changed them was cut short.
fn next_epoch(actual: &Actual, verdicts_change: bool) -> Option<u32> {
    let intended = actual.numbers.get(&Numbers::Epoch);
    let was_cut_short = intended.is_some_and(|intended| *intended != actual.epoch);
    let next = actual.epoch.checked_add(1).unwrap_or(Numbers::Epoch.first());
    (verdicts_change || was_cut_short).then_some(next)
}

/// The steps of one half of the state, by phase.
#[derive(Debug, Default)]
struct Phases {
    /// What no packet can meet yet.
    prepare: Plan,
    /// What packets meet at once, in order.
    switch: Plan,
    /// What no packet meets any more, after a grace period.
    clear: Plan,
    rejected: Vec<Rejection>,
    in_force: BTreeSet<EndpointId>,
}

/// Gives out numbers.
#[derive(Clone, Debug)]
struct NumberSource {
    next: BTreeMap<Numbers, u32>,
    moved: BTreeSet<Numbers>,
}

impl NumberSource {
    /// Knows what is taken; of identities only when some are to be given out.
    fn new(actual: &Actual, identities: bool) -> Self {
        let carried = identities.then(|| actual.ipcache.values().max().map(|id| id.0)).flatten();
        // What is in the maps is taken, whatever the counters say: they may have been lost.
        let used = [
            (Numbers::Endpoint, actual.endpoint_meta.keys().next_back().map(|id| id.0)),
            (Numbers::Identity, actual.identity_meta.keys().next_back().map(|id| id.0)),
            (Numbers::Identity, carried),
            (Numbers::RuleSet, actual.rule_set_meta.keys().next_back().map(|id| id.0)),
            (Numbers::RuleSet, actual.rules.keys().next_back().map(|key| key.key.rule_set.0)),
            (Numbers::Rule, actual.rule_meta.keys().next_back().map(|id| id.0)),
            (Numbers::Policy, actual.policy_meta.keys().next_back().map(|id| id.0)),
            (Numbers::Service, actual.service_meta.keys().next_back().map(|id| id.0)),
            (Numbers::Backend, actual.backends.keys().next_back().map(|id| id.0)),
        ];
        let mut next: BTreeMap<_, _> = Numbers::ALL
            .map(|kind| (kind, actual.numbers.get(&kind).copied().unwrap_or_default().max(kind.first())))
            .into();
        let mut moved = BTreeSet::new();
        for (kind, used) in used {
            let counter = next.entry(kind).or_default();
            if used.is_some_and(|used| used >= *counter) {
                *counter = used.unwrap_or_default().saturating_add(1);
                moved.insert(kind);
            }
        }
        Self { next, moved }
    }

    fn take(&mut self, kind: Numbers) -> u32 {
        let counter = self.next.entry(kind).or_insert(kind.first());
        let number = *counter;
        *counter = number.checked_add(1).expect("fewer than 2^32 numbers of a kind are ever used");
        self.moved.insert(kind);
        number
    }

    /// Marks a number that somebody else gave out.
    fn pass(&mut self, kind: Numbers, number: u32) {
        let counter = self.next.entry(kind).or_insert(kind.first());
        if number >= *counter {
            *counter = number.saturating_add(1);
            self.moved.insert(kind);
        }
    }

    fn steps(&self) -> Plan {
        self.moved.iter().map(|kind| Step::Number(*kind, self.next[kind])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trie_keeps_an_entry_free_for_changes_in_place() {
        let limits = Limits::default();
        for (limit, map) in [(limits.rules, maps::RULES), (limits.ipcache_cidrs, maps::IPCACHE_CIDRS)] {
            assert_eq!(u32::try_from(limit + 1), Ok(map.max_entries), "{}", map.name);
        }
    }

    #[test]
    fn an_epoch_that_was_intended_and_not_written_is_made_good() {
        for epoch in [0, 7, u32::MAX] {
            let intended = |number| BTreeMap::from([(Numbers::Epoch, number)]);
            let actual = Actual { epoch, numbers: intended(epoch), ..Actual::default() };
            assert_eq!(diff(&DesiredState::default(), &actual, &Limits::default()).plan, []);
            let next = next_epoch(&actual, true).expect("verdicts change");
            assert!(next >= Numbers::Epoch.first() && next != epoch);
            let cut_short = Actual { numbers: intended(next), ..actual };
            let plan = diff(&DesiredState::default(), &cut_short, &Limits::default()).plan;
            assert_eq!(plan, [Step::Epoch(next)]);
        }
    }
}
