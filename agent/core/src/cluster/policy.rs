//! NetworkPolicies.
//!
//! Semantics: NetworkPolicy v1 API reference. Absent and empty lists of `ports`, `from` and `to` mean the same there:
//! everything; an absent or empty list of rules lets nothing pass.

use std::{collections::BTreeSet, fmt};

use sluice_abi::{Direction, PolicyMode, protocol};

use super::{
    mode,
    node::prefix_of,
    pod::{port_of, protocol_of},
    reject::RejectReason,
};
use crate::{
    object::{self, NetworkPolicyPeer, NetworkPolicyPort, PortName},
    prefix::in_range,
    selector::{Block, LabelSelector, Namespaces, Peer, SelectorError, word},
};

/// A policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Policy {
    /// The pods of its namespace that it isolates.
    pub pods: LabelSelector,
    /// Whether it isolates them, by [`Direction`].
    pub isolates: [bool; 2],
    /// What it allows, by [`Direction`], in the order of its lists; empty when it is rejected.
    pub rules: [Vec<PolicyRule>; 2],
    /// Whether it is enforced, where it says so itself; else its namespace does: see [`super::Cluster::mode_of`].
    pub mode: Option<PolicyMode>,
}

/// A rule of a policy: any of the peers on any of the ports.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct PolicyRule {
    /// The peers; [`Peer::Any`] when the rule names none.
    pub peers: BTreeSet<Peer>,
    /// The ports; empty means every port and every protocol.
    pub ports: BTreeSet<PortMatch>,
}

/// Ports of one protocol.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum PortMatch {
    /// Every port.
    All {
        /// IANA protocol number.
        protocol: u8,
    },
    /// A range; both ends are in it.
    Range {
        /// IANA protocol number.
        protocol: u8,
        /// First port.
        first: u16,
        /// Last port.
        last: u16,
    },
    /// The ports of that name of the pod that receives.
    Named {
        /// IANA protocol number.
        protocol: u8,
        /// The name.
        name: String,
    },
}

impl fmt::Display for PortMatch {
    /// The canonical text: a format, see [`crate::selector`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name_of = |number: &u8| match *number {
            protocol::TCP => "tcp",
            protocol::UDP => "udp",
            _ => "sctp",
        };
        match self {
            Self::All { protocol } => write!(f, "{}", name_of(protocol)),
            Self::Range { protocol, first, last } if first == last => {
                write!(f, "{}/{first}", name_of(protocol))
            }
            Self::Range { protocol, first, last } => write!(f, "{}/{first}-{last}", name_of(protocol)),
            Self::Named { protocol, name } => write!(f, "{}/{name}", name_of(protocol)),
        }
    }
}

impl Policy {
    /// Reads a policy. One that cannot be understood isolates, and allows nothing.
    pub(super) fn read(policy: &object::NetworkPolicy) -> (Self, Option<RejectReason>) {
        let (namespace, spec) = (policy.metadata.namespaced_name().namespace, &policy.spec);
        let mut reason = None;
        let mut or_note = |error| {
            reason.get_or_insert(error);
        };
        let pods = LabelSelector::read(&spec.pod_selector).map_err(RejectReason::from);
        let pods = pods.map_err(&mut or_note).unwrap_or_default();
        let isolates = isolated(spec).map_err(&mut or_note).unwrap_or([true; 2]);
        let rules = rules(spec, &namespace).map_err(&mut or_note).unwrap_or_default();
        let rules = if reason.is_some() { Default::default() } else { rules };
        let mode = mode::read(&policy.metadata).unwrap_or_else(|error| {
            reason.get_or_insert(error);
            None
        });
        (Self { pods, isolates, rules, mode }, reason)
    }
}

/// Without `policyTypes` a policy is about ingress, and about egress when it has an egress rule.
fn isolated(spec: &object::NetworkPolicySpec) -> Result<[bool; 2], RejectReason> {
    if spec.policy_types.is_empty() {
        return Ok([true, !spec.egress.is_empty()]);
    }
    let mut isolates = [false; 2];
    for policy_type in &spec.policy_types {
        match policy_type.as_str() {
            "Ingress" => isolates[Direction::Ingress as usize] = true,
            "Egress" => isolates[Direction::Egress as usize] = true,
            _ => return Err(RejectReason::PolicyType { policy_type: policy_type.clone() }),
        }
    }
    Ok(isolates)
}

fn rules(spec: &object::NetworkPolicySpec, namespace: &str) -> Result<[Vec<PolicyRule>; 2], RejectReason> {
    let ingress = spec.ingress.iter().map(|rule| PolicyRule::read(&rule.from, &rule.ports, namespace));
    let egress = spec.egress.iter().map(|rule| PolicyRule::read(&rule.to, &rule.ports, namespace));
    Ok([ingress.collect::<Result<_, _>>()?, egress.collect::<Result<_, _>>()?])
}

impl PolicyRule {
    fn read(
        peers: &[NetworkPolicyPeer],
        ports: &[NetworkPolicyPort],
        namespace: &str,
    ) -> Result<Self, RejectReason> {
        let mut peers: BTreeSet<_> =
            peers.iter().map(|peer| peer_of(peer, namespace)).collect::<Result<_, _>>()?;
        if peers.is_empty() {
            peers.insert(Peer::Any);
        }
        Ok(Self { peers, ports: ports.iter().map(PortMatch::read).collect::<Result<_, _>>()? })
    }
}

fn peer_of(peer: &NetworkPolicyPeer, namespace: &str) -> Result<Peer, RejectReason> {
    let pods = || peer.pod_selector.as_ref().map_or(Ok(LabelSelector::default()), LabelSelector::read);
    match (&peer.ip_block, &peer.namespace_selector, &peer.pod_selector) {
        (Some(block), None, None) => block_of(block),
        (None, Some(namespaces), _) => Ok(Peer::Pods {
            namespaces: Namespaces::Matching(LabelSelector::read(namespaces)?),
            pods: pods()?,
        }),
        (None, None, Some(_)) => {
            Ok(Peer::Pods { namespaces: Namespaces::Named(namespace.to_owned()), pods: pods()? })
        }
        (Some(_), _, _) | (None, None, None) => Err(RejectReason::Peer),
    }
}

fn block_of(block: &object::IpBlock) -> Result<Peer, RejectReason> {
    let cidr = prefix_of(&block.cidr)?;
    let mut except = BTreeSet::new();
    for text in &block.except {
        let prefix = prefix_of(text)?;
        if !in_range(&cidr, &prefix) {
            return Err(RejectReason::Except { except: text.clone(), cidr: block.cidr.clone() });
        }
        except.insert(prefix);
    }
    Ok(Peer::Block(Block { cidr, except }))
}

impl PortMatch {
    fn read(port: &NetworkPolicyPort) -> Result<Self, RejectReason> {
        let protocol = protocol_of(&port.protocol)?;
        match (&port.port, port.end_port) {
            (None, None) => Ok(Self::All { protocol }),
            (Some(PortName::Name(name)), None) => Ok(Self::Named { protocol, name: port_name(name)? }),
            (Some(PortName::Number(number)), end) => {
                let (first, last) = (port_of(*number)?, port_of(end.unwrap_or(*number))?);
                if last < first {
                    return Err(RejectReason::PortRange { end: i64::from(last) });
                }
                Ok(Self::Range { protocol, first, last })
            }
            (None | Some(PortName::Name(_)), Some(end)) => Err(RejectReason::PortRange { end }),
        }
    }
}

/// Checks the name of a port: it has a letter (API reference, `IANA_SVC_NAME`), else it could be taken for a number.
pub(super) fn port_name(name: &str) -> Result<String, SelectorError> {
    let is_name = name.bytes().any(|byte| byte.is_ascii_alphabetic());
    if is_name { word(name) } else { Err(SelectorError::Word { word: name.to_owned() }) }
}
