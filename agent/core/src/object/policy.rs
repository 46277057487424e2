//! NetworkPolicies.
//!
//! Absent and empty differ in places (API reference, `NetworkPolicySpec`): those fields are `Option`s.

use serde::Deserialize;

use super::meta::{LabelSelector, Meta, PortName, or_default, protocol, tcp};

/// Annotation of a policy, or of a namespace about its NetworkPolicies: `audit` keeps it from being enforced.
pub const MODE: &str = "sluice.dev/mode";

/// A NetworkPolicy (`networking.k8s.io/v1`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct NetworkPolicy {
    /// Its metadata; the annotation [`MODE`] is kept.
    pub metadata: Meta,
    /// What is wanted.
    #[serde(deserialize_with = "or_default")]
    pub spec: NetworkPolicySpec,
}

/// `spec` of a NetworkPolicy.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicySpec {
    /// The pods it isolates, in its own namespace; empty (or absent) selects all.
    #[serde(deserialize_with = "or_default")]
    pub pod_selector: LabelSelector,
    /// Who may send to them; no rule lets nobody.
    #[serde(deserialize_with = "or_default")]
    pub ingress: Vec<IngressRule>,
    /// Whom they may send to; no rule lets nobody.
    #[serde(deserialize_with = "or_default")]
    pub egress: Vec<EgressRule>,
    /// `Ingress`, `Egress`; absent it is Ingress, and Egress when there is an egress rule.
    #[serde(deserialize_with = "or_default")]
    pub policy_types: Vec<String>,
}

/// A rule about who may send.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct IngressRule {
    /// Empty or absent: every port and protocol.
    #[serde(deserialize_with = "or_default")]
    pub ports: Vec<NetworkPolicyPort>,
    /// Empty or absent: every peer.
    #[serde(deserialize_with = "or_default")]
    pub from: Vec<NetworkPolicyPeer>,
}

/// A rule about whom one may send to.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct EgressRule {
    /// Empty or absent: every port and protocol.
    #[serde(deserialize_with = "or_default")]
    pub ports: Vec<NetworkPolicyPort>,
    /// Empty or absent: every peer.
    #[serde(deserialize_with = "or_default")]
    pub to: Vec<NetworkPolicyPeer>,
}

/// Ports of one protocol.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicyPort {
    /// `TCP`, `UDP` or `SCTP`.
    #[serde(default = "tcp", deserialize_with = "protocol")]
    pub protocol: String,
    /// A number or the name of a container's port; absent: every port.
    #[serde(default)]
    pub port: Option<PortName>,
    /// The last port of a range that begins with `port`.
    #[serde(default)]
    pub end_port: Option<i64>,
}

/// A peer: either selectors, of which an absent namespace selector means the policy's namespace, or a range.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicyPeer {
    /// Selects pods.
    pub pod_selector: Option<LabelSelector>,
    /// Selects namespaces.
    pub namespace_selector: Option<LabelSelector>,
    /// A range of addresses.
    pub ip_block: Option<IpBlock>,
}

/// A range of addresses.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct IpBlock {
    /// The range.
    #[serde(deserialize_with = "or_default")]
    pub cidr: String,
    /// Ranges within it that are left out.
    #[serde(deserialize_with = "or_default")]
    pub except: Vec<String>,
}
