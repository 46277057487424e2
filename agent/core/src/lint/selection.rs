//! Selectors that select nothing, and policies that allow nothing.

use std::collections::{BTreeMap, BTreeSet};

use sluice_abi::Direction;

use super::{Code, Finding, Policy, Severity, count, names};
use crate::{
    cluster::{Selection, Tier},
    object::{self, NetworkPolicyPeer, Object, ObjectKey},
    selector::LabelSelector,
    world::{Pod, World},
};

pub(super) fn lint(world: &World, policies: &[Policy<'_>], found: &mut BTreeSet<Finding>) {
    let namespaces = Namespaces::of(world, policies);
    for policy in policies {
        if policy.pods.is_empty() {
            found.insert(selects_no_pod(world, policy));
        }
        for rule in policy.rules() {
            for (index, peer) in rule.peers.iter().enumerate() {
                let finding = peer_finding(world, &namespaces, policy, peer);
                found.extend(
                    finding.map(|finding| Finding { field: Some(rule.peer_field(index)), ..finding }),
                );
            }
        }
        found.extend(allows_nothing(world, policy));
    }
    found.extend(namespaces.not_given(world, policies));
    cluster_policies(world, found);
}

/// ClusterNetworkPolicies that are about no pod, and those whose order is left to their names.
fn cluster_policies(world: &World, found: &mut BTreeSet<Finding>) {
    let finding = |name: &str, code, message: String, fix: &str| Finding {
        severity: Severity::Warning,
        code,
        object: ObjectKey::ClusterNetworkPolicy(name.to_owned()).to_string(),
        field: None,
        message,
        fix: fix.to_owned(),
        pods: Vec::new(),
    };
    let mut places: BTreeMap<(Tier, u16), Vec<&String>> = BTreeMap::new();
    for (name, policy) in world.cluster().cluster_policies() {
        places.entry((policy.tier, policy.priority)).or_default().push(name);
        let selects = |pod: &Pod| {
            let labels = world.cluster().namespace_labels(&pod.name.namespace);
            let model = world.cluster().pods().get(&pod.name);
            model.is_some_and(|model| policy.selects(model, &labels) != Selection::No)
        };
        if !world.pods().iter().any(selects) {
            let message = format!("is about none of {}", count(world.pods().len(), "pod"));
            let fix = "correct the subject; without pods of it in the input, pass them, too";
            found.insert(finding(name, Code::SelectsNoPod, message, fix));
        }
    }
    for ((tier, priority), names) in places.into_iter().filter(|(_, names)| names.len() > 1) {
        let others: Vec<&str> = names[1..].iter().map(|name| name.as_str()).collect();
        let message = format!(
            "has the priority {priority} of tier {} that {} has, too: their names decide which is asked first",
            tier.name(),
            others.join(", ")
        );
        found.insert(finding(names[0], Code::SamePriority, message, "give each its own priority"));
    }
}

/// The namespaces that anything is known of.
struct Namespaces {
    given: BTreeSet<String>,
    all: BTreeSet<String>,
}

impl Namespaces {
    fn of(world: &World, policies: &[Policy<'_>]) -> Self {
        let names = world.objects().values().filter_map(|object| {
            if let Object::Namespace(namespace) = object { Some(&namespace.metadata.name) } else { None }
        });
        let given: BTreeSet<String> = names.cloned().collect();
        let of_pods = world.pods().iter().map(|pod| pod.name.namespace.clone());
        let of_policies = policies.iter().map(|policy| policy.name.namespace.clone());
        let all = given.iter().cloned().chain(of_pods).chain(of_policies).collect();
        Self { given, all }
    }

    fn are_selected<'a>(
        &'a self,
        world: &'a World,
        selector: &'a LabelSelector,
    ) -> impl Iterator<Item = &'a String> {
        self.all.iter().filter(move |name| world.cluster().namespace_labels(name).are_selected_by(selector))
    }

    /// Notes namespaces whose labels somebody asks for in vain.
    fn not_given(&self, world: &World, policies: &[Policy<'_>]) -> Vec<Finding> {
        let asks = |selector: &object::LabelSelector| {
            let keys = selector.match_labels.keys();
            let keys = keys.chain(selector.match_expressions.iter().map(|expression| &expression.key));
            keys.into_iter().any(|key| key != "kubernetes.io/metadata.name")
        };
        let rules = policies.iter().flat_map(Policy::rules);
        let mut peers = rules.flat_map(|rule| rule.peers);
        if !peers.any(|peer| peer.namespace_selector.as_ref().is_some_and(asks)) {
            return Vec::new();
        }
        let note = |name: &String| Finding {
            severity: Severity::Note,
            code: Code::NamespaceNotGiven,
            object: format!("Namespace {name}"),
            field: None,
            message: "only its name is known: selectors that ask for other labels do not select it"
                .to_owned(),
            fix: "add the Namespace object to the input".to_owned(),
            pods: names(world.pods().iter().filter(|pod| pod.name.namespace == *name)),
        };
        self.all.difference(&self.given).map(note).collect()
    }
}

fn selects_no_pod(world: &World, policy: &Policy<'_>) -> Finding {
    let here = world.pods().iter().filter(|pod| pod.name.namespace == policy.name.namespace).count();
    let message =
        format!("selects none of the {} of its namespace by {}", count(here, "pod"), policy.model.pods);
    let fix = "correct podSelector, or the namespace; without pods of it in the input, pass them, too";
    policy.finding(Severity::Warning, Code::SelectsNoPod, message, fix)
}

fn peer_finding(
    world: &World,
    namespaces: &Namespaces,
    policy: &Policy<'_>,
    peer: &NetworkPolicyPeer,
) -> Option<Finding> {
    let pods = peer.pod_selector.as_ref().map_or(Ok(LabelSelector::default()), LabelSelector::read).ok()?;
    let near: BTreeSet<String> = match (&peer.namespace_selector, &peer.pod_selector) {
        (Some(selector), _) => {
            let selector = LabelSelector::read(selector).ok()?;
            let near: BTreeSet<String> = namespaces.are_selected(world, &selector).cloned().collect();
            if near.is_empty() {
                let message = format!(
                    "namespaceSelector {selector} selects none of {}",
                    count(namespaces.all.len(), "namespace")
                );
                let fix = "correct the labels; every namespace has kubernetes.io/metadata.name";
                return Some(policy.finding(Severity::Warning, Code::NoNamespace, message, fix));
            }
            near
        }
        (None, Some(_)) => BTreeSet::from([policy.name.namespace.clone()]),
        (None, None) => return None,
    };
    let is_one = |pod: &&Pod| {
        let model = world.cluster().pods().get(&pod.name);
        !pod.is_host
            && near.contains(&pod.name.namespace)
            && model.is_some_and(|model| pods.matches(&model.labels))
    };
    if world.pods().iter().any(|pod| is_one(&pod)) {
        return None;
    }
    let near: Vec<String> = near.into_iter().collect();
    let message = match near.as_slice() {
        [one] => format!("selects no pod in namespace {one} by {pods}"),
        several => format!("selects no pod in {} by {pods}", count(several.len(), "namespace")),
    };
    let fix =
        "correct the selectors; a podSelector without namespaceSelector is about the policy's own namespace";
    Some(policy.finding(Severity::Note, Code::NoPeer, message, fix))
}

/// A policy that closes both directions: on purpose when it is a namespace's default and others open, else likely not.
fn allows_nothing(world: &World, policy: &Policy<'_>) -> Option<Finding> {
    let is_closed = policy.model.isolates == [true; 2] && policy.model.rules.iter().all(Vec::is_empty);
    let is_understood =
        world.rejected().all(|rejected| rejected.key != ObjectKey::NetworkPolicy(policy.name.clone()));
    if policy.is_audited || !is_closed || !is_understood || policy.pods.is_empty() {
        return None;
    }
    let is_cut_off = |pod: &&&Pod| {
        let place = world.place_of(pod);
        pod.addrs.first().is_some_and(|addr| {
            Direction::ALL.iter().all(|direction| {
                place
                    .rule_set(*addr, *direction)
                    .is_some_and(|set| !set.isolating.is_empty() && set.rules.is_empty())
            })
        })
    };
    let cut: Vec<&Pod> = policy.pods.iter().filter(is_cut_off).copied().collect();
    let (severity, message, fix) = if cut.is_empty() {
        let message =
            "isolates both directions and allows nothing; other policies open something for every pod";
        (Severity::Note, message.to_owned(), "nothing, when it is the default of the namespace")
    } else {
        let message = format!(
            "isolates both directions and allows nothing, nor does any other policy for {} of {} it selects",
            cut.len(),
            count(policy.pods.len(), "pod")
        );
        (Severity::Warning, message, "add rules, or a policy that opens what these pods need")
    };
    Some(Finding { pods: names(cut), ..policy.finding(severity, Code::AllowsNothing, message, fix) })
}
