//! What many kinds share: metadata, label selectors, a port by number or name.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer};

/// Reads null as the default, as the API server does.
pub(super) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Namespace and name of an object.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NamespacedName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl NamespacedName {
    /// Makes a name.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// `metadata` of an object (`ObjectMeta` in the API reference).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Absent in cluster-scoped objects; see [`Meta::namespaced_name`].
    #[serde(deserialize_with = "or_default")]
    pub namespace: String,
    /// The object's name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// The object's uid, absent where no API server gave one.
    pub uid: Option<String>,
    /// Its labels.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// Its annotations whose key begins with `sluice.dev/`, and [`MIRROR`]; others are skipped.
    #[serde(deserialize_with = "own_annotations")]
    pub annotations: BTreeMap<String, String>,
    /// Set once deletion has begun (RFC 3339).
    pub deletion_timestamp: Option<String>,
}

impl Meta {
    /// Namespace and name; without namespace it is in `default`.
    pub fn namespaced_name(&self) -> NamespacedName {
        let namespace = if self.namespace.is_empty() { "default" } else { &self.namespace };
        NamespacedName::new(namespace, &*self.name)
    }
}

fn own_annotations<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let mut annotations: BTreeMap<String, String> = or_default(from)?;
    annotations.retain(|key, _| key.starts_with("sluice.dev/") || key == MIRROR);
    Ok(annotations)
}

/// Annotation of the API server's image of a static pod: the uid that the kubelet gave the pod itself
/// (`ConfigMirrorAnnotationKey`, `k8s.io/kubernetes/pkg/kubelet/types`).
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";

/// A label selector (`LabelSelector`, meta/v1); an empty one selects everything.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Labels that must have these values.
    #[serde(deserialize_with = "or_default")]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements; all must hold.
    #[serde(deserialize_with = "or_default")]
    pub match_expressions: Vec<LabelExpression>,
}

/// One requirement of a label selector (`LabelSelectorRequirement`, meta/v1).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelExpression {
    /// The label's key.
    #[serde(deserialize_with = "or_default")]
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    #[serde(deserialize_with = "or_default")]
    pub operator: String,
    /// The values of `In` and `NotIn`.
    #[serde(deserialize_with = "or_default")]
    pub values: Vec<String>,
}

/// A port by number or by name (`IntOrString`); the number's range is judged later.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
#[serde(untagged)]
pub enum PortName {
    /// A number.
    Number(i64),
    /// The name of a container's port.
    Name(String),
}

pub(super) fn tcp() -> String {
    "TCP".to_owned()
}

/// Reads a protocol: absent, null and empty are TCP.
pub(super) fn protocol<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let protocol = Option::<String>::deserialize(from)?;
    Ok(protocol.filter(|protocol| !protocol.is_empty()).unwrap_or_else(tcp))
}
