//! Of the rules that did not match, the one that came closest, and what it lacks.

use std::{collections::BTreeSet, fmt};

use serde::Serialize;
use sluice_abi::{Addr, protocol};

use super::side::RuleName;
use crate::{
    cluster::{Action, PortMatch},
    desired::{RuleSet, SetRule},
    object::ObjectKey,
    prefix::in_range,
    selector::{Block, Namespaces, Peer, Selector},
    world::{Place, World},
};

/// A rule that did not match.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Nearest {
    /// Which rule.
    pub rule: RuleName,
    /// What of it did not match.
    pub misses: Vec<Miss>,
    /// What would have to be otherwise, one sentence for each miss.
    pub needed: Vec<String>,
}

/// A part of a rule that did not match.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Miss {
    /// The port is none of the rule's.
    Port,
    /// The protocol is none of the rule's.
    Protocol,
    /// The other end is none of the rule's peers.
    Peer,
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Port => "port",
            Self::Protocol => "protocol",
            Self::Peer => "peer",
        })
    }
}

/// What a rule is held against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    /// The other end.
    pub(super) peer: Addr,
    /// IANA protocol number.
    pub(super) protocol: u8,
    /// The destination port.
    pub(super) port: u16,
}

/// The accepting rule that misses the fewest parts; of equals one that misses the port rather than the peer, then the first.
pub(super) fn of(world: &World, place: &Place, set: &RuleSet, packet: &Packet) -> Option<Nearest> {
    let satisfied = place.class(packet.peer).map(|class| &class.0);
    let holds = |selector: &Selector| {
        satisfied.is_some_and(|satisfied| satisfied.iter().any(|one| **one == *selector))
    };
    let missing = |rule: &'_ SetRule| {
        let mut misses = BTreeSet::new();
        if !rule.peers.iter().any(|peer| *peer == Peer::Any || holds(&Selector::Peer(peer.clone()))) {
            misses.insert(Miss::Peer);
        }
        misses.extend(port_misses(rule, packet, &holds));
        misses
    };
    let accepting = set.rules.iter().filter(|rule| rule.action == Action::Accept);
    let rules = accepting.map(|rule| (rule, missing(rule)));
    let (rule, misses) = rules.min_by_key(|(_, misses)| (misses.len(), misses.clone()))?;
    let mut needed: Vec<String> = misses
        .iter()
        .map(|miss| match miss {
            Miss::Peer => peer_needed(world, rule, packet.peer),
            Miss::Port | Miss::Protocol => format!("the rule is about {} only", ports_text(rule)),
        })
        .collect();
    // Port and protocol have one sentence.
    needed.dedup();
    Some(Nearest {
        rule: RuleName {
            kind: ObjectKey::from(rule.source.policy.clone()).kind(),
            policy: rule.source.policy.to_string(),
            direction: rule.source.direction.name(),
            index: rule.source.index,
        },
        needed,
        misses: misses.into_iter().collect(),
    })
}

/// What of a rule's ports does not match; of several the best.
fn port_misses(rule: &SetRule, packet: &Packet, holds: &impl Fn(&Selector) -> bool) -> BTreeSet<Miss> {
    let Some(ports) = &rule.ports else { return BTreeSet::new() };
    if !matches!(packet.protocol, protocol::TCP | protocol::UDP | protocol::SCTP) {
        return BTreeSet::from([Miss::Protocol]);
    }
    let named = |protocol: u8, name: &str| {
        rule.peers.iter().any(|peer| {
            let (peer, name) = (peer.clone(), name.to_owned());
            holds(&Selector::Port { peer, name, protocol, number: packet.port })
        })
    };
    let of = |port: &PortMatch| {
        let (number, has_port) = match port {
            PortMatch::All { protocol } => (*protocol, true),
            PortMatch::Range { protocol, first, last } => {
                (*protocol, (*first..=*last).contains(&packet.port))
            }
            PortMatch::Named { protocol, name } => (*protocol, named(*protocol, name)),
        };
        let port = (!has_port).then_some(Miss::Port);
        let protocol = (number != packet.protocol).then_some(Miss::Protocol);
        port.into_iter().chain(protocol).collect::<BTreeSet<_>>()
    };
    // A name that none of the pods has leaves a list of ports that nothing matches.
    let best = ports.iter().map(of).min_by_key(|misses| (misses.len(), misses.clone()));
    best.unwrap_or_else(|| BTreeSet::from([Miss::Port]))
}

fn ports_text(rule: &SetRule) -> String {
    let ports = rule.ports.iter().flatten().map(|port| match port {
        PortMatch::All { protocol } => format!("every {} port", protocol_name(*protocol)),
        PortMatch::Range { protocol, first, last } if first == last => {
            format!("{} {first}", protocol_name(*protocol))
        }
        PortMatch::Range { protocol, first, last } => {
            format!("{} {first}-{last}", protocol_name(*protocol))
        }
        PortMatch::Named { protocol, name } => format!("{} port {name:?}", protocol_name(*protocol)),
    });
    let ports: Vec<String> = ports.collect();
    if ports.is_empty() { "named ports that the pod does not have".to_owned() } else { ports.join(", ") }
}

const fn protocol_name(number: u8) -> &'static str {
    match number {
        protocol::TCP => "TCP",
        protocol::UDP => "UDP",
        _ => "SCTP",
    }
}

/// Why the other end is none of the rule's peers.
fn peer_needed(world: &World, rule: &SetRule, addr: Addr) -> String {
    let reasons: Vec<String> = rule.peers.iter().map(|peer| peer_reason(world, peer, addr)).collect();
    if reasons.is_empty() { "the rule has no peer".to_owned() } else { reasons.join("; ") }
}

fn peer_reason(world: &World, peer: &Peer, addr: Addr) -> String {
    match peer {
        Peer::Any => "every peer matches".to_owned(),
        Peer::Block(block) => block_reason(block, addr),
        Peer::Pods { namespaces, pods } => {
            let Some(pod) = world.pod_at(addr) else {
                let what = if world.is_node(addr) { "a node's address" } else { "no pod's address" };
                return format!("{addr} is {what}, and the rule names pods");
            };
            let model = world.cluster().pods().get(&pod.name);
            let labels_match = model.is_some_and(|model| pods.matches(&model.labels));
            let namespace = &pod.name.namespace;
            let reason = match namespaces {
                Namespaces::Named(wanted) if wanted != namespace => {
                    Some(format!("{} is not in namespace {wanted}", pod.name))
                }
                Namespaces::Matching(selector)
                    if !world.cluster().namespace_labels(namespace).are_selected_by(selector) =>
                {
                    Some(format!("namespace {namespace} does not match {selector}"))
                }
                Namespaces::Possibly(selector)
                    if !world.cluster().namespace_labels(namespace).may_be_selected_by(selector) =>
                {
                    Some(format!("namespace {namespace} cannot match {selector}"))
                }
                Namespaces::Named(_) | Namespaces::Matching(_) | Namespaces::Possibly(_) => None,
            };
            let labels = (!labels_match).then(|| format!("labels of {} do not match {pods}", pod.name));
            let reasons: Vec<String> = reason.into_iter().chain(labels).collect();
            reasons.join(" and ")
        }
    }
}

fn block_reason(block: &Block, addr: Addr) -> String {
    let host = sluice_abi::Prefix::host(addr);
    match block.except.iter().find(|except| in_range(except, &host)) {
        Some(except) => format!("{addr} lies in the exception {except} of {}", block.cidr),
        None => format!("{addr} is not in {}", block.cidr),
    }
}
