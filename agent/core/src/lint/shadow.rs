//! Rules that add nothing, because another one allows all that they allow, and more.
//!
//! Only what can be told from the words counts: a selector is narrower when it asks for everything the other one asks for.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;

use super::{Code, Finding, Policy, Rule, Severity, blocks::is_within};
use crate::object::{IpBlock, LabelSelector, NetworkPolicyPeer, NetworkPolicyPort, PortName};

pub(super) fn lint(policies: &[Policy<'_>], found: &mut BTreeSet<Finding>) {
    for policy in policies.iter().filter(|policy| !policy.pods.is_empty()) {
        for rule in policy.rules() {
            let counts = |other: &&Policy<'_>| !other.is_audited || policy.is_audited;
            let wider = policies.iter().filter(counts).filter(|other| selects_all_of(other, policy));
            let mut wider = wider.flat_map(|other| other.rules().map(move |wide| (other, wide)));
            let shadowing = wider.find(|(other, wide)| {
                let is_itself = other.name == policy.name && wide.index == rule.index;
                // Of two that say the same the first one counts.
                let is_first = (other.name, wide.index) < (policy.name, rule.index);
                wide.direction == rule.direction
                    && !is_itself
                    && covers(wide, &rule)
                    && (is_first || !(covers(&rule, wide) && selects_all_of(policy, other)))
            });
            if let Some((other, wide)) = shadowing {
                let whose =
                    if other.name == policy.name { String::new() } else { format!(" of {}", other.name) };
                let message =
                    format!("adds nothing to {}{whose}, which allows all this and more", wide.field());
                let fix = "remove it, or narrow the wider one if this was meant to be the limit";
                let finding = policy.finding(Severity::Warning, Code::RuleShadowed, message, fix);
                found.insert(Finding { field: Some(rule.field()), ..finding });
            }
        }
    }
}

/// Whether a policy selects all the pods that another one selects.
fn selects_all_of(wide: &Policy<'_>, narrow: &Policy<'_>) -> bool {
    wide.name.namespace == narrow.name.namespace
        && narrow.pods.iter().all(|pod| wide.pods.iter().any(|other| other.name == pod.name))
}

fn covers(wide: &Rule<'_>, narrow: &Rule<'_>) -> bool {
    let peers = wide.peers.is_empty()
        || (!narrow.peers.is_empty()
            && narrow.peers.iter().all(|peer| wide.peers.iter().any(|other| covers_peer(other, peer))));
    let ports = wide.ports.is_empty()
        || (!narrow.ports.is_empty()
            && narrow.ports.iter().all(|port| wide.ports.iter().any(|other| covers_port(other, port))));
    peers && ports
}

fn covers_peer(wide: &NetworkPolicyPeer, narrow: &NetworkPolicyPeer) -> bool {
    match (&wide.ip_block, &narrow.ip_block) {
        (Some(wide), Some(narrow)) => covers_block(wide, narrow),
        (None, None) => {
            let namespaces = match (&wide.namespace_selector, &narrow.namespace_selector) {
                (None, None) => true,
                (Some(wide), Some(narrow)) => covers_labels(wide, narrow),
                // The policy's own namespace is one of all.
                (Some(wide), None) => *wide == LabelSelector::default(),
                (None, Some(_)) => false,
            };
            let everything = LabelSelector::default();
            let pods =
                |peer: &NetworkPolicyPeer| peer.pod_selector.clone().unwrap_or_else(|| everything.clone());
            namespaces && covers_labels(&pods(wide), &pods(narrow))
        }
        (Some(_), None) | (None, Some(_)) => false,
    }
}

fn covers_labels(wide: &LabelSelector, narrow: &LabelSelector) -> bool {
    let has = |(key, value): (&String, &String)| narrow.match_labels.get(key) == Some(value);
    wide.match_labels.iter().all(has)
        && wide.match_expressions.iter().all(|expression| narrow.match_expressions.contains(expression))
}

fn covers_block(wide: &IpBlock, narrow: &IpBlock) -> bool {
    let range = |text: &String| text.parse::<IpNetwork>().ok();
    let (Some(wide_cidr), Some(narrow_cidr)) = (range(&wide.cidr), range(&narrow.cidr)) else { return false };
    let excepted: Vec<IpNetwork> = narrow.except.iter().filter_map(range).collect();
    let is_harmless = |except: IpNetwork| {
        let is_apart = !is_within(&except, &narrow_cidr) && !is_within(&narrow_cidr, &except);
        is_apart || excepted.iter().any(|own| is_within(&except, own))
    };
    is_within(&narrow_cidr, &wide_cidr)
        && wide.except.iter().all(|except| range(except).is_some_and(is_harmless))
}

fn covers_port(wide: &NetworkPolicyPort, narrow: &NetworkPolicyPort) -> bool {
    let range = |port: &NetworkPolicyPort| match port.port {
        Some(PortName::Number(first)) => Some((first, port.end_port.unwrap_or(first))),
        Some(PortName::Name(_)) | None => None,
    };
    wide.protocol == narrow.protocol
        && match (range(wide), range(narrow)) {
            (Some((first, last)), Some((narrow_first, narrow_last))) => {
                first <= narrow_first && narrow_last <= last
            }
            _ => wide.port.is_none() || (wide.port == narrow.port && wide.end_port == narrow.end_port),
        }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read<T: serde::de::DeserializeOwned>(value: &Value) -> T {
        serde_json::from_value(value.clone()).expect("a part of a rule")
    }

    fn peers(wide: &Value, narrow: &Value) -> bool {
        covers_peer(&read(wide), &read(narrow))
    }

    fn ports(wide: &Value, narrow: &Value) -> bool {
        covers_port(&read(wide), &read(narrow))
    }

    fn blocks(wide: &Value, narrow: &Value) -> bool {
        covers_block(&read(wide), &read(narrow))
    }

    #[test]
    fn a_selector_that_asks_for_more_is_narrower() {
        let web = json!({"matchLabels": {"app": "web"}});
        let web_of_shop = json!({"matchLabels": {"app": "web", "team": "shop"}});
        let has_app = json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]});
        let pods = |selector: &Value| json!({"podSelector": selector});
        assert!(peers(&pods(&web), &pods(&web_of_shop)) && peers(&pods(&json!({})), &pods(&web)));
        assert!(!peers(&pods(&web_of_shop), &pods(&web)) && !peers(&pods(&has_app), &pods(&web)));
        let everywhere = json!({"namespaceSelector": {}});
        assert!(peers(&everywhere, &pods(&web)) && !peers(&pods(&json!({})), &everywhere));
        let of_shop = json!({"namespaceSelector": web_of_shop, "podSelector": web});
        assert!(peers(&everywhere, &of_shop) && !peers(&of_shop, &pods(&web)));
        assert!(!peers(&json!({"ipBlock": {"cidr": "0.0.0.0/0"}}), &pods(&web)));
    }

    #[test]
    fn a_range_is_wider_when_its_exceptions_are_excepted_too() {
        let block = |cidr: &str, except: &[&str]| json!({"cidr": cidr, "except": except});
        let (ten, one) = (block("10.0.0.0/8", &[]), block("10.1.0.0/16", &[]));
        assert!(blocks(&ten, &one) && blocks(&ten, &ten) && !blocks(&one, &ten));
        assert!(!blocks(&block("10.0.0.0/8", &["10.1.2.0/24"]), &one));
        assert!(!blocks(&block("10.0.0.0/8", &["10.0.0.0/9"]), &one));
        assert!(blocks(&block("10.0.0.0/8", &["10.2.0.0/16"]), &one));
        assert!(blocks(&block("10.0.0.0/8", &["10.1.2.0/24"]), &block("10.1.0.0/16", &["10.1.2.0/23"])));
        assert!(!blocks(&block("::/0", &[]), &one) && !blocks(&block("no range", &[]), &one));
    }

    #[test]
    fn a_port_lies_in_a_range_of_its_protocol() {
        let port = |first: i64, last: i64| json!({"port": first, "endPort": last});
        assert!(ports(&port(80, 90), &json!({"port": 80})) && ports(&port(80, 90), &port(81, 90)));
        assert!(!ports(&port(80, 90), &port(80, 91)) && !ports(&json!({"port": 80}), &port(80, 81)));
        assert!(ports(&json!({}), &json!({"port": "http"})) && !ports(&json!({"port": "http"}), &json!({})));
        assert!(ports(&json!({"port": "http"}), &json!({"port": "http"})));
        assert!(!ports(&json!({"port": "http"}), &json!({"port": 80})));
        assert!(!ports(&json!({"protocol": "UDP"}), &json!({"port": 80})));
    }
}
