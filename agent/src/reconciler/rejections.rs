//! What is left out, told once: in the log, and to whoever may be concerned.

use std::collections::BTreeMap;

use sluice_core::{cluster::RejectedObject, diff::Rejection, object::ObjectKey};
use tokio::sync::mpsc::error::TrySendError;
use tracing::{debug, error, info, warn};

use super::Reconciler;
use crate::{
    causes::Causes,
    notice::{Notice, Reason},
};

impl Reconciler {
    pub(super) fn tell_not_understood(&self, rejected: &RejectedObject) {
        self.metrics.objects_rejected.inc();
        warn!(object = %rejected.key, error = %Causes(rejected), "object not understood: closed where it applies");
        self.tell(rejected.key.clone(), Reason::NotUnderstood, Causes(&rejected.reason).to_string());
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
            } else if matches!(rejection, Rejection::Table { .. }) {
                warn!(rejection = words, "does not fit: served all the same");
                Reason::DoesNotFit
            } else {
                error!(rejection = words, "does not fit: the old state stays in force");
                Reason::DoesNotFit
            };
            for object in self.concerned(rejection) {
                self.tell(object, reason, words.clone());
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
            Rejection::RuleSet { policies, .. } if policies.is_empty() => node(),
            Rejection::RuleSet { policies, .. } => {
                policies.iter().cloned().map(ObjectKey::NetworkPolicy).collect()
            }
            Rejection::Endpoint { endpoint, .. } => self
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

    fn tell(&self, regarding: ObjectKey, reason: Reason, note: String) {
        // With another source than the API server nobody listens.
        if let Err(TrySendError::Full(notice)) = self.notices.try_send(Notice { regarding, reason, note }) {
            debug!(object = %notice.regarding, "no Event: too many wait");
        }
    }
}
