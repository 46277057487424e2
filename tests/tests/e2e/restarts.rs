//! What stops and starts again.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sluice_tests::cluster::{Load, Namespace, until};

use super::{cluster, lasting_server, web};

#[test]
#[ignore = "needs a cluster: cargo xtask test e2e"]
fn kubelet_and_containerd_restart_without_a_lost_connection() -> Result<()> {
    let namespace = cluster().namespace("runtime-restart")?;
    namespace.apply(&web(2))?;
    cluster().rolled_out(namespace.name(), "deployment/web")?;
    let kept = lasting_server(&namespace, "lasting", "n2")?;
    // kubectl's way into a pod leads through the kubelet of its node, so the load comes from the other node.
    namespace.client("client", Some("n1"))?;
    // By address: CoreDNS may run on the node, and a kubelet that starts takes its pods for not ready at first.
    let service = cluster().get(namespace.name(), &["service/web"])?;
    let url =
        format!("http://{}/hostname", service["spec"]["clusterIP"].as_str().context("a cluster address")?);
    let load = Load::start(&namespace, "client", &url, &format!("http://{kept}:8080/hostname"))?;
    let before = restarts(&namespace)?;
    for component in ["containerd", "kubelet"] {
        cluster().run(&["restart", "2", component])?;
        let wired = format!("after-{component}");
        namespace.client(&wired, Some("n2"))?;
        namespace.shell(&wired, &format!("curl -sf -m 2 {url}"))?;
    }
    load.stop()?.check()?;
    let after = restarts(&namespace)?;
    ensure!(before.iter().all(|pod| after.contains(pod)), "pods were restarted: {before:?} {after:?}");
    Ok(())
}

/// Name, uid and restarts of each pod.
fn restarts(namespace: &Namespace<'_>) -> Result<Vec<(String, String, u64)>> {
    let pods = cluster().get(namespace.name(), &["pods"])?;
    let of = |pod: &Value| {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let count = pod["status"]["containerStatuses"][0]["restartCount"].as_u64()?;
        Some((text(&pod["metadata"]["name"])?, text(&pod["metadata"]["uid"])?, count))
    };
    Ok(pods["items"].as_array().into_iter().flatten().filter_map(of).collect())
}

#[test]
#[ignore = "needs a cluster: cargo xtask test e2e"]
fn the_api_server_restarts_without_a_lost_connection_and_changes_go_on() -> Result<()> {
    let namespace = cluster().namespace("apiserver-restart")?;
    namespace.apply(&web(2))?;
    cluster().rolled_out(namespace.name(), "deployment/web")?;
    namespace.client("client", Some("n1"))?;
    namespace.client("other", Some("n2"))?;
    cluster().run(&["restart", "control-plane", "kube-apiserver"])?;
    until("the API server is back", || cluster().kubectl(&["get", "--raw", "/readyz"]))?;
    namespace.shell("client", "curl -sf -m 2 http://web/hostname")?;
    namespace.apply(
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: none}, spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}}",
    )?;
    for client in ["client", "other"] {
        until("a policy made afterwards is in force", || {
            ensure!(namespace.shell(client, "curl -sf -m 1 http://web/hostname").is_err(), "still answered");
            Ok(())
        })?;
    }
    cluster().kubectl(&["delete", "networkpolicy", "-n", namespace.name(), "none"])?;
    for client in ["client", "other"] {
        until("the policy is gone", || namespace.shell(client, "curl -sf -m 2 http://web/hostname"))?;
    }
    Ok(())
}

#[test]
#[ignore = "needs a cluster: cargo xtask test e2e"]
fn a_node_that_dies_and_returns_serves_its_pods_again() -> Result<()> {
    let namespace = cluster().namespace("node-return")?;
    lasting_server(&namespace, "lasting", "n2")?;
    namespace.client("client", Some("n1"))?;
    cluster().run(&["stop", "2"])?;
    cluster().run(&["start", "2"])?;
    cluster().wait_for("default", "condition=Ready", &["node/n2"])?;
    cluster().rolled_out("kube-system", "daemonset/sluice")?;
    // The sandbox is made anew, with another address.
    until("the pod of before answers", || {
        let address = super::address(&namespace, "lasting")?;
        namespace.shell("client", &format!("curl -sf -m 2 http://{address}:8080/hostname"))
    })?;
    // What the pods of before had is free again: one lease for each address of a pod.
    until("leases are those of the pods", || {
        let leases =
            cluster().node(2, &["sh", "-c", "ls /var/lib/cni/sluice/sluice/*/ | grep -c @ || true"])?;
        let pods = cluster().get("default", &["pods", "-A", "--field-selector=spec.nodeName=n2"])?;
        let own = |pod: &&Value| pod["spec"]["hostNetwork"] != Value::Bool(true);
        let pods = pods["items"].as_array().context("a list")?.iter().filter(own);
        let addresses: usize = pods.filter_map(|pod| Some(pod["status"]["podIPs"].as_array()?.len())).sum();
        ensure!(leases.trim() == addresses.to_string(), "{addresses} addresses, {} leases", leases.trim());
        Ok(())
    })
}
