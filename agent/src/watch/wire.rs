//! What a typed watch decodes: sluice-core's trimmed object, and beside it the names and the `resourceVersion` that the watch
//! needs.
//!
//! **Invariant.** An object is decoded straight into its trimmed form; what is not used is skipped, not stored. Its text is
//! kept until then, so that one that cannot be decoded is an object all the same ([`Broken`]), and not the end of its list.

use std::{borrow::Cow, fmt};

use kube::{
    Resource,
    api::{ApiResource, ObjectMeta},
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _},
};
use serde_json::{Value, json, value::RawValue};
use sluice_core::object::{
    EndpointSlice, LabelSelector, Namespace, NamespacedName, NetworkPolicy, Node, Object, ObjectKey, Pod,
    Service,
};

/// A kind that is watched.
pub(super) trait Kind:
    DeserializeOwned + Into<Object> + Clone + fmt::Debug + Send + Sync + 'static
{
    /// API group; empty is the core group.
    const GROUP: &'static str;
    /// Its `kind`.
    const KIND: &'static str;
    /// Its name in URLs.
    const PLURAL: &'static str;

    /// The object of that name.
    fn key(namespace: &str, name: String) -> ObjectKey;

    /// What may stand in the place of an object that cannot be read, from its text.
    fn closed(_text: &str) -> Option<Object> {
        None
    }
}

macro_rules! kinds {
    ($($kind:ident: $group:literal, $plural:literal, $scope:ident $(, $closed:ident)?;)+) => {
        $(impl Kind for $kind {
            const GROUP: &'static str = $group;
            const KIND: &'static str = stringify!($kind);
            const PLURAL: &'static str = $plural;

            kinds!(@key $scope, $kind);
            $(fn closed(text: &str) -> Option<Object> {
                $closed(text)
            })?
        })+

        /// Where the API server has an object.
        pub(crate) fn resource(key: &ObjectKey) -> ApiResource {
            match key {
                $(ObjectKey::$kind(_) => ApiResource::erase::<Watched<$kind>>(&()),)+
            }
        }
    };
    (@key namespaced, $kind:ident) => {
        fn key(namespace: &str, name: String) -> ObjectKey {
            ObjectKey::$kind(NamespacedName::new(namespace, name))
        }
    };
    (@key cluster, $kind:ident) => {
        fn key(_namespace: &str, name: String) -> ObjectKey {
            ObjectKey::$kind(name)
        }
    };
}

kinds! {
    Pod: "", "pods", namespaced;
    Namespace: "", "namespaces", cluster;
    Node: "", "nodes", cluster;
    Service: "", "services", namespaced;
    EndpointSlice: "discovery.k8s.io", "endpointslices", namespaced;
    NetworkPolicy: "networking.k8s.io", "networkpolicies", namespaced, closed_policy;
}

/// An object, or what is left of it.
#[derive(Clone, Debug)]
pub(super) struct Watched<T> {
    /// Only names and `resourceVersion` are filled in; boxed, since the rest is large and empty.
    metadata: Box<ObjectMeta>,
    /// The object.
    pub(super) object: Result<T, Broken>,
}

/// An object in another form than is known here.
#[derive(Clone, Debug)]
pub(super) struct Broken {
    /// What is wrong with it.
    pub(super) reason: String,
    /// What may stand in its place because it opens nothing.
    pub(super) closed: Option<Object>,
}

impl<T: Kind> Watched<T> {
    /// Which object it is.
    pub(super) fn key(&self) -> ObjectKey {
        let namespace = self.metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty());
        let name = self.metadata.name.clone().unwrap_or_default();
        T::key(namespace.unwrap_or("default"), name)
    }
}

impl<T: Kind> Resource for Watched<T> {
    type DynamicType = ();
    type Scope = kube::core::DynamicResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        T::KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        T::GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        T::PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The names and the version alone: everything else is skipped.
#[derive(Deserialize)]
struct Named {
    metadata: Names,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Names {
    namespace: Option<String>,
    name: String,
    resource_version: Option<String>,
}

impl<'de, T: Kind> Deserialize<'de> for Watched<T> {
    /// Only from JSON text, in which `type` comes before `object` (`WatchEvent`, `k8s.io/apimachinery/pkg/apis/meta/v1`).
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(from)?;
        let Named { metadata } = serde_json::from_str(text.get()).map_err(D::Error::custom)?;
        let object = serde_json::from_str(text.get())
            .map_err(|error| Broken { reason: error.to_string(), closed: T::closed(text.get()) });
        let metadata = Box::new(ObjectMeta {
            namespace: metadata.namespace,
            name: Some(metadata.name),
            resource_version: metadata.resource_version,
            ..ObjectMeta::default()
        });
        Ok(Self { metadata, object })
    }
}

/// A policy of which only the selection is kept: it isolates, and allows nothing. What cannot be read of the selection
/// selects everything: all pods of the namespace, both directions.
fn closed_policy(text: &str) -> Option<Object> {
    let policy: Value = serde_json::from_str(text).ok()?;
    let (spec, names) = (&policy["spec"], &policy["metadata"]);
    let selector: Option<LabelSelector> = serde_json::from_value(spec["podSelector"].clone()).ok();
    let types: Option<Vec<String>> = serde_json::from_value(spec["policyTypes"].clone()).ok();
    let pod_selector = if selector.is_some() { spec["podSelector"].clone() } else { json!({}) };
    let policy_types = types.unwrap_or_else(|| vec!["Ingress".to_owned(), "Egress".to_owned()]);
    let closed = json!({
        "metadata": {"name": names["name"], "namespace": names["namespace"]},
        "spec": {"podSelector": pod_selector, "policyTypes": policy_types},
    });
    serde_json::from_value(closed).ok().map(Object::NetworkPolicy)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = r#"{"kind": "Pod", "metadata": {"managedFields": [{"fieldsV1": {"f:spec": {}}}], "name": "db-0",
        "resourceVersion": "42", "labels": {"app": "db"}}, "spec": {"nodeName": "n1", "containers": []}}"#;

    #[test]
    fn names_version_and_object_are_decoded() {
        let watched: Watched<Pod> = serde_json::from_str(POD).expect("a pod");
        assert_eq!(watched.metadata.resource_version.as_deref(), Some("42"));
        assert_eq!(watched.key().to_string(), "Pod default/db-0");
        let pod = watched.object.expect("in a known form");
        assert_eq!(pod, serde_json::from_str(POD).expect("the same pod"));
        assert_eq!(pod.metadata.labels["app"], "db");
    }

    #[test]
    fn a_watch_event_may_hold_an_object_that_cannot_be_read() {
        use kube::api::WatchEvent;

        let odd = POD.replace("[]", "7");
        for (pod, is_readable) in [(POD, true), (odd.as_str(), false)] {
            let event: WatchEvent<Watched<Pod>> =
                serde_json::from_str(&format!(r#"{{"type":"ADDED","object":{pod}}}"#)).expect("an event");
            let WatchEvent::Added(watched) = event else { panic!("{event:?}") };
            assert_eq!(watched.metadata.resource_version.as_deref(), Some("42"));
            assert_eq!(watched.object.is_ok(), is_readable, "{:?}", watched.object);
        }
    }

    #[test]
    fn a_policy_that_cannot_be_read_keeps_its_selection_and_allows_nothing() {
        let policy = |spec: &Value| {
            let text = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec}).to_string();
            let watched: Watched<NetworkPolicy> = serde_json::from_str(&text).expect("an object");
            let broken = watched.object.expect_err("another form");
            let Some(Object::NetworkPolicy(closed)) = broken.closed else { panic!("{broken:?}") };
            assert_eq!(closed.metadata.namespace, "shop");
            assert!(closed.spec.ingress.is_empty() && closed.spec.egress.is_empty());
            closed.spec
        };
        let selects = json!({"matchLabels": {"app": "db"}});
        let spec = policy(
            &json!({"podSelector": selects, "policyTypes": ["Egress"], "ingress": "all", "egress": [{}]}),
        );
        assert_eq!(
            (spec.pod_selector.match_labels["app"].as_str(), spec.policy_types),
            ("db", vec!["Egress".to_owned()])
        );
        let spec = policy(&json!({"podSelector": 7, "policyTypes": "both"}));
        assert_eq!(spec.pod_selector, LabelSelector::default(), "all pods of the namespace");
        assert_eq!(spec.policy_types, ["Ingress", "Egress"]);
    }

    #[test]
    fn kinds_are_asked_for_under_their_api_paths() {
        assert_eq!(Watched::<Pod>::url_path(&(), None), "/api/v1/pods");
        assert_eq!(
            Watched::<NetworkPolicy>::url_path(&(), None),
            "/apis/networking.k8s.io/v1/networkpolicies"
        );
    }
}
