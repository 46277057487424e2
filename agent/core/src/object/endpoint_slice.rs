//! EndpointSlices.

use serde::Deserialize;

use super::meta::{Meta, or_default, protocol, tcp};

/// An EndpointSlice (`discovery.k8s.io/v1`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    /// Its metadata; the label `kubernetes.io/service-name` says whose endpoints these are.
    pub metadata: Meta,
    /// `IPv4`, `IPv6` or `FQDN`.
    #[serde(deserialize_with = "or_default")]
    pub address_type: String,
    /// The endpoints.
    #[serde(deserialize_with = "or_default")]
    pub endpoints: Vec<SliceEndpoint>,
    /// The ports, which every endpoint has.
    #[serde(deserialize_with = "or_default")]
    pub ports: Vec<EndpointPort>,
}

/// One endpoint of an EndpointSlice.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct SliceEndpoint {
    /// Its addresses, which are equivalent: consumers use the first.
    #[serde(deserialize_with = "or_default")]
    pub addresses: Vec<String>,
    /// Its condition.
    #[serde(deserialize_with = "or_default")]
    pub conditions: EndpointConditions,
    /// The node it is on.
    #[serde(deserialize_with = "or_default")]
    pub node_name: String,
    /// The object behind it.
    pub target_ref: Option<TargetRef>,
    /// Who should use it.
    #[serde(deserialize_with = "or_default")]
    pub hints: EndpointHints,
}

/// Who should use an endpoint.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointHints {
    /// Zones whose nodes should use it.
    #[serde(deserialize_with = "or_default")]
    pub for_zones: Vec<Hint>,
    /// Nodes that should use it.
    #[serde(deserialize_with = "or_default")]
    pub for_nodes: Vec<Hint>,
}

/// The name of a zone or node.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct Hint {
    /// The name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
}

/// The condition of an endpoint; absent fields are read as the API reference says.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct EndpointConditions {
    /// Takes new connections; absent is true.
    pub ready: Option<bool>,
    /// Answers, terminating or not; absent is what `ready` is.
    pub serving: Option<bool>,
    /// Is being deleted; absent is false.
    pub terminating: Option<bool>,
}

impl EndpointConditions {
    /// Whether it takes new connections.
    pub fn is_ready(&self) -> bool {
        self.ready.unwrap_or(true)
    }

    /// Whether it answers.
    pub fn is_serving(&self) -> bool {
        self.serving.unwrap_or_else(|| self.is_ready())
    }

    /// Whether it is being deleted.
    pub fn is_terminating(&self) -> bool {
        self.terminating.unwrap_or(false)
    }
}

/// The object behind an endpoint.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct TargetRef {
    /// Its kind, mostly `Pod`.
    #[serde(deserialize_with = "or_default")]
    pub kind: String,
    /// Its namespace.
    #[serde(deserialize_with = "or_default")]
    pub namespace: String,
    /// Its name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
}

/// One port of an EndpointSlice.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct EndpointPort {
    /// The name of the Service's port.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// The pods' port; absent means every port, which no Service asks for.
    #[serde(default)]
    pub port: Option<i64>,
    /// `TCP`, `UDP` or `SCTP`.
    #[serde(default = "tcp", deserialize_with = "protocol")]
    pub protocol: String,
}
