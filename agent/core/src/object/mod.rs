//! Kubernetes objects as they come over the wire, cut down to the fields that matter here.
//!
//! Every kind has its own `Deserialize` with the same shape as the API's (`metadata`, `spec`, `status`), so a typed
//! watch can decode straight into it; what is not listed is skipped while decoding. [`Object::from_value`] reads any
//! of them by `apiVersion` and `kind`.
//!
//! **Invariant: read as the API server would default.** An absent or null field gets the default of the API reference;
//! a namespaced object without namespace is in `default`. Words are not judged here: an unknown protocol or operator
//! is still an object, and `cluster` decides what becomes of it.

mod cluster_policy;
mod endpoint_slice;
mod meta;
mod node;
mod pod;
mod policy;
mod service;

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;

pub use cluster_policy::{
    ClusterNetworkPolicy, ClusterNetworkPolicyPeer, ClusterNetworkPolicyProtocol, ClusterNetworkPolicyRule,
    ClusterNetworkPolicySpec, ClusterNetworkPolicySubject, NamespacedPods, Port, PortRange, ProtocolMatch,
};
pub use endpoint_slice::{
    EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, Hint, SliceEndpoint, TargetRef,
};
pub(crate) use meta::MIRROR;
pub use meta::{LabelExpression, LabelSelector, Meta, NamespacedName, PortName};
pub use node::{Namespace, Node, NodeAddress, NodeSpec, NodeStatus};
pub use pod::{Container, ContainerPort, Pod, PodIp, PodSpec, PodStatus};
pub use policy::MODE;
pub use policy::{
    EgressRule, IngressRule, IpBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
pub use service::{
    ClientIp, LoadBalancerIngress, LoadBalancerStatus, Service, ServicePort, ServiceSpec, ServiceStatus,
    SessionAffinityConfig,
};

macro_rules! kinds {
    ($($variant:ident, $api_version:literal, $scope:ident;)+) => {
        /// One object of a kind that is used here.
        #[derive(Clone, Debug, Eq, PartialEq)]
        pub enum Object {
            $(#[doc = concat!("`", $api_version, "` ", stringify!($variant), ".")] $variant($variant),)+
        }

        impl Object {
            /// Which object it is.
            pub fn key(&self) -> ObjectKey {
                match self {
                    $(Self::$variant(object) => kinds!(@key $scope, $variant, object.metadata),)+
                }
            }

            fn decode(api_version: &str, kind: &str, value: Value) -> Option<Result<Self, ObjectError>> {
                match (api_version, kind) {
                    $(($api_version, stringify!($variant)) => {
                        Some(read(stringify!($variant), value).map(Self::$variant))
                    })+
                    _ => None,
                }
            }
        }

        $(impl From<$variant> for Object {
            fn from(object: $variant) -> Self {
                Self::$variant(object)
            }
        })+
    };
    (@key namespaced, $variant:ident, $meta:expr) => { ObjectKey::$variant($meta.namespaced_name()) };
    (@key cluster, $variant:ident, $meta:expr) => { ObjectKey::$variant($meta.name.clone()) };
}

kinds! {
    Pod, "v1", namespaced;
    Namespace, "v1", cluster;
    Node, "v1", cluster;
    Service, "v1", namespaced;
    EndpointSlice, "discovery.k8s.io/v1", namespaced;
    NetworkPolicy, "networking.k8s.io/v1", namespaced;
    ClusterNetworkPolicy, "policy.networking.k8s.io/v1alpha2", cluster;
}

/// Names one object.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ObjectKey {
    /// A Pod.
    Pod(NamespacedName),
    /// A Namespace.
    Namespace(String),
    /// A Node.
    Node(String),
    /// A Service.
    Service(NamespacedName),
    /// An EndpointSlice.
    EndpointSlice(NamespacedName),
    /// A NetworkPolicy.
    NetworkPolicy(NamespacedName),
    /// A ClusterNetworkPolicy.
    ClusterNetworkPolicy(String),
}

/// Names one policy, of either kind.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum PolicyName {
    /// A NetworkPolicy.
    NetworkPolicy(NamespacedName),
    /// A ClusterNetworkPolicy.
    ClusterNetworkPolicy(String),
}

impl From<PolicyName> for ObjectKey {
    fn from(name: PolicyName) -> Self {
        match name {
            PolicyName::NetworkPolicy(name) => Self::NetworkPolicy(name),
            PolicyName::ClusterNetworkPolicy(name) => Self::ClusterNetworkPolicy(name),
        }
    }
}

impl fmt::Display for PolicyName {
    /// `namespace/name`, or the name alone: no name holds a slash.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NetworkPolicy(name) => name.fmt(f),
            Self::ClusterNetworkPolicy(name) => name.fmt(f),
        }
    }
}

impl ObjectKey {
    /// The object's kind.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Pod(_) => "Pod",
            Self::Namespace(_) => "Namespace",
            Self::Node(_) => "Node",
            Self::Service(_) => "Service",
            Self::EndpointSlice(_) => "EndpointSlice",
            Self::NetworkPolicy(_) => "NetworkPolicy",
            Self::ClusterNetworkPolicy(_) => "ClusterNetworkPolicy",
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) | Self::Node(name) | Self::ClusterNetworkPolicy(name) => {
                write!(f, "{} {name}", self.kind())
            }
            Self::Pod(name) | Self::Service(name) | Self::EndpointSlice(name) | Self::NetworkPolicy(name) => {
                write!(f, "{} {name}", self.kind())
            }
        }
    }
}

/// Why something is no Kubernetes object.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// It says not what it is.
    #[error("reading an object without apiVersion or kind")]
    Untyped,
    /// A field has another form than the API gives it.
    #[error("reading {kind} {name}")]
    Form {
        /// Its kind.
        kind: &'static str,
        /// Its `namespace/name`, as far as it could be read.
        name: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// It has no name.
    #[error("reading {kind} without a name")]
    Unnamed {
        /// Its kind.
        kind: &'static str,
    },
    /// Its name or namespace is none that an API server would take.
    #[error("reading {kind}: {name:?} is no name")]
    Name {
        /// Its kind.
        kind: &'static str,
        /// What was given.
        name: String,
    },
}

impl Object {
    /// Reads an object; one of a kind that is not used here is `None`. Lists are for [`flatten`].
    ///
    /// # Errors
    /// Any [`ObjectError`].
    pub fn from_value(value: Value) -> Result<Option<Self>, ObjectError> {
        let (Some(api_version), Some(kind)) = (text(&value, "apiVersion"), text(&value, "kind")) else {
            return Err(ObjectError::Untyped);
        };
        Self::decode(&api_version, &kind, value).transpose()
    }
}

/// The objects in `value`: the items of a `List` (or `PodList`, …), else `value` itself; nothing for null.
///
/// Items of a typed list say not what they are; they get the list's `apiVersion` and its kind without `List`.
pub fn flatten(mut value: Value) -> Vec<Value> {
    if value.is_null() {
        return Vec::new();
    }
    let api_version = text(&value, "apiVersion");
    let Some(item_kind) = text(&value, "kind").and_then(|kind| kind.strip_suffix("List").map(str::to_owned))
    else {
        return vec![value];
    };
    let Some(items) = value.get_mut("items").map(Value::take) else {
        return Vec::new();
    };
    let Value::Array(items) = items else {
        return Vec::new();
    };
    let typed = |mut item: Value| {
        if let (Some(fields), false) = (item.as_object_mut(), item_kind.is_empty()) {
            fields.entry("kind").or_insert_with(|| item_kind.clone().into());
            fields.entry("apiVersion").or_insert_with(|| api_version.clone().into());
        }
        item
    };
    items.into_iter().map(typed).flat_map(flatten).collect()
}

fn text(value: &Value, field: &str) -> Option<String> {
    value.get(field)?.as_str().map(str::to_owned)
}

fn read<T: DeserializeOwned>(kind: &'static str, value: Value) -> Result<T, ObjectError> {
    let metadata = value.get("metadata").cloned().unwrap_or_default();
    let Some(name) = text(&metadata, "name").filter(|name| !name.is_empty()) else {
        return Err(ObjectError::Unnamed { kind });
    };
    let namespace = text(&metadata, "namespace").filter(|namespace| !namespace.is_empty());
    for name in [Some(&name), namespace.as_ref()].into_iter().flatten() {
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte)) {
            return Err(ObjectError::Name { kind, name: name.clone() });
        }
    }
    serde_json::from_value(value).map_err(|source| {
        let name = namespace.map_or(name.clone(), |namespace| format!("{namespace}/{name}"));
        ObjectError::Form { kind, name, source }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absent_and_null_fields_get_the_defaults_of_the_api() {
        let value = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db", "labels": null},
            "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80, "protocol": null}], "selector": null}});
        let object = Object::from_value(value).expect("a good object").expect("a known kind");
        assert_eq!(object.key().to_string(), "Service default/db");
        let Object::Service(service) = object else { panic!("a Service") };
        assert_eq!(service.spec.service_type, "ClusterIP");
        assert_eq!(service.spec.ports[0].protocol, "TCP");
        assert_eq!(service.spec.ports[0].target(), PortName::Number(80));
        assert_eq!(service.spec.addresses().collect::<Vec<_>>(), ["10.96.0.7"]);
    }

    #[test]
    fn an_unknown_kind_is_nothing_and_a_nameless_object_an_error() {
        let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}});
        assert!(Object::from_value(config).expect("an object").is_none());
        let error = Object::from_value(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}}));
        assert_eq!(error.expect_err("no name").to_string(), "reading Pod without a name");
        assert!(Object::from_value(json!({"kind": "Pod"})).is_err());
    }

    #[test]
    fn lists_are_flattened_and_typed_items_get_their_kind() {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "PodList", "items": [{"metadata": {"name": "a"}}]},
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}]});
        let keys: Vec<_> = flatten(list)
            .into_iter()
            .map(|item| Object::from_value(item).expect("an object").expect("known").key().to_string())
            .collect();
        assert_eq!(keys, ["Pod default/a", "Node n"]);
    }
}
