//! Sluice on a real Kubernetes, through what happens to clusters: rollouts, restarts, nodes that go and return.
//!
//! `cargo xtask test e2e` brings the cluster up, installs Sluice as a user would, and runs these one after the other.

mod changes;
mod names;
mod outside;
mod restarts;
mod uninstall;

use std::sync::OnceLock;

use anyhow::Result;
use sluice_tests::cluster::{Cluster, IMAGE, Namespace};

/// The cluster, asked for once.
fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::connect().expect("a cluster with Sluice"))
}

/// A Deployment `web` whose pods answer over HTTP, spread over the nodes, and its Service.
///
/// They serve on for some seconds when they are asked to end, as a server should that others still find.
fn web(replicas: usize) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 15
      topologySpreadConstraints:
      - {{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {{matchLabels: {{app: web}}}}}}
      containers:
      - name: web
        image: {IMAGE}
        args: [netexec, --http-port=8080, --delay-shutdown=5]
        ports: [{{name: http, containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /healthz, port: http}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  selector: {{app: web}}
  ports: [{{name: http, port: 80, targetPort: http}}]
"
    )
}

/// A pod that answers for as long as it lives, on one node, and its address.
fn lasting_server(namespace: &Namespace<'_>, name: &str, node: &str) -> Result<String> {
    let args = ["netexec", "--http-port=8080"];
    namespace.apply(&sluice_tests::cluster::pod(name, name, Some(node), &args))?;
    cluster().wait_for(namespace.name(), "condition=Ready", &[&format!("pod/{name}")])?;
    address(namespace, name)
}

/// A pod's first address.
fn address(namespace: &Namespace<'_>, pod: &str) -> Result<String> {
    let pod = cluster().get(namespace.name(), &[&format!("pod/{pod}")])?;
    let address = pod["status"]["podIP"].as_str().map(str::to_owned);
    address.ok_or_else(|| anyhow::anyhow!("pod without an address: {pod}"))
}
