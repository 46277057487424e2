//! Nodes and Namespaces.

use serde::Deserialize;

use super::meta::{Meta, or_default};

/// A Namespace (`core/v1`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct Namespace {
    /// Its metadata; the label `kubernetes.io/metadata.name` is added where it is missing.
    pub metadata: Meta,
}

/// A Node (`core/v1`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct Node {
    /// Its metadata.
    pub metadata: Meta,
    /// What is wanted.
    #[serde(deserialize_with = "or_default")]
    pub spec: NodeSpec,
    /// What is.
    #[serde(deserialize_with = "or_default")]
    pub status: NodeStatus,
}

/// `spec` of a Node.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct NodeSpec {
    /// Its first pod range.
    #[serde(rename = "podCIDR", deserialize_with = "or_default")]
    pub pod_cidr: String,
    /// Its pod ranges, at most one of each family.
    #[serde(rename = "podCIDRs", deserialize_with = "or_default")]
    pub pod_cidrs: Vec<String>,
}

/// `status` of a Node.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct NodeStatus {
    /// Its addresses and names.
    #[serde(deserialize_with = "or_default")]
    pub addresses: Vec<NodeAddress>,
}

/// One address or name of a Node.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname`, …
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub address_type: String,
    /// The address or name.
    #[serde(deserialize_with = "or_default")]
    pub address: String,
}
