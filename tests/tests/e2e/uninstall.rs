//! Taking Sluice off the nodes, and putting it there again.

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sluice_tests::cluster::until;

use super::cluster;

/// What is to be gone: configuration, plugin, pins (and programs with them), state, leases, pods' veths.
const LEFTOVERS: &str = "
ls -d /etc/cni/net.d/*sluice* /opt/cni/bin/sluice-cni /sys/fs/bpf/sluice /run/sluice /var/lib/cni/sluice 2>/dev/null
ip -o link show type veth | grep ': sl'
true
";

#[test]
#[ignore = "needs a cluster: cargo xtask test e2e"]
fn uninstall_leaves_nothing_on_the_nodes_and_sluice_can_be_installed_again() -> Result<()> {
    let [manifest, uninstall] = ["sluice.yaml", "uninstall.yaml"].map(|name| {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../manifests").join(name);
        path.display().to_string()
    });
    let installed = cluster().get("kube-system", &["-f", &manifest])?;
    let nodes = cluster().get("", &["nodes"])?["items"].as_array().context("a list of nodes")?.len();
    until("only CoreDNS has Sluice's network", || {
        let others = pods_in_our_network()?;
        ensure!(others.iter().all(|name| name.starts_with("coredns-")), "{others:?}");
        Ok(())
    })?;

    let coredns = |replicas: &str| {
        cluster().kubectl(&["scale", "-n", "kube-system", "deployment/coredns", "--replicas", replicas])
    };
    coredns("0")?;
    until("no pod has Sluice's network", || {
        let left = pods_in_our_network()?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    cluster().kubectl(&["delete", "--timeout=120s", "-f", &manifest])?;
    cluster().kubectl(&["apply", "-f", &uninstall])?;
    cluster().rolled_out("kube-system", "daemonset/sluice-uninstall")?;
    for node in 1..=nodes {
        let left = cluster().node(node, &["sh", "-c", LEFTOVERS])?;
        ensure!(left.trim().is_empty(), "left on node {node}:\n{left}");
    }
    cluster().kubectl(&["delete", "--timeout=120s", "-f", &uninstall])?;

    cluster().apply("kube-system", &as_written(installed)?.to_string())?;
    cluster().rolled_out("kube-system", "daemonset/sluice")?;
    coredns("1")?;
    cluster().rolled_out("kube-system", "deployment/coredns")
}

/// Names of pods that are not in their node's own network and have not ended.
fn pods_in_our_network() -> Result<BTreeSet<String>> {
    let pods = cluster().get("", &["pods", "--all-namespaces"])?;
    let pods = pods["items"].as_array().context("a list of pods")?.iter();
    let ours = pods.filter(|pod| pod["spec"]["hostNetwork"] != json!(true));
    Ok(ours.filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect())
}

/// Objects without what the API server has added, which it would not take for new ones.
fn as_written(mut list: Value) -> Result<Value> {
    for object in list["items"].as_array_mut().context("a list of objects")? {
        let object = object.as_object_mut().context("an object")?;
        object.remove("status");
        let metadata = object.get_mut("metadata").and_then(Value::as_object_mut).context("metadata")?;
        for added in ["creationTimestamp", "generation", "managedFields", "resourceVersion", "uid"] {
            metadata.remove(added);
        }
    }
    Ok(list)
}
