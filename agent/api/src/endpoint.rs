//! What the CNI plugin asks of the agent.
//!
//! | Call | Answer |
//! | --- | --- |
//! | `PUT /v1/endpoints/{container}/{ifname}` with [`Registration`] | 200 [`Registered`]: programs are attached, default-drop; repeating it is harmless |
//! | `GET /v1/endpoints/{container}/{ifname}/in-force?timeout_ms=N` | 200 when the pod's first plan is in force; 504 [`Problem`] when it is not within N ms |
//! | `DELETE /v1/endpoints/{container}/{ifname}` | 204, also when there is none |
//! | `GET /v1/endpoints` | 200 list of [`EndpointStatus`] |
//! | `GET /healthz`, `GET /readyz` | 200, or 503 [`Problem`] with what is missing |

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Version of this protocol.
pub const VERSION: u32 = 1;

/// A pod's attachment, wired but with its links down.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Registration {
    /// Container id of the CNI call.
    pub container: String,
    /// Interface name in the pod.
    pub ifname: String,
    /// Name of the host-side veth, in the agent's network namespace.
    pub host_ifname: String,
    /// Interface index of the host-side veth.
    pub host_ifindex: u32,
    /// MAC address of the pod's interface, `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
    /// Leased addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// `K8S_POD_NAMESPACE` of `CNI_ARGS`.
    pub pod_namespace: String,
    /// `K8S_POD_NAME`.
    pub pod_name: String,
    /// `K8S_POD_UID`; absent with runtimes that do not pass it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
}

/// Answer to a registration.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Registered {
    /// The endpoint's number.
    pub endpoint: u32,
}

/// One endpoint as the agent sees it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    /// The endpoint's number.
    pub endpoint: u32,
    /// What the plugin registered.
    pub registration: Registration,
    /// Whether the pod's rules are in force.
    pub in_force: bool,
}

/// Body of every answer that is not a success.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// What could not be done, to what, and why.
    pub message: String,
}
