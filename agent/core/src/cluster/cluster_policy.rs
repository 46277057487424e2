//! ClusterNetworkPolicies.
//!
//! Semantics: `policy.networking.k8s.io/v1alpha2`, module `sigs.k8s.io/network-policy-api`.
//!
//! **Invariant: fail closed, rule by rule.** A rule of which a part cannot be understood (a peer without a field that is
//! known here, a range that is none) fares as the API says: an Accept matches nothing, a Deny or a Pass denies everything.
//! A rule with an unknown action denies everything. A policy whose subject cannot be understood may be about any pod: see
//! [`Selection::Possibly`]. An unknown tier is taken for Admin, an impossible priority for the first.

use std::collections::BTreeSet;

use sluice_abi::{Direction, PolicyMode, protocol};

use super::{
    mode,
    namespace::{NAME_LABEL, NamespaceLabels},
    node::prefix_of,
    pod::{Pod, port_of},
    policy::{PortMatch, port_name},
    reject::RejectReason,
};
use crate::{
    object::{self, ClusterNetworkPolicyPeer, ClusterNetworkPolicyProtocol, ProtocolMatch},
    selector::{Block, LabelSelector, Namespaces, Peer},
};

/// Which policies are asked first.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Tier {
    /// ClusterNetworkPolicies that nothing overrides.
    Admin,
    /// NetworkPolicies: final for the pods they select.
    NetworkPolicy,
    /// ClusterNetworkPolicies for pods that no NetworkPolicy selects.
    Baseline,
}

impl Tier {
    /// As the API spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admin => "Admin",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Baseline => "Baseline",
        }
    }
}

/// What becomes of a packet that a rule matches.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Action {
    /// It passes.
    Accept,
    /// It is dropped.
    Deny,
    /// The next tier decides.
    Pass,
}

impl Action {
    /// As the API spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accept => "Accept",
            Self::Deny => "Deny",
            Self::Pass => "Pass",
        }
    }
}

/// Whether a policy is about a pod.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Selection {
    /// It is not.
    No,
    /// That depends on what is not known (yet): its Accepts do not count, and its Passes deny.
    Possibly,
    /// It is.
    Surely,
}

/// A ClusterNetworkPolicy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClusterPolicy {
    /// Its tier.
    pub tier: Tier,
    /// Its place in the tier, 0–1000; the lower goes first.
    pub priority: u16,
    /// The pods it is about; `None` when that cannot be understood.
    pub subject: Option<Peer>,
    /// Its rules by [`Direction`], in the order of its lists; the first that matches decides.
    pub rules: [Vec<ClusterRule>; 2],
    /// Whether it is enforced.
    pub mode: PolicyMode,
}

/// A rule of a ClusterNetworkPolicy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClusterRule {
    /// What its author calls it; may be empty.
    pub name: String,
    /// What becomes of what it matches.
    pub action: Action,
    /// The peers; without any it matches nothing.
    pub peers: BTreeSet<Peer>,
    /// The ports; empty means every port and every protocol.
    pub ports: BTreeSet<PortMatch>,
}

impl ClusterPolicy {
    /// Reads a policy; the reason is the first thing in it that could not be understood.
    pub(super) fn read(policy: &object::ClusterNetworkPolicy) -> (Self, Option<RejectReason>) {
        let spec = &policy.spec;
        let mut reason = None;
        let mut or_note = |error| {
            reason.get_or_insert(error);
        };
        let tier = tier_of(&spec.tier).map_err(&mut or_note).unwrap_or(Tier::Admin);
        let priority = priority_of(spec.priority).map_err(&mut or_note).unwrap_or(0);
        let subject = subject_of(&spec.subject).map_err(&mut or_note).ok();
        let mut rules = |rules: &[object::ClusterNetworkPolicyRule], direction| {
            rules.iter().map(|rule| ClusterRule::read(rule, direction, &mut or_note)).collect()
        };
        let rules = [rules(&spec.ingress, Direction::Ingress), rules(&spec.egress, Direction::Egress)];
        let mode = mode::read(&policy.metadata).unwrap_or_else(|error| {
            reason.get_or_insert(error);
            None
        });
        (Self { tier, priority, subject, rules, mode: mode.unwrap_or(PolicyMode::Enforce) }, reason)
    }

    /// Whether it is about a pod of a namespace with these labels.
    pub fn selects(&self, pod: &Pod, namespace: &NamespaceLabels) -> Selection {
        let (namespaces, pods) = match &self.subject {
            _ if !pod.in_network => return Selection::No,
            None => return Selection::Possibly,
            Some(Peer::Pods { namespaces: Namespaces::Matching(namespaces), pods }) => (namespaces, pods),
            Some(_) => return Selection::No,
        };
        match () {
            () if !pods.matches(&pod.labels) => Selection::No,
            () if namespace.are_selected_by(namespaces) => Selection::Surely,
            () if namespace.may_be_selected_by(namespaces) => Selection::Possibly,
            () => Selection::No,
        }
    }
}

impl ClusterRule {
    fn read(
        rule: &object::ClusterNetworkPolicyRule,
        direction: Direction,
        note: &mut impl FnMut(RejectReason),
    ) -> Self {
        let name = rule.name.clone();
        let (action, matches) = (action_of(&rule.action), matches_of(rule, direction));
        if let (Ok(action), Ok((peers, ports))) = (&action, &matches) {
            return Self { name, action: *action, peers: peers.clone(), ports: ports.clone() };
        }
        let is_accept = matches!(action, Ok(Action::Accept));
        action.err().into_iter().chain(matches.err()).take(1).for_each(note);
        // "For Accept rules, fail closed means: treat the rule as matching no traffic. For Deny and Pass rules: treat the
        // rule as a 'Deny all' rule."
        let (action, peers) = if is_accept {
            (Action::Accept, BTreeSet::new())
        } else {
            (Action::Deny, BTreeSet::from([Peer::Any]))
        };
        Self { name, action, peers, ports: BTreeSet::new() }
    }
}

fn tier_of(text: &str) -> Result<Tier, RejectReason> {
    match text {
        "Admin" => Ok(Tier::Admin),
        "Baseline" => Ok(Tier::Baseline),
        _ => Err(RejectReason::Tier { tier: text.to_owned() }),
    }
}

/// The last priority ("0 to 1000").
const LAST_PRIORITY: u16 = 1000;

fn priority_of(number: Option<i64>) -> Result<u16, RejectReason> {
    let priority = number.and_then(|number| u16::try_from(number).ok());
    priority.filter(|priority| *priority <= LAST_PRIORITY).ok_or(RejectReason::Priority { priority: number })
}

fn action_of(text: &str) -> Result<Action, RejectReason> {
    match text {
        "Accept" => Ok(Action::Accept),
        "Deny" => Ok(Action::Deny),
        "Pass" => Ok(Action::Pass),
        _ => Err(RejectReason::Action { action: text.to_owned() }),
    }
}

fn subject_of(subject: &object::ClusterNetworkPolicySubject) -> Result<Peer, RejectReason> {
    match (&subject.namespaces, &subject.pods) {
        (Some(namespaces), None) => pods_of_namespaces(namespaces),
        (None, Some(pods)) => namespaced_pods(pods),
        (Some(_), Some(_)) | (None, None) => Err(RejectReason::Subject),
    }
}

fn pods_of_namespaces(selector: &object::LabelSelector) -> Result<Peer, RejectReason> {
    let namespaces = Namespaces::Matching(LabelSelector::read(selector)?);
    Ok(Peer::Pods { namespaces, pods: LabelSelector::default() })
}

fn namespaced_pods(pods: &object::NamespacedPods) -> Result<Peer, RejectReason> {
    let selector = pods.pod_selector.as_ref().ok_or(RejectReason::ClusterPeer)?;
    let namespaces = Namespaces::Matching(LabelSelector::read(&pods.namespace_selector)?);
    Ok(Peer::Pods { namespaces, pods: LabelSelector::read(selector)? })
}

type Matches = (BTreeSet<Peer>, BTreeSet<PortMatch>);

fn matches_of(
    rule: &object::ClusterNetworkPolicyRule,
    direction: Direction,
) -> Result<Matches, RejectReason> {
    let listed = match direction {
        Direction::Ingress => &rule.from,
        Direction::Egress => &rule.to,
    };
    if listed.is_empty() {
        return Err(RejectReason::ClusterPeer);
    }
    let mut peers = BTreeSet::new();
    for peer in listed {
        peers.extend(peers_of(peer, direction)?);
    }
    let mut ports = BTreeSet::new();
    for protocol in &rule.protocols {
        ports.extend(ports_of(protocol)?);
    }
    let has_name = ports.iter().any(|port| matches!(port, PortMatch::Named { .. }));
    // "You can't use this in a rule that targets resources without named ports (e.g. Nodes or Networks)."
    if has_name && peers.iter().any(|peer| matches!(peer, Peer::Block(_))) {
        return Err(RejectReason::NamedPort);
    }
    Ok((peers, ports))
}

fn peers_of(peer: &ClusterNetworkPolicyPeer, direction: Direction) -> Result<Vec<Peer>, RejectReason> {
    match (&peer.namespaces, &peer.pods, &*peer.networks) {
        (Some(namespaces), None, []) => Ok(vec![pods_of_namespaces(namespaces)?]),
        (None, Some(pods), []) => Ok(vec![namespaced_pods(pods)?]),
        (None, None, networks @ [_, ..]) if direction == Direction::Egress => {
            let block =
                |text: &String| Ok(Peer::Block(Block { cidr: prefix_of(text)?, except: BTreeSet::new() }));
            networks.iter().map(block).collect()
        }
        _ => Err(RejectReason::ClusterPeer),
    }
}

fn ports_of(matches: &ClusterNetworkPolicyProtocol) -> Result<Vec<PortMatch>, RejectReason> {
    let ClusterNetworkPolicyProtocol { tcp, udp, sctp, destination_named_port: name } = matches;
    match (tcp, udp, sctp, name.as_str()) {
        (Some(tcp), None, None, "") => Ok(vec![port_match(protocol::TCP, tcp)?]),
        (None, Some(udp), None, "") => Ok(vec![port_match(protocol::UDP, udp)?]),
        (None, None, Some(sctp), "") => Ok(vec![port_match(protocol::SCTP, sctp)?]),
        (None, None, None, name) if !name.is_empty() => {
            let name = port_name(name)?;
            let named = |protocol| PortMatch::Named { protocol, name: name.clone() };
            Ok([protocol::TCP, protocol::UDP, protocol::SCTP].map(named).into())
        }
        _ => Err(RejectReason::ClusterProtocol),
    }
}

fn port_match(protocol: u8, matches: &ProtocolMatch) -> Result<PortMatch, RejectReason> {
    let port = matches.destination_port.as_ref().ok_or(RejectReason::ClusterProtocol)?;
    let (first, last) = match (port.number, &port.range) {
        (Some(number), None) => (port_of(number)?, port_of(number)?),
        (None, Some(range)) => (port_of(range.start)?, port_of(range.end)?),
        (Some(_), Some(_)) | (None, None) => return Err(RejectReason::ClusterProtocol),
    };
    if last < first {
        return Err(RejectReason::PortRange { end: i64::from(last) });
    }
    Ok(PortMatch::Range { protocol, first, last })
}

impl Peer {
    /// What the peer may be for all that is known, where that can be more than what it surely is.
    pub(crate) fn possibly(&self) -> Option<Self> {
        match self {
            Self::Pods { namespaces: Namespaces::Matching(selector), pods }
                if !selector.is_only_about(NAME_LABEL) =>
            {
                let namespaces = Namespaces::Possibly(selector.clone());
                Some(Self::Pods { namespaces, pods: pods.clone() })
            }
            Self::Any | Self::Pods { .. } | Self::Block(_) => None,
        }
    }
}
