//! Which policies apply to each local pod, as rule sets shared by content.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sluice_abi::{Direction, EndpointId, PolicyMode};

use crate::{
    cluster::{Action, Cluster, ClusterPolicy, Pod, PortMatch, Selection, Tier},
    desired::{Digest, RuleSet, RuleSource, SetRule},
    object::PolicyName,
};

/// The rule sets of the local endpoints that are served, enforced and shadow.
#[derive(Clone, Debug, Default)]
pub(super) struct Sets {
    of: BTreeMap<EndpointId, EndpointSets>,
    sets: BTreeMap<Digest, Arc<RuleSet>>,
}

/// The rule sets of one endpoint, by [`Direction`].
#[derive(Clone, Copy, Debug)]
pub(super) struct EndpointSets {
    /// Those that are enforced.
    pub(super) enforced: [Digest; 2],
    /// Those that would be if audited policies were enforced too, where they differ.
    pub(super) shadow: [Option<Digest>; 2],
}

impl Sets {
    /// Compiles the rule sets of these endpoints anew.
    pub(super) fn update(&mut self, cluster: &Cluster, endpoints: &BTreeSet<EndpointId>) {
        for id in endpoints {
            self.of.remove(id);
            let Some(endpoint) = cluster.endpoints().get(id) else { continue };
            if let Some(pod) = super::served_pod(cluster, endpoint) {
                let sets = Direction::ALL.map(|direction| {
                    let of = |mode| rule_set(cluster, &endpoint.namespace, pod, direction, mode);
                    let enforced = of(PolicyMode::Enforce);
                    let shadow = (!cluster.audited().is_empty()).then(|| of(PolicyMode::Audit));
                    let shadow = shadow.filter(|shadow| *shadow != enforced);
                    (self.intern(enforced), shadow.map(|shadow| self.intern(shadow)))
                });
                let (enforced, shadow) = (sets.map(|(enforced, _)| enforced), sets.map(|(_, shadow)| shadow));
                self.of.insert(*id, EndpointSets { enforced, shadow });
            }
        }
        let of_endpoint =
            |sets: &EndpointSets| sets.enforced.into_iter().chain(sets.shadow.into_iter().flatten());
        let used: BTreeSet<Digest> = self.of.values().flat_map(of_endpoint).collect();
        self.sets.retain(|digest, _| used.contains(digest));
    }

    fn intern(&mut self, set: RuleSet) -> Digest {
        let digest = Digest::of(&set.text());
        self.sets.entry(digest).or_insert_with(|| Arc::new(set));
        digest
    }

    /// The rule sets of an endpoint, when it is served.
    pub(super) fn of(&self, endpoint: EndpointId) -> Option<EndpointSets> {
        self.of.get(&endpoint).copied()
    }

    /// All rule sets in use.
    pub(super) fn rule_sets(&self) -> BTreeMap<Digest, Arc<RuleSet>> {
        self.sets.clone()
    }
}

/// The policies of a pod: those that are enforced; under [`PolicyMode::Audit`] the audited ones among them.
fn rule_set(
    cluster: &Cluster,
    namespace: &str,
    pod: &Pod,
    direction: Direction,
    mode: PolicyMode,
) -> RuleSet {
    let labels = cluster.namespace_labels(namespace);
    let counts = |policy: PolicyMode| mode == PolicyMode::Audit || policy == PolicyMode::Enforce;
    let of_cluster = cluster.by_precedence().filter(|(_, policy)| counts(policy.mode));
    let of_cluster = of_cluster.flat_map(|(name, policy)| match policy.selects(pod, &labels) {
        Selection::No => Vec::new(),
        selection @ (Selection::Possibly | Selection::Surely) => {
            cluster_rules(name, policy, selection, direction, pod)
        }
    });
    let (admin, baseline): (Vec<_>, Vec<_>) = of_cluster.partition(|rule| rule.tier == Tier::Admin);
    let mut set = RuleSet { direction, isolating: BTreeSet::new(), rules: admin };
    for (name, policy) in cluster.policies_of(namespace) {
        if !policy.isolates[direction as usize] || !policy.pods.matches(&pod.labels) {
            continue;
        }
        let policy_name = PolicyName::NetworkPolicy(name.clone());
        if !counts(cluster.mode_of(&policy_name)) {
            continue;
        }
        set.isolating.insert(name.clone());
        for (index, rule) in policy.rules[direction as usize].iter().enumerate() {
            let source = source(policy_name.clone(), direction, index);
            let (tier, action, peers) = (Tier::NetworkPolicy, Action::Accept, rule.peers.clone());
            let ports = ports(&rule.ports, direction, pod);
            set.rules.push(SetRule { source, tier, action, peers, ports });
        }
    }
    // "v1.NetworkPolicy always makes a final decision for selected pods."
    if set.isolating.is_empty() {
        set.rules.extend(baseline);
    }
    set
}

/// The rules of a ClusterNetworkPolicy for a pod that it selects, or may select.
///
/// A Pass lets other policies decide, which may allow: where it is not sure that it applies, the packet is denied.
fn cluster_rules(
    name: &str,
    policy: &ClusterPolicy,
    selection: Selection,
    direction: Direction,
    pod: &Pod,
) -> Vec<SetRule> {
    let mut rules = Vec::new();
    for (index, rule) in policy.rules[direction as usize].iter().enumerate() {
        let possible =
            || rule.peers.iter().map(|peer| peer.possibly().unwrap_or_else(|| peer.clone())).collect();
        let is_sure = rule.peers.iter().all(|peer| peer.possibly().is_none());
        let steps = match (rule.action, selection) {
            (_, Selection::No) | (Action::Accept, Selection::Possibly) => vec![],
            (Action::Accept, Selection::Surely) => vec![(Action::Accept, rule.peers.clone())],
            (Action::Deny, _) | (Action::Pass, Selection::Possibly) => vec![(Action::Deny, possible())],
            (Action::Pass, Selection::Surely) if is_sure => vec![(Action::Pass, rule.peers.clone())],
            (Action::Pass, Selection::Surely) => {
                vec![(Action::Pass, rule.peers.clone()), (Action::Deny, possible())]
            }
        };
        rules.extend(steps.into_iter().map(|(action, peers)| SetRule {
            source: source(PolicyName::ClusterNetworkPolicy(name.to_owned()), direction, index),
            tier: policy.tier,
            action,
            peers,
            ports: ports(&rule.ports, direction, pod),
        }));
    }
    rules
}

fn source(policy: PolicyName, direction: Direction, index: usize) -> RuleSource {
    // The API server's limit on an object's size (1.5 MiB) keeps lists far shorter.
    RuleSource { policy, direction, index: u16::try_from(index).unwrap_or(u16::MAX) }
}

/// The ports of a rule; `None` is every port and every protocol.
fn ports(ports: &BTreeSet<PortMatch>, direction: Direction, pod: &Pod) -> Option<BTreeSet<PortMatch>> {
    let resolved = ports.iter().filter_map(|port| match (direction, port) {
        // Traffic to the pod: the name is one of its own ports. A name it does not have matches nothing.
        (Direction::Ingress, PortMatch::Named { protocol, name }) => pod
            .port(name, *protocol)
            .map(|number| PortMatch::Range { protocol: *protocol, first: number, last: number }),
        (Direction::Ingress | Direction::Egress, port) => Some(port.clone()),
    });
    (!ports.is_empty()).then(|| resolved.collect())
}
