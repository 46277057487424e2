//! ClusterNetworkPolicies of random histories, by the numbers of their parts.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::world;

/// A policy.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    mode: u8,
    tier: u8,
    priority: u8,
    subject: u8,
    rules: [Vec<Rule>; 2],
}

/// A rule.
#[derive(Clone, Debug)]
struct Rule {
    action: u8,
    peer: u8,
    ports: u8,
}

/// The first peer that is a range.
const FIRST_RANGE: u8 = 6;

pub(crate) fn shape() -> impl Strategy<Value = Shape> {
    let rule = (0u8..3, 0u8..9, 0u8..6).prop_map(|(action, peer, ports)| Rule { action, peer, ports });
    let rules = || prop::collection::vec(rule.clone(), 0..4);
    let place = (world::mode(), 0u8..3, 0u8..3, 0u8..5);
    (place, rules(), rules()).prop_map(|((mode, tier, priority, subject), ingress, egress)| Shape {
        mode,
        tier,
        priority,
        subject,
        rules: [ingress, egress],
    })
}

pub(crate) fn name(number: u8) -> String {
    format!("cluster-{number}")
}

impl Shape {
    /// The same with peers that are pods instead of ranges.
    pub(crate) fn without_ranges(&mut self) {
        self.rules.iter_mut().flatten().for_each(|rule| rule.peer %= FIRST_RANGE);
    }

    pub(crate) fn object(&self, number: u8) -> Value {
        let rules = |direction: usize, word: &str| -> Vec<Value> {
            let rules = self.rules[direction].iter();
            rules
                .map(|rule| {
                    let action = ["Accept", "Deny", "Pass"][usize::from(rule.action % 3)];
                    json!({"action": action, word: [peer(rule.peer)], "protocols": protocols(rule.ports)})
                })
                .collect()
        };
        let subject = match self.subject {
            0 | 1 => json!({"namespaces": {}}),
            2 => json!({"namespaces": {"matchLabels": {"team": "1"}}}),
            3 => {
                json!({"pods": {"namespaceSelector": not_team(), "podSelector": {"matchLabels": {"app": "0"}}}})
            }
            _ => json!({}),
        };
        json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha2",
            "kind": "ClusterNetworkPolicy",
            "metadata": {"name": name(number), "annotations": world::annotations(self.mode)},
            "spec": {
                "tier": if self.tier == 0 { "Baseline" } else { "Admin" },
                "priority": self.priority,
                "subject": subject,
                "ingress": rules(0, "from"),
                "egress": rules(1, "to"),
            },
        })
    }
}

fn not_team() -> Value {
    json!({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["1"]}]})
}

fn peer(number: u8) -> Value {
    match number {
        0 => json!({"namespaces": {}}),
        1 => json!({"namespaces": {"matchLabels": {"team": "1"}}}),
        2 => json!({"namespaces": not_team()}),
        3 => json!({"pods": {"podSelector": {"matchLabels": {"app": "0"}}}}),
        4 => json!({"pods": {"podSelector": {"matchLabels": {"app": "1"}}, "namespaceSelector": not_team()}}),
        5 => json!({"pods": {"podSelector": {"matchLabels": {"app": "1"}}}}),
        6 => json!({"networks": ["10.0.0.0/16", "fd00::1:0/112"]}),
        7 => json!({"networks": ["10.0.1.0/24", "::/0"]}),
        _ => json!({"nodes": {}}),
    }
}

fn protocols(number: u8) -> Value {
    let port = |number: u16| json!({"destinationPort": {"number": number}});
    match number {
        0 => json!([{"tcp": port(80)}]),
        1 => json!([{"tcp": {"destinationPort": {"range": {"start": 79, "end": 82}}}}, {"udp": port(80)}]),
        2 => json!([{"destinationNamedPort": "http"}]),
        _ => json!([]),
    }
}
