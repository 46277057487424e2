//! Services.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use super::meta::{Meta, PortName, or_default, protocol, tcp};

/// A Service (`core/v1`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct Service {
    /// Its metadata.
    pub metadata: Meta,
    /// What is wanted.
    #[serde(deserialize_with = "or_default")]
    pub spec: ServiceSpec,
    /// What is.
    #[serde(deserialize_with = "or_default")]
    pub status: ServiceStatus,
}

/// `status` of a Service.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// What its load balancer is.
    #[serde(deserialize_with = "or_default")]
    pub load_balancer: LoadBalancerStatus,
}

/// `status.loadBalancer` of a Service.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct LoadBalancerStatus {
    /// Where the load balancer takes traffic.
    #[serde(deserialize_with = "or_default")]
    pub ingress: Vec<LoadBalancerIngress>,
}

/// One address of a load balancer.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerIngress {
    /// The address; empty when it has a name only.
    #[serde(deserialize_with = "or_default")]
    pub ip: String,
    /// `VIP` (also when absent): packets arrive with the address as destination; `Proxy`: they do not.
    #[serde(deserialize_with = "or_default")]
    pub ip_mode: String,
}

/// `spec` of a Service.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    #[serde(rename = "type", deserialize_with = "service_type")]
    pub service_type: String,
    /// Its first address; `None` for a headless Service.
    #[serde(rename = "clusterIP", deserialize_with = "or_default")]
    pub cluster_ip: String,
    /// Its addresses, at most one of each family.
    #[serde(rename = "clusterIPs", deserialize_with = "or_default")]
    pub cluster_ips: Vec<String>,
    /// Where it listens.
    #[serde(deserialize_with = "or_default")]
    pub ports: Vec<ServicePort>,
    /// `None` or `ClientIP`.
    #[serde(deserialize_with = "or_default")]
    pub session_affinity: String,
    /// Settings of session affinity.
    #[serde(deserialize_with = "or_default")]
    pub session_affinity_config: SessionAffinityConfig,
    /// `Cluster` or `Local`.
    #[serde(deserialize_with = "or_default")]
    pub internal_traffic_policy: String,
    /// `Cluster` or `Local`.
    #[serde(deserialize_with = "or_default")]
    pub external_traffic_policy: String,
    /// Addresses that somebody else leads to the nodes.
    #[serde(rename = "externalIPs", deserialize_with = "or_default")]
    pub external_ips: Vec<String>,
    /// Clients that may use the load balancer; all without any.
    #[serde(deserialize_with = "or_default")]
    pub load_balancer_source_ranges: Vec<String>,
    /// Where a load balancer asks whether this node has endpoints; 0 without.
    #[serde(deserialize_with = "or_default")]
    pub health_check_node_port: i64,
    /// Whether endpoints count as ready whatever their readiness.
    #[serde(deserialize_with = "or_default")]
    pub publish_not_ready_addresses: bool,
    /// The pods it serves.
    #[serde(deserialize_with = "or_default")]
    pub selector: BTreeMap<String, String>,
}

impl Default for ServiceSpec {
    fn default() -> Self {
        Self {
            service_type: cluster_ip(),
            cluster_ip: String::new(),
            cluster_ips: Vec::new(),
            ports: Vec::new(),
            session_affinity: String::new(),
            session_affinity_config: SessionAffinityConfig::default(),
            internal_traffic_policy: String::new(),
            external_traffic_policy: String::new(),
            external_ips: Vec::new(),
            load_balancer_source_ranges: Vec::new(),
            health_check_node_port: 0,
            publish_not_ready_addresses: false,
            selector: BTreeMap::new(),
        }
    }
}

impl ServiceSpec {
    /// Its addresses: `clusterIPs`, else `clusterIP`.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        let first = self.cluster_ips.is_empty() && !self.cluster_ip.is_empty();
        self.cluster_ips.iter().map(String::as_str).chain(first.then_some(self.cluster_ip.as_str()))
    }
}

fn cluster_ip() -> String {
    "ClusterIP".to_owned()
}

fn service_type<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let given = Option::<String>::deserialize(from)?;
    Ok(given.filter(|given| !given.is_empty()).unwrap_or_else(cluster_ip))
}

/// One port of a Service.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Its name; may be empty when it is the only one.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// Its number.
    pub port: i64,
    /// `TCP`, `UDP` or `SCTP`.
    #[serde(default = "tcp", deserialize_with = "protocol")]
    pub protocol: String,
    /// The pods' port; absent it is `port`.
    #[serde(default)]
    pub target_port: Option<PortName>,
    /// The nodes' port, 0 without.
    #[serde(default, deserialize_with = "or_default")]
    pub node_port: i64,
}

impl ServicePort {
    /// The pods' port.
    pub fn target(&self) -> PortName {
        self.target_port.clone().unwrap_or(PortName::Number(self.port))
    }
}

/// Settings of session affinity.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct SessionAffinityConfig {
    /// Settings of `ClientIP`.
    #[serde(rename = "clientIP", deserialize_with = "or_default")]
    pub client_ip: ClientIp,
}

/// Settings of `ClientIP` affinity.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientIp {
    /// How long a client keeps its backend, seconds; 3 h by default.
    #[serde(deserialize_with = "three_hours_by_default")]
    pub timeout_seconds: i64,
}

/// Default of `timeoutSeconds` (API reference, `ClientIPConfig`), seconds.
const THREE_HOURS_S: i64 = 10_800;

impl Default for ClientIp {
    fn default() -> Self {
        Self { timeout_seconds: THREE_HOURS_S }
    }
}

fn three_hours_by_default<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(THREE_HOURS_S))
}
