//! Telling the cluster's users what is not in force: Kubernetes Events (`events.k8s.io/v1`).
//!
//! Start at [`publish`]. The log says the same first: an Event that cannot be published is lost, and nothing waits for it.
//!
//! **Invariant: one fact, one Event.** An Event's name follows from its object, reason and note, so that nodes which say the
//! same meet in one object: the first creates it, the others find it there and are silent. Who created it counts
//! repetitions in its `series`. Who speaks at all about what concerns many nodes is decided in
//! [`crate::reconciler`]: a few nodes, not all.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{DynamicObject, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use sha2::{Digest as _, Sha256};
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
    /// Another policy of its tier has the same priority.
    Tied,
    /// The policy is not enforced, as its mode says: what it would drop is reported.
    Audited,
    /// The pod's interface was not let into the network; the runtime tries again.
    AddRefused,
}

impl Reason {
    /// The Event's `type`.
    const fn kind(self) -> &'static str {
        match self {
            Self::Audited => "Normal",
            Self::NotUnderstood | Self::DoesNotFit | Self::Contested | Self::Tied | Self::AddRefused => {
                "Warning"
            }
        }
    }
}

impl fmt::Display for Reason {
    /// The Event's `reason`: API, scripts filter by it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotUnderstood => "NotUnderstood",
            Self::DoesNotFit => "DoesNotFit",
            Self::Contested => "Contested",
            Self::Tied => "Tied",
            Self::Audited => "Audited",
            Self::AddRefused => "AddRefused",
        })
    }
}

/// The Events' `reportingController`.
pub const CONTROLLER: &str = "sluice.dev/agent";

/// The Events' `action`.
const ACTION: &str = "PutInForce";

/// Longest `note`, bytes (Kubernetes API reference, Event v1 events.k8s.io: "less than 1kB").
const NOTE_BYTES: usize = 1023;

/// How long equal notices are repetitions of the first (as client-go's recorder has it); then it is a new Event.
const SERIES: Duration = Duration::from_secs(360);

/// Publishes what comes, in the name of `node`, until nobody has anything to say.
pub async fn publish(client: Client, node: &str, mut notices: mpsc::Receiver<Notice>) {
    let mut publisher = Publisher { client, node, own: BTreeMap::new() };
    let mut complained = false;
    while let Some(notice) = notices.recv().await {
        match publisher.publish(&notice).await {
            Ok(()) => complained = false,
            Err(error) if !std::mem::replace(&mut complained, true) => {
                warn!(object = %notice.regarding, error = %Causes(&error), "Event not published");
            }
            Err(error) => debug!(object = %notice.regarding, error = %Causes(&error), "Event not published"),
        }
    }
}

struct Publisher<'a> {
    client: Client,
    node: &'a str,
    /// Events that this agent created, and what came of them since.
    own: BTreeMap<String, Series>,
}

struct Series {
    count: i32,
    last: Instant,
}

impl Publisher<'_> {
    async fn publish(&mut self, notice: &Notice) -> kube::Result<()> {
        let Some(regarding) = reference(&self.client, &notice.regarding).await else {
            debug!(object = %notice.regarding, "object is gone: no Event");
            return Ok(());
        };
        self.own.retain(|_, series| series.last.elapsed() < SERIES);
        // What concerns no namespace is told in this one (API reference, Event v1 events.k8s.io).
        let namespace = regarding.namespace.as_deref().unwrap_or("default");
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let event = event(notice, regarding.clone(), self.node);
        let name = event.metadata.name.clone().unwrap_or_default();
        if let Some(series) = self.own.get_mut(&name) {
            (series.count, series.last) = (series.count + 1, Instant::now());
            let series = EventSeries { count: series.count, last_observed_time: MicroTime(Timestamp::now()) };
            let patch = Patch::Merge(json!({"series": series}));
            match api.patch(&name, &PatchParams::default(), &patch).await {
                // It has expired there: a new one.
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                patched => return patched.map(drop),
            }
        }
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => drop(self.own.insert(name, Series { count: 1, last: Instant::now() })),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                debug!(object = %notice.regarding, event = name, "Event is there already");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn event(notice: &Notice, regarding: ObjectReference, node: &str) -> Event {
    let note = &notice.note[..notice.note.floor_char_boundary(NOTE_BYTES)];
    Event {
        metadata: ObjectMeta {
            name: Some(name(notice, &regarding)),
            namespace: Some(regarding.namespace.clone().unwrap_or_else(|| "default".to_owned())),
            ..ObjectMeta::default()
        },
        type_: Some(notice.reason.kind().to_owned()),
        reason: Some(notice.reason.to_string()),
        action: Some(ACTION.to_owned()),
        note: Some(note.to_owned()),
        event_time: Some(MicroTime(Timestamp::now())),
        regarding: Some(regarding),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(node.to_owned()),
        ..Event::default()
    }
}

/// The same for the same fact, whoever tells it.
fn name(notice: &Notice, regarding: &ObjectReference) -> String {
    let hash = Sha256::new()
        .chain_update(format!("{}\n{}\n{}", notice.regarding, notice.reason, notice.note))
        .chain_update(regarding.uid.as_deref().unwrap_or_default())
        .finalize();
    let hash: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let object = regarding.name.as_deref().unwrap_or_default();
    // A name has 253 characters at most (RFC 1123 subdomain), and no label of it ends in '-'.
    let object = object[..object.floor_char_boundary(NAME_BYTES)].trim_end_matches(['-', '.']);
    format!("{object}.{hash}")
}

/// What of an object's name is in its Event's.
const NAME_BYTES: usize = 230;

/// Names the object with its uid, by which `kubectl describe` finds its Events; `None` when it is gone.
async fn reference(client: &Client, key: &ObjectKey) -> Option<ObjectReference> {
    let resource = resource(key);
    let (namespace, name) = match key {
        ObjectKey::Node(name) | ObjectKey::Namespace(name) | ObjectKey::ClusterNetworkPolicy(name) => {
            (None, name)
        }
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
        let event = event(&notice, ObjectReference::default(), "n1");
        assert_eq!(event.note.expect("a note").len(), 1022);
    }

    #[test]
    fn an_event_is_named_by_what_it_says_and_not_by_who_says_it() {
        let notice = |note: &str| Notice {
            regarding: ObjectKey::Service(NamespacedName::new("shop", "db")),
            reason: Reason::DoesNotFit,
            note: note.to_owned(),
        };
        let of = |name: &str, uid: &str| ObjectReference {
            name: Some(name.to_owned()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        let named = |notice: &Notice, of: ObjectReference, node: &str| {
            event(notice, of, node).metadata.name.expect("a name")
        };
        let first = named(&notice("full"), of("db", "1"), "n1");
        assert_eq!(named(&notice("full"), of("db", "1"), "n2"), first);
        assert_ne!(named(&notice("empty"), of("db", "1"), "n1"), first);
        assert_ne!(named(&notice("full"), of("db", "2"), "n1"), first, "a new object of the same name");
        let long = format!("{}-{}", "x".repeat(229), "y".repeat(20));
        assert!(named(&notice("full"), of(&long, "1"), "n1").contains("xxx."), "cut where a name may end");
    }
}
