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
    ClusterNetworkPolicy, ClusterNetworkPolicyRule, ClusterNetworkPolicySubject, EndpointSlice,
    LabelSelector, MODE, Namespace, NamespacedName, NetworkPolicy, Node, Object, ObjectKey, Pod, Service,
};

/// A kind that is watched.
pub(super) trait Kind:
    DeserializeOwned + Into<Object> + Clone + fmt::Debug + Send + Sync + 'static
{
    /// API group; empty is the core group.
    const GROUP: &'static str;
    /// Its `kind`.
    const KIND: &'static str;
    /// Version of the API group.
    const VERSION: &'static str = "v1";
    /// Its name in URLs.
    const PLURAL: &'static str;
    /// Whether a cluster may be without it: its definition is an object of the cluster.
    const MAY_BE_MISSING: bool = false;

    /// The object of that name.
    fn key(namespace: &str, name: String) -> ObjectKey;

    /// What may stand in the place of an object that cannot be read, from its text.
    fn closed(_text: &str) -> Option<Object> {
        None
    }
}

macro_rules! kinds {
    ($($kind:ident: $group:literal, $plural:literal, $scope:ident
        $(, closed by $closed:ident)? $(, defined at $version:literal)?;)+) => {
        $(impl Kind for $kind {
            const GROUP: &'static str = $group;
            const KIND: &'static str = stringify!($kind);
            const PLURAL: &'static str = $plural;
            $(const VERSION: &'static str = $version;
            const MAY_BE_MISSING: bool = true;)?

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
    NetworkPolicy: "networking.k8s.io", "networkpolicies", namespaced, closed by closed_policy;
    ClusterNetworkPolicy: "policy.networking.k8s.io", "clusternetworkpolicies", cluster,
        closed by closed_cluster_policy, defined at "v1alpha2";
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
        T::VERSION.into()
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
        "metadata": {"name": names["name"], "namespace": names["namespace"], "annotations": mode(names)},
        "spec": {"podSelector": pod_selector, "policyTypes": policy_types},
    });
    serde_json::from_value(closed).ok().map(Object::NetworkPolicy)
}

/// The annotation that says whether a policy is enforced: what cannot be read of one that is audited cuts nobody off.
fn mode(metadata: &Value) -> Value {
    let mode = metadata["annotations"][MODE].as_str();
    mode.map_or_else(|| json!({}), |mode| json!({MODE: mode}))
}

/// A policy of which what cannot be read is left out: sluice-core closes what then is missing in a rule, and a list of
/// rules that is none is a rule that denies everything.
fn closed_cluster_policy(text: &str) -> Option<Object> {
    let policy: Value = serde_json::from_str(text).ok()?;
    let (mut spec, names) = (policy["spec"].clone(), &policy["metadata"]);
    if !spec.is_object() {
        spec = json!({"ingress": true, "egress": true});
    }
    let unless_read = |value: &mut Value, is_read: bool, instead: Value| {
        if !is_read {
            *value = instead;
        }
    };
    let is_text = spec["tier"].is_string();
    unless_read(&mut spec["tier"], is_text, Value::Null);
    let is_number = spec["priority"].is_i64();
    unless_read(&mut spec["priority"], is_number, Value::Null);
    let is_subject = ClusterNetworkPolicySubject::deserialize(&spec["subject"]).is_ok();
    unless_read(&mut spec["subject"], is_subject, json!({}));
    for direction in ["ingress", "egress"] {
        let rules = &mut spec[direction];
        match rules {
            Value::Null => {}
            Value::Array(rules) => {
                for rule in rules {
                    let is_rule = ClusterNetworkPolicyRule::deserialize(&*rule).is_ok();
                    let action = rule["action"].as_str().map(str::to_owned);
                    unless_read(rule, is_rule, json!({"action": action}));
                }
            }
            other @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
                *other = json!([{}])
            }
        }
    }
    let closed = json!({"metadata": {"name": names["name"], "annotations": mode(names)}, "spec": spec});
    serde_json::from_value(closed).ok().map(Object::ClusterNetworkPolicy)
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
    fn a_cluster_policy_that_cannot_be_read_keeps_its_rules_and_closes_those_that_cannot() {
        let policy = |spec: &Value| {
            let text = json!({"metadata": {"name": "p"}, "spec": spec}).to_string();
            let watched: Watched<ClusterNetworkPolicy> = serde_json::from_str(&text).expect("an object");
            let broken = watched.object.expect_err("another form");
            let Some(Object::ClusterNetworkPolicy(closed)) = broken.closed else { panic!("{broken:?}") };
            closed.spec
        };
        let spec = policy(&json!({"tier": "Baseline", "priority": 7, "subject": {"namespaces": {}},
            "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}, {"action": "Accept", "from": 7}],
            "egress": "none"}));
        assert_eq!((spec.tier.as_str(), spec.priority), ("Baseline", Some(7)));
        assert!(spec.subject.namespaces.is_some());
        assert_eq!(spec.ingress[0].from.len(), 1);
        assert_eq!((spec.ingress[1].action.as_str(), spec.ingress[1].from.len()), ("Accept", 0));
        assert_eq!(spec.egress, [ClusterNetworkPolicyRule::default()], "denies everything");
        let spec = policy(&json!({"tier": 1, "priority": "x", "subject": [7]}));
        assert_eq!((spec.tier.as_str(), spec.priority), ("", None));
        assert_eq!(spec.subject, ClusterNetworkPolicySubject::default());
        assert_eq!(policy(&json!(7)).ingress, [ClusterNetworkPolicyRule::default()]);
    }

    #[test]
    fn kinds_are_asked_for_under_their_api_paths() {
        assert_eq!(Watched::<Pod>::url_path(&(), None), "/api/v1/pods");
        assert_eq!(
            Watched::<NetworkPolicy>::url_path(&(), None),
            "/apis/networking.k8s.io/v1/networkpolicies"
        );
        assert_eq!(
            Watched::<ClusterNetworkPolicy>::url_path(&(), None),
            "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies"
        );
    }
}
