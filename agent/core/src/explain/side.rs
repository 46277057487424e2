//! Why one direction of a flow is as it is.

use std::fmt;

use serde::Serialize;
use sluice_abi::{Addr, Direction, PolicyKind, Rule, RuleId};

use super::{
    Word,
    nearest::{self, Nearest},
};
use crate::{
    desired::RuleSet,
    verdict::{Flow, Judgement},
    world::{Place, World},
};

/// What the policies of one end say.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Side {
    /// Whether this end lets the flow pass.
    pub verdict: Word,
    /// Why.
    pub reason: Reason,
    /// The policies that isolate the pod in this direction.
    pub policies: Vec<String>,
    /// The rule that decided.
    pub rule: Option<RuleName>,
    /// Without one, the rule that came closest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest: Option<Nearest>,
    /// What this end would say if the audited policies were enforced too; none where they make no difference to its rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<Box<Side>>,
}

/// What decided about one end.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// This end is no pod, or one that lives in its node's network: no policy applies to it.
    Outside,
    /// A pod and its own node always reach each other.
    OwnNode,
    /// A pod always reaches itself.
    Itself,
    /// No policy isolates the pod.
    NotIsolated,
    /// A rule matches.
    Rule,
    /// Policies isolate the pod, and none of their rules matches.
    NoRule,
    /// The Service has no backend to go to.
    NoBackend,
}

/// A rule of a policy.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleName {
    /// `NetworkPolicy` or `ClusterNetworkPolicy`.
    pub kind: &'static str,
    /// Namespace and name of its policy; the name alone of a cluster-wide one.
    pub policy: String,
    /// Its list.
    pub direction: &'static str,
    /// Its index there, from 0.
    pub index: u16,
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}[{}]", self.policy, self.direction, self.index)
    }
}

/// What is asked of one end.
pub(super) struct Case<'a> {
    /// The end.
    pub(super) own: Addr,
    /// The other one.
    pub(super) peer: Addr,
    /// The flow before translation.
    pub(super) flow: &'a Flow,
    /// The destination port after it.
    pub(super) port: u16,
    /// What the maps say.
    pub(super) judgement: Option<Judgement>,
}

impl Side {
    /// An end that lets everything pass.
    pub(super) const fn plain(reason: Reason) -> Self {
        Self { verdict: Word::Allow, reason, policies: Vec::new(), rule: None, nearest: None, audit: None }
    }
}

/// Puts a judgement into words.
pub(super) fn side(world: &World, place: Option<&Place>, case: &Case<'_>) -> Side {
    let (Some(place), Some(judgement)) = (place, case.judgement) else {
        return Side::plain(Reason::Outside);
    };
    let direction = if case.own == case.flow.src { Direction::Egress } else { Direction::Ingress };
    let of = |set: Option<&RuleSet>, rule| in_words(world, place, case, set, rule);
    let audit = judgement.shadow.map(|shadow| Box::new(of(place.shadow(case.own, direction), shadow.rule)));
    Side { audit, ..of(place.rule_set(case.own, direction), judgement.rule) }
}

/// What a rule set says, by the rule that matched.
fn in_words(
    world: &World,
    place: &Place,
    case: &Case<'_>,
    set: Option<&RuleSet>,
    decided: Option<Rule>,
) -> Side {
    let policies = set.iter().flat_map(|set| &set.isolating).map(ToString::to_string).collect();
    let (reason, rule) = match decided.map(|rule| rule.id) {
        None | Some(RuleId::NONE) => (Reason::NoRule, None),
        Some(RuleId::NOT_ISOLATED) => (Reason::NotIsolated, None),
        Some(RuleId::OWN_NODE) if case.own == case.peer => (Reason::Itself, None),
        Some(RuleId::OWN_NODE) => (Reason::OwnNode, None),
        Some(id) => (Reason::Rule, rule_name(place, id)),
    };
    let nearest = set.filter(|_| reason == Reason::NoRule).and_then(|set| {
        let (protocol, port) = (case.flow.protocol, case.port);
        nearest::of(world, place, set, &nearest::Packet { peer: case.peer, protocol, port })
    });
    let verdict = Word::of(decided.is_some_and(|rule| rule.allows()));
    Side { verdict, reason, policies, rule, nearest, audit: None }
}

/// The name behind a rule's number.
fn rule_name(place: &Place, id: RuleId) -> Option<RuleName> {
    let rule = place.actual.rule_meta.get(&id)?;
    let policy = place.actual.policy_meta.get(&rule.policy)?;
    let (kind, policy) = if policy.kind == PolicyKind::NetworkPolicy as u8 {
        ("NetworkPolicy", format!("{}/{}", policy.namespace, policy.name))
    } else {
        ("ClusterNetworkPolicy", policy.name.to_string())
    };
    let direction = Direction::from_number(rule.direction).map_or("unknown", Direction::name);
    Some(RuleName { kind, policy, direction, index: rule.index })
}
