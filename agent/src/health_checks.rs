//! What load balancers ask: whether this node has endpoints of a Service (`healthCheckNodePort`).
//!
//! Start at [`keep`]. Ports, status codes, headers and body are those of kube-proxy
//! (`k8s.io/kubernetes/pkg/proxy/healthcheck/service_health.go`): 200 with endpoints here, 503 without, on every path.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderName, StatusCode, header::X_CONTENT_TYPE_OPTIONS},
    response::{IntoResponse, Response},
};
use nix::sys::socket::{setsockopt, sockopt};
use serde::Serialize;
use sluice_core::{desired::HealthCheck, object::NamespacedName};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::watch,
    task::JoinHandle,
};
use tracing::{info, warn};

/// What is asked about, and where.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HealthChecks {
    /// The Services.
    pub services: Arc<BTreeMap<NamespacedName, HealthCheck>>,
    /// Addresses of the node that answer; `None` is all of them.
    pub addresses: Option<BTreeSet<IpAddr>>,
}

/// Why a port cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("answering health checks of Service {service} at {at}")]
pub struct HealthCheckError {
    /// Whose.
    pub service: NamespacedName,
    /// Where.
    pub at: SocketAddr,
    /// Why not.
    pub source: io::Error,
}

/// Calls that wait to be taken.
const BACKLOG: u32 = 128;

/// How heavily a load balancer may use this node (KEP-1669, as kube-proxy says it).
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// The open ports.
#[derive(Debug, Default)]
pub struct Servers {
    open: BTreeMap<SocketAddr, Open>,
    told: BTreeSet<SocketAddr>,
}

/// An open port; it is closed soon after this is dropped.
#[derive(Debug)]
struct Open {
    service: NamespacedName,
    answer: watch::Sender<usize>,
    task: JoinHandle<io::Result<()>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Servers {
    /// Opens, closes and answers as `wanted` says; false when a port could not be opened and should be tried again.
    pub async fn keep(&mut self, wanted: &HealthChecks) -> bool {
        let places = places(wanted);
        let is_wanted = |at: &SocketAddr, open: &Open| {
            places.get(at).is_some_and(|(service, _)| **service == open.service)
        };
        // Another may want the port: it is free when the task has ended.
        for (_, mut open) in self.open.extract_if(.., |at, open| !is_wanted(at, open)) {
            open.task.abort();
            let _cancelled = (&mut open.task).await;
        }
        let mut refused = BTreeSet::new();
        for (at, (service, endpoints)) in places {
            if let Some(open) = self.open.get(&at) {
                open.answer.send_if_modified(|known| std::mem::replace(known, endpoints) != endpoints);
                continue;
            }
            match Open::listen(at, service, endpoints) {
                Ok(open) => {
                    info!(%service, %at, "health checks answered");
                    self.open.insert(at, open);
                }
                Err(source) => {
                    let error = HealthCheckError { service: service.clone(), at, source };
                    if !self.told.contains(&at) {
                        warn!(error = %crate::causes::Causes(&error), "load balancers will not use this node");
                    }
                    refused.insert(at);
                }
            }
        }
        self.told = refused;
        self.told.is_empty()
    }
}

/// Whose health is asked where, with how many endpoints; of two Services with one port the first by name has it.
fn places(wanted: &HealthChecks) -> BTreeMap<SocketAddr, (&NamespacedName, usize)> {
    let everywhere = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
    let addresses = wanted.addresses.clone().unwrap_or_else(|| everywhere.into());
    let mut places = BTreeMap::new();
    for (service, check) in &*wanted.services {
        for addr in &addresses {
            let at = SocketAddr::new(*addr, check.port);
            places.entry(at).or_insert((service, check.local_endpoints));
        }
    }
    places
}

impl Open {
    fn listen(at: SocketAddr, service: &NamespacedName, endpoints: usize) -> io::Result<Self> {
        let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if at.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
        }
        socket.set_reuseaddr(true)?;
        socket.bind(at)?;
        let listener: TcpListener = socket.listen(BACKLOG)?;
        let (answer, follow) = watch::channel(endpoints);
        let asked = Asked { service: service.clone(), endpoints: follow };
        let router = Router::new().fallback(answer_check).with_state(asked);
        let task = tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { service: service.clone(), answer, task })
    }
}

#[derive(Clone)]
struct Asked {
    service: NamespacedName,
    endpoints: watch::Receiver<usize>,
}

/// The body of an answer.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Health {
    service: ServiceName,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct ServiceName {
    namespace: String,
    name: String,
}

async fn answer_check(State(asked): State<Asked>) -> Response {
    let local_endpoints = *asked.endpoints.borrow();
    let NamespacedName { namespace, name } = asked.service;
    let status = if local_endpoints > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = [(WEIGHT, local_endpoints.to_string()), (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned())];
    let service = ServiceName { namespace, name };
    // The programs serve Services also when the agent does not: as long as it answers, they are at work.
    let body = Health { service, local_endpoints, service_proxy_healthy: true };
    (status, headers, Json(body)).into_response()
}
