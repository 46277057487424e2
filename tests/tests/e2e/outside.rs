//! Clients outside the cluster.

use anyhow::{Context as _, Result, ensure};
use sluice_tests::cluster::{IMAGE, Namespace, until};

use super::{cluster, web};

/// Asks from the control plane's machine, which is no node and runs no agent.
fn ask(url: &str) -> Result<String> {
    cluster().run(&["run", "--", "curl", "-sf", "-m", "2", url])
}

/// The first address of a node.
fn address(node: &str) -> Result<String> {
    let node = cluster().get("default", &[&format!("node/{node}")])?;
    let addresses = node["status"]["addresses"].as_array().context("addresses of a node")?;
    let internal = addresses.iter().find(|address| address["type"] == "InternalIP");
    let address = internal.and_then(|address| address["address"].as_str());
    address.map(str::to_owned).context("an InternalIP")
}

/// The pods that serve, each on another node.
fn servers(namespace: &Namespace<'_>) -> Result<Vec<String>> {
    let pods = cluster().get(namespace.name(), &["pods", "-l", "app=web"])?;
    let names = pods["items"].as_array().into_iter().flatten();
    Ok(names.filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect())
}

#[test]
#[ignore = "needs a cluster: cargo xtask test e2e"]
fn a_host_network_proxy_in_front_of_a_service_answers_outside() -> Result<()> {
    let namespace = cluster().namespace("proxy")?;
    namespace.apply(&web(2))?;
    cluster().rolled_out(namespace.name(), "deployment/web")?;
    let servers = servers(&namespace)?;
    for (node, port) in [("n1", 18080), ("n2", 18081)] {
        namespace.apply(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: proxy-{node}}}, spec: {{nodeName: {node}, hostNetwork: true, \
             dnsPolicy: ClusterFirstWithHostNet, terminationGracePeriodSeconds: 0, containers: [{{name: c, image: '{IMAGE}', \
             args: [netexec, --http-port={port}, --udp-port=-1]}}]}}}}"
        ))?;
        cluster().wait_for(namespace.name(), "condition=Ready", &[&format!("pod/proxy-{node}")])?;
        let dial = format!(
            "http://{}:{port}/dial?host=web.{}.svc.cluster.local&port=80&protocol=http&request=hostname&tries=20",
            address(node)?,
            namespace.name()
        );
        until("the proxy has reached every backend", || {
            let said = ask(&dial)?;
            ensure!(!said.contains("errors"), "{said}");
            ensure!(servers.iter().all(|server| said.contains(server.as_str())), "{said}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
#[ignore = "needs a cluster: cargo xtask test e2e"]
fn a_node_port_answers_outside_at_every_node() -> Result<()> {
    let namespace = cluster().namespace("node-port")?;
    namespace.apply(
        &web(2)
            .replace("spec:\n  selector: {app: web}\n", "spec:\n  type: NodePort\n  selector: {app: web}\n"),
    )?;
    cluster().rolled_out(namespace.name(), "deployment/web")?;
    let servers = servers(&namespace)?;
    let service = cluster().get(namespace.name(), &["service/web"])?;
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().context("a node port")?;
    for node in ["n1", "n2"] {
        let url = format!("http://{}:{port}/hostname", address(node)?);
        let mut missing = servers.clone();
        until("every backend has answered", || {
            let said = ask(&url)?;
            missing.retain(|server| *server != said);
            ensure!(missing.is_empty(), "not from {missing:?} yet");
            Ok(())
        })?;
    }
    Ok(())
}
