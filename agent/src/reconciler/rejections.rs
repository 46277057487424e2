//! What is left out, told once: in the log, and to whoever may be concerned.
//!
//! Every agent finds the same objects wanting, and most of them need not say so: [`REPORTERS`] of the nodes concerned do,
//! chosen by hash, so that all agree without talking. More than one, because one may be down; as their Events have one name
//! ([`crate::notice`]), there is one all the same.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};
use sluice_core::{
    cluster::{RejectedObject, Selection},
    diff::Rejection,
    object::{ObjectKey, PolicyName},
};
use tokio::sync::mpsc::error::TrySendError;
use tracing::{debug, error, info, warn};

use super::Reconciler;
use crate::{
    causes::Causes,
    notice::{Notice, Reason},
    watch::Unreadable,
};

/// How many nodes tell what every node knows.
const REPORTERS: usize = 3;

impl Reconciler {
    pub(super) fn tell_not_understood(&mut self, rejected: &RejectedObject) {
        self.metrics.objects_rejected.inc();
        warn!(object = %rejected.key, error = %Causes(rejected), "object not understood: closed where it applies");
        let note = Causes(&rejected.reason).to_string();
        self.tell_of_all(Notice { regarding: rejected.key.clone(), reason: Reason::NotUnderstood, note });
    }

    pub(super) fn tell_unreadable(&mut self, unreadable: Unreadable) {
        self.metrics.objects_rejected.inc();
        warn!(object = %unreadable.key, reason = unreadable.reason, "object not read: a policy is closed, others stay as they were");
        let Unreadable { key: regarding, reason: note } = unreadable;
        self.tell_of_all(Notice { regarding, reason: Reason::NotUnderstood, note });
    }

    /// Tells what waited until the nodes concerned are known.
    pub(super) fn tell_held_back(&mut self) {
        for notice in std::mem::take(&mut self.held_back) {
            self.tell_of_all(notice);
        }
    }

    /// Tells what every node knows, if this is one of those that do.
    fn tell_of_all(&mut self, notice: Notice) {
        if !self.published.borrow().synced {
            self.held_back.push(notice);
        } else if self.reports(&notice.regarding) {
            self.tell(notice);
        }
    }

    fn reports(&self, key: &ObjectKey) -> bool {
        let mut nodes = self.nodes_concerned(key);
        if nodes.is_empty() {
            nodes = self.compiler.cluster().nodes().keys().map(|node| node.0.as_str()).collect();
        }
        // With no node known there is nobody else to tell it.
        nodes.is_empty() || is_chosen(key, self.topology.node(), nodes)
    }

    /// The nodes with a pod that the object is about.
    fn nodes_concerned<'a>(&'a self, key: &'a ObjectKey) -> BTreeSet<&'a str> {
        let cluster = self.compiler.cluster();
        let nodes: BTreeSet<&str> = match key {
            ObjectKey::Node(name) => BTreeSet::from([name.as_str()]),
            ObjectKey::Pod(name) => cluster.pods().get(name).map(|pod| &*pod.node).into_iter().collect(),
            ObjectKey::Namespace(name) => cluster.pods_of(name).map(|(_, pod)| &*pod.node).collect(),
            ObjectKey::NetworkPolicy(name) => {
                let policy = cluster.policies().get(name);
                let selects = |labels| policy.is_some_and(|policy| policy.pods.matches(labels));
                let selected = cluster.pods_of(&name.namespace).filter(|(_, pod)| selects(&pod.labels));
                selected.map(|(_, pod)| &*pod.node).collect()
            }
            ObjectKey::ClusterNetworkPolicy(name) => {
                let policy = cluster.cluster_policies().get(name);
                let subjects = cluster.pods().iter().filter(|(pod_name, pod)| {
                    let labels = cluster.namespace_labels(&pod_name.namespace);
                    policy.is_some_and(|policy| policy.selects(pod, &labels) != Selection::No)
                });
                subjects.map(|(_, pod)| &*pod.node).collect()
            }
            ObjectKey::Service(_) | ObjectKey::EndpointSlice(_) => BTreeSet::new(),
        };
        nodes.into_iter().filter(|node| !node.is_empty()).collect()
    }

    /// Tells which policies are audited now, and which no longer, as far as that differs from before.
    pub(super) fn tell_audited(&mut self) {
        let audited = self.compiler.cluster().audited();
        if *audited == self.audited {
            return;
        }
        let before = std::mem::replace(&mut self.audited, audited.clone());
        for policy in before.difference(&self.audited) {
            info!(%policy, "policy no longer audited");
        }
        let new: Vec<PolicyName> = self.audited.difference(&before).cloned().collect();
        for policy in new {
            info!(%policy, "policy audited: not enforced, what it would drop is counted");
            let note = "audited, not enforced: `sluice policy audit` on the pods' nodes says what it would have dropped";
            let (regarding, note) = (ObjectKey::from(policy), note.to_owned());
            self.tell_of_all(Notice { regarding, reason: Reason::Audited, note });
        }
    }

    /// Tells what does not fit now, as far as it differs from before.
    pub(super) fn tell_rejected(&mut self, rejected: &[Rejection]) {
        let rejected: BTreeMap<String, &Rejection> =
            rejected.iter().map(|rejection| (Causes(rejection).to_string(), rejection)).collect();
        for (words, rejection) in &rejected {
            if self.rejected.contains(words) {
                continue;
            }
            let reason = if matches!(rejection, Rejection::Contested { .. }) {
                warn!(rejection = words, "asked for twice: the first by name has it");
                Reason::Contested
            } else if matches!(rejection, Rejection::Tied { .. }) {
                warn!(rejection = words, "the order of policies is not said: their names decide");
                Reason::Tied
            } else if matches!(rejection, Rejection::Audit { .. }) {
                error!(rejection = words, "does not fit: nothing is audited, what is enforced stays");
                Reason::DoesNotFit
            } else if matches!(rejection, Rejection::Narrowed { .. } | Rejection::Closed { .. }) {
                error!(rejection = words, "does not fit: closed for what may be denied");
                Reason::DoesNotFit
            } else if matches!(rejection, Rejection::Table { .. }) {
                warn!(rejection = words, "does not fit: served all the same");
                Reason::DoesNotFit
            } else {
                error!(rejection = words, "does not fit: the old state stays in force");
                Reason::DoesNotFit
            };
            for object in self.concerned(rejection) {
                self.tell(Notice { regarding: object, reason, note: words.clone() });
            }
        }
        for words in self.rejected.iter().filter(|words| !rejected.contains_key(*words)) {
            info!(rejection = words, "no longer left out");
        }
        self.rejected = rejected.into_keys().collect();
    }

    /// The objects whose users want to know; this node's where it is nobody's in particular.
    fn concerned(&self, rejection: &Rejection) -> Vec<ObjectKey> {
        let node = || vec![ObjectKey::Node(self.topology.node().to_owned())];
        match rejection {
            Rejection::RuleSet { policies, .. } | Rejection::Audit { policies, .. }
                if policies.is_empty() =>
            {
                node()
            }
            Rejection::RuleSet { policies, .. }
            | Rejection::Audit { policies, .. }
            | Rejection::Narrowed { policies, .. } => policies.iter().cloned().map(ObjectKey::from).collect(),
            Rejection::Tied { policies, .. } => {
                policies.iter().cloned().map(ObjectKey::ClusterNetworkPolicy).collect()
            }
            Rejection::Endpoint { endpoint, .. } | Rejection::Closed { endpoint, .. } => self
                .endpoints
                .get(endpoint)
                .map_or_else(node, |endpoint| vec![ObjectKey::Pod(endpoint.pod_name())]),
            Rejection::Addresses { .. } | Rejection::Policies { .. } | Rejection::Node { .. } => node(),
            Rejection::Service { service, .. }
            | Rejection::Table { service, .. }
            | Rejection::Contested { service, .. } => {
                vec![ObjectKey::Service(service.clone())]
            }
        }
    }

    pub(super) fn tell(&self, notice: Notice) {
        // With another source than the API server nobody listens.
        if let Err(TrySendError::Full(notice)) = self.notices.try_send(notice) {
            debug!(object = %notice.regarding, "no Event: too many wait");
        }
    }
}

/// Whether `node` is among the first [`REPORTERS`] of `nodes` in the order that the hash gives them for `key`.
fn is_chosen(key: &ObjectKey, node: &str, nodes: BTreeSet<&str>) -> bool {
    let rank = |node: &str| Sha256::digest(format!("{key}\n{node}"));
    let own = rank(node);
    nodes.contains(node) && nodes.into_iter().filter(|other| rank(other) < own).count() < REPORTERS
}

#[cfg(test)]
mod tests {
    use sluice_core::object::NamespacedName;

    use super::*;

    #[test]
    fn a_few_nodes_tell_and_all_agree_which() {
        let names: Vec<String> = (0..100).map(|number| format!("n{number}")).collect();
        let nodes: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let mut all: BTreeSet<&str> = BTreeSet::new();
        for policy in 0..50 {
            let key = ObjectKey::NetworkPolicy(NamespacedName::new("shop", format!("p{policy}")));
            let chosen: Vec<_> =
                nodes.iter().copied().filter(|node| is_chosen(&key, node, nodes.clone())).collect();
            assert_eq!(chosen.len(), REPORTERS);
            all.extend(chosen);
        }
        assert!(all.len() > 50, "not always the same ones");
        let key = ObjectKey::Namespace("shop".to_owned());
        assert!(is_chosen(&key, "n1", BTreeSet::from(["n1", "n2"])));
        assert!(!is_chosen(&key, "n3", BTreeSet::from(["n1", "n2"])), "it is not concerned");
    }
}
