//! Which policies apply to each local pod, as rule sets shared by content.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sluice_abi::{Direction, EndpointId};

use crate::{
    cluster::{Cluster, Pod, PolicyRule, PortMatch},
    desired::{Digest, RuleSet, RuleSource, SetRule},
    object::NamespacedName,
};

/// The rule sets of the local endpoints that are served.
#[derive(Clone, Debug, Default)]
pub(super) struct Sets {
    of: BTreeMap<EndpointId, [Digest; 2]>,
    sets: BTreeMap<Digest, Arc<RuleSet>>,
}

impl Sets {
    /// Compiles the rule sets of these endpoints anew.
    pub(super) fn update(&mut self, cluster: &Cluster, endpoints: &BTreeSet<EndpointId>) {
        for id in endpoints {
            self.of.remove(id);
            let Some(endpoint) = cluster.endpoints().get(id) else { continue };
            if let Some(pod) = super::served_pod(cluster, endpoint) {
                let sets = Direction::ALL.map(|direction| {
                    let set = rule_set(cluster, &endpoint.namespace, pod, direction);
                    let digest = Digest::of(&set.text());
                    self.sets.entry(digest).or_insert_with(|| Arc::new(set));
                    digest
                });
                self.of.insert(*id, sets);
            }
        }
        let used: BTreeSet<Digest> = self.of.values().flatten().copied().collect();
        self.sets.retain(|digest, _| used.contains(digest));
    }

    /// The rule sets of an endpoint, by [`Direction`], when it is served.
    pub(super) fn of(&self, endpoint: EndpointId) -> Option<[Digest; 2]> {
        self.of.get(&endpoint).copied()
    }

    /// All rule sets in use.
    pub(super) fn rule_sets(&self) -> BTreeMap<Digest, Arc<RuleSet>> {
        self.sets.clone()
    }
}

fn rule_set(cluster: &Cluster, namespace: &str, pod: &Pod, direction: Direction) -> RuleSet {
    let mut set = RuleSet { direction, isolating: BTreeSet::new(), rules: Vec::new() };
    for (name, policy) in cluster.policies_of(namespace) {
        if !policy.isolates[direction as usize] || !policy.pods.matches(&pod.labels) {
            continue;
        }
        set.isolating.insert(name.clone());
        let rules = policy.rules[direction as usize].iter().enumerate();
        set.rules.extend(rules.map(|(index, rule)| set_rule(name, direction, index, rule, pod)));
    }
    set
}

fn set_rule(
    policy: &NamespacedName,
    direction: Direction,
    index: usize,
    rule: &PolicyRule,
    pod: &Pod,
) -> SetRule {
    // The API server's limit on an object's size (1.5 MiB) keeps lists far shorter.
    let index = u16::try_from(index).unwrap_or(u16::MAX);
    let source = RuleSource { policy: policy.clone(), direction, index };
    let ports = rule.ports.iter().filter_map(|port| match (direction, port) {
        // Traffic to the pod: the name is one of its own ports. A name it does not have matches nothing.
        (Direction::Ingress, PortMatch::Named { protocol, name }) => pod
            .port(name, *protocol)
            .map(|number| PortMatch::Range { protocol: *protocol, first: number, last: number }),
        (Direction::Ingress | Direction::Egress, port) => Some(port.clone()),
    });
    let ports = (!rule.ports.is_empty()).then(|| ports.collect());
    SetRule { source, peers: rule.peers.clone(), ports }
}
