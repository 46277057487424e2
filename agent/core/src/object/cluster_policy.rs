//! ClusterNetworkPolicies.
//!
//! The API says what shall happen when "no fields are set" in a peer: the object is of a version that has more of them. So
//! whatever has exactly one field of several is read with all of them, each an `Option`, and `cluster` counts.

use serde::Deserialize;

use super::meta::{LabelSelector, Meta, or_default};

/// A ClusterNetworkPolicy (`policy.networking.k8s.io/v1alpha2`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct ClusterNetworkPolicy {
    /// Its metadata; the annotation `sluice.dev/mode` is kept.
    pub metadata: Meta,
    /// What is wanted.
    #[serde(deserialize_with = "or_default")]
    pub spec: ClusterNetworkPolicySpec,
}

/// `spec` of a ClusterNetworkPolicy.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct ClusterNetworkPolicySpec {
    /// `Admin` or `Baseline`.
    #[serde(deserialize_with = "or_default")]
    pub tier: String,
    /// 0–1000; the lower goes first.
    pub priority: Option<i64>,
    /// The pods it is about.
    #[serde(deserialize_with = "or_default")]
    pub subject: ClusterNetworkPolicySubject,
    /// What is said of traffic to them, the first match counts.
    #[serde(deserialize_with = "or_default")]
    pub ingress: Vec<ClusterNetworkPolicyRule>,
    /// What is said of traffic from them, the first match counts.
    #[serde(deserialize_with = "or_default")]
    pub egress: Vec<ClusterNetworkPolicyRule>,
}

/// Which pods; exactly one field is set.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct ClusterNetworkPolicySubject {
    /// All pods of these namespaces.
    pub namespaces: Option<LabelSelector>,
    /// These pods of these namespaces.
    pub pods: Option<NamespacedPods>,
}

/// Pods of namespaces (`NamespacedPod`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct NamespacedPods {
    /// The namespaces; empty (or absent) selects all.
    #[serde(deserialize_with = "or_default")]
    pub namespace_selector: LabelSelector,
    /// The pods; empty selects all. The API requires it.
    pub pod_selector: Option<LabelSelector>,
}

/// A rule, of either direction.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct ClusterNetworkPolicyRule {
    /// What its author calls it.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// `Accept`, `Deny` or `Pass`.
    #[serde(deserialize_with = "or_default")]
    pub action: String,
    /// Who sends, in an ingress rule; the API requires at least one.
    #[serde(deserialize_with = "or_default")]
    pub from: Vec<ClusterNetworkPolicyPeer>,
    /// Who receives, in an egress rule; the API requires at least one.
    #[serde(deserialize_with = "or_default")]
    pub to: Vec<ClusterNetworkPolicyPeer>,
    /// Empty or absent: every port and protocol.
    #[serde(deserialize_with = "or_default")]
    pub protocols: Vec<ClusterNetworkPolicyProtocol>,
}

/// A peer; exactly one field is set. The field `nodes` of the experimental channel and `domainNames` are not read: such a
/// peer has no field set.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct ClusterNetworkPolicyPeer {
    /// All pods of these namespaces.
    pub namespaces: Option<LabelSelector>,
    /// These pods of these namespaces.
    pub pods: Option<NamespacedPods>,
    /// Ranges of addresses, for egress alone.
    #[serde(deserialize_with = "or_default")]
    pub networks: Vec<String>,
}

/// Packets of one protocol, or of a named port; exactly one field is set.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterNetworkPolicyProtocol {
    /// TCP.
    pub tcp: Option<ProtocolMatch>,
    /// UDP.
    pub udp: Option<ProtocolMatch>,
    /// SCTP.
    pub sctp: Option<ProtocolMatch>,
    /// The ports of that name of the pod that receives, of whatever protocol.
    #[serde(deserialize_with = "or_default")]
    pub destination_named_port: String,
}

/// Packets of a protocol; the API requires at least one field.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ProtocolMatch {
    /// The port they go to.
    pub destination_port: Option<Port>,
}

/// Ports; exactly one field is set.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct Port {
    /// One port.
    pub number: Option<i64>,
    /// A range; both ends are in it.
    pub range: Option<PortRange>,
}

/// A range of ports.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
pub struct PortRange {
    /// The first port.
    pub start: i64,
    /// The last port.
    pub end: i64,
}
