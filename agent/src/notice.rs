//! Telling the cluster's users what is not in force: Kubernetes Events (`events.k8s.io/v1`).
//!
//! Start at [`publish`]. The log says the same first: an Event that cannot be published is lost, and nothing waits for it.
//!
//! Equal Events within six minutes become one with a count ([`Recorder`]). Each node speaks for itself.

use std::fmt;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Api, Client,
    api::DynamicObject,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use sluice_core::object::ObjectKey;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::{causes::Causes, watch::resource};

/// Something a user should know about an object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Notice {
    /// Which object.
    pub regarding: ObjectKey,
    /// What happened to it.
    pub reason: Reason,
    /// In words.
    pub note: String,
}

/// What happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// The object makes no sense, or not wholly: it is closed where it applies.
    NotUnderstood,
    /// There is no room for it: the old state stays in force.
    DoesNotFit,
    /// Another object has what it asks for.
    Contested,
}

impl fmt::Display for Reason {
    /// The Event's `reason`: API, scripts filter by it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotUnderstood => "NotUnderstood",
            Self::DoesNotFit => "DoesNotFit",
            Self::Contested => "Contested",
        })
    }
}

/// The Events' `reportingController`.
pub const CONTROLLER: &str = "sluice.dev/agent";

/// The Events' `action`.
const ACTION: &str = "PutInForce";

/// Longest `note`, bytes (Kubernetes API reference, Event v1 events.k8s.io: "less than 1kB").
const NOTE_BYTES: usize = 1023;

/// Publishes what comes, in the name of `node`, until nobody has anything to say.
pub async fn publish(client: Client, node: &str, mut notices: mpsc::Receiver<Notice>) {
    let reporter = Reporter { controller: CONTROLLER.to_owned(), instance: Some(node.to_owned()) };
    let recorder = Recorder::new(client.clone(), reporter);
    let mut complained = false;
    while let Some(notice) = notices.recv().await {
        let Some(reference) = reference(&client, &notice.regarding).await else {
            debug!(object = %notice.regarding, "object is gone: no Event");
            continue;
        };
        match recorder.publish(&event(&notice), &reference).await {
            Ok(()) => complained = false,
            Err(error) if !std::mem::replace(&mut complained, true) => {
                warn!(object = %notice.regarding, error = %Causes(&error), "Event not published");
            }
            Err(error) => debug!(object = %notice.regarding, error = %Causes(&error), "Event not published"),
        }
    }
}

fn event(notice: &Notice) -> Event {
    let note = &notice.note[..notice.note.floor_char_boundary(NOTE_BYTES)];
    Event {
        type_: EventType::Warning,
        reason: notice.reason.to_string(),
        note: Some(note.to_owned()),
        action: ACTION.to_owned(),
        secondary: None,
    }
}

/// Names the object with its uid, by which `kubectl describe` finds its Events; `None` when it is gone.
async fn reference(client: &Client, key: &ObjectKey) -> Option<ObjectReference> {
    let resource = resource(key);
    let (namespace, name) = match key {
        ObjectKey::Node(name) | ObjectKey::Namespace(name) => (None, name),
        ObjectKey::Pod(of)
        | ObjectKey::Service(of)
        | ObjectKey::EndpointSlice(of)
        | ObjectKey::NetworkPolicy(of) => (Some(&of.namespace), &of.name),
    };
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let uid = match api.get_metadata_opt(name).await {
        Ok(Some(found)) => found.metadata.uid,
        Ok(None) => return None,
        Err(error) => {
            debug!(object = %key, error = %Causes(&error), "Event without uid");
            None
        }
    };
    Some(ObjectReference {
        api_version: Some(resource.api_version),
        kind: Some(resource.kind),
        name: Some(name.clone()),
        namespace: namespace.cloned(),
        uid,
        ..ObjectReference::default()
    })
}

#[cfg(test)]
mod tests {
    use sluice_core::object::NamespacedName;

    use super::*;

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let regarding = ObjectKey::Service(NamespacedName::new("shop", "db"));
        let note = "ü".repeat(600);
        let notice = Notice { regarding, reason: Reason::DoesNotFit, note };
        assert_eq!(event(&notice).note.expect("a note").len(), 1022);
    }
}
