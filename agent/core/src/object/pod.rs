//! Pods.

use serde::Deserialize;

use super::meta::{Meta, or_default, protocol, tcp};

/// A Pod (`core/v1`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct Pod {
    /// Its metadata.
    pub metadata: Meta,
    /// What is wanted.
    #[serde(deserialize_with = "or_default")]
    pub spec: PodSpec,
    /// What is.
    #[serde(deserialize_with = "or_default")]
    pub status: PodStatus,
}

/// `spec` of a Pod.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// The node it runs on, once scheduled.
    #[serde(deserialize_with = "or_default")]
    pub node_name: String,
    /// Whether it lives in its node's network namespace.
    #[serde(deserialize_with = "or_default")]
    pub host_network: bool,
    /// Its containers.
    #[serde(deserialize_with = "or_default")]
    pub containers: Vec<Container>,
    /// Its init containers; those with `restartPolicy: Always` are sidecars and go on running.
    #[serde(deserialize_with = "or_default")]
    pub init_containers: Vec<Container>,
}

/// A container of a Pod.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// `Always` makes an init container a sidecar (KEP-753).
    pub restart_policy: Option<String>,
    /// Its ports.
    #[serde(deserialize_with = "or_default")]
    pub ports: Vec<ContainerPort>,
}

/// A port of a container.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// Its name, by which policies and Services may refer to it.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// Its number.
    pub container_port: i64,
    /// `TCP`, `UDP` or `SCTP`.
    #[serde(default = "tcp", deserialize_with = "protocol")]
    pub protocol: String,
}

/// `status` of a Pod.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    #[serde(deserialize_with = "or_default")]
    pub phase: String,
    /// Its first address.
    #[serde(rename = "podIP", deserialize_with = "or_default")]
    pub pod_ip: String,
    /// Its addresses, at most one of each family.
    #[serde(rename = "podIPs", deserialize_with = "or_default")]
    pub pod_ips: Vec<PodIp>,
}

/// One address of a Pod.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct PodIp {
    /// The address.
    #[serde(deserialize_with = "or_default")]
    pub ip: String,
}
