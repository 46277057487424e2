//! Policies that are audited: real traffic passes, and what they would have dropped is told.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sluice_tests::topology::{
    AgentOptions, Cluster, Node, PATIENCE, Pod, PodSpec,
    traffic::{Connection, Listen, Probe, Server},
};

use crate::{answers, deny_all, expect, is_silent};

/// The policies of `manifests/examples/dns-on-one-node/after`.
const AFTER: &str = include_str!("../../../manifests/examples/dns-on-one-node/after/policies.yaml");
/// Those of its folder `fixed`.
const FIXED: &str = include_str!("../../../manifests/examples/dns-on-one-node/fixed/policies.yaml");

/// The row of an audit about a peer.
fn row(node: &Node, peer: IpAddr, protocol: &str) -> Result<Option<Value>> {
    let audit = node.sluice_json("policy audit")?;
    let rows = audit["wouldDrop"].as_array().context("rows")?;
    Ok(rows.iter().find(|row| row["peer"] == json!(peer) && row["protocol"] == protocol).cloned())
}

/// A pod of the story.
fn spec<'a>(namespace: &'a str, name: &'a str, labels: Value) -> PodSpec<'a> {
    PodSpec { namespace, name, labels, containers: json!([]) }
}

#[test]
fn a_policy_that_cuts_dns_on_one_node_is_found_in_use_before_it_bites() -> Result<()> {
    let cluster = Cluster::start(2)?;
    for name in ["kube-system", "shop"] {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        cluster.objects.put(&format!("namespace-{name}"), &object)?;
    }
    // Another pod has each node's first address, as in the example.
    let _first =
        [cluster.pod(1, &PodSpec::new("first-1", "x"))?, cluster.pod(2, &PodSpec::new("first-2", "x"))?];
    let dns =
        |number: u8, name| cluster.pod(number, &spec("kube-system", name, json!({"k8s-app": "kube-dns"})));
    let servers = [dns(1, "coredns-1")?, dns(2, "coredns-2")?];
    let web = cluster.pod(1, &spec("shop", "web-1", json!({"app": "web"})))?;
    let _serving = servers
        .iter()
        .map(|pod| Server::start(&pod.netns, &pod.name, &[Listen::Udp(53)]))
        .collect::<Result<Vec<_>>>()?;
    let asks = |pod: &Pod<'_>| Probe::Udp(SocketAddr::new(pod.addresses[0], 53));
    let [near, far] = [asks(&servers[0]), asks(&servers[1])];
    let node = cluster.node(1);

    let named = "metadata: {name: web, namespace: shop}";
    let audited = "metadata: {name: web, namespace: shop, annotations: {sluice.dev/mode: audit}}";
    assert!(AFTER.contains(named));
    cluster.objects.put_yaml("policies", &AFTER.replace(named, audited))?;
    cluster.settle()?;
    expect(&[answers(&web.netns, near), answers(&web.netns, far)])?;
    println!("$ sluice policy audit\n{}", node.sluice("policy audit")?);
    println!("$ sluice policy list\n{}", node.sluice("policy list")?);
    println!("$ sluice endpoints\n{}", node.sluice("endpoints")?);
    let told = row(node, servers[1].addresses[0], "UDP")?.context("a record")?;
    assert_eq!(told["policies"], json!(["shop/web"]), "{told:#}");
    assert_eq!(told["isolatedBy"]["audited"], json!(["shop/web"]), "{told:#}");
    assert_eq!(
        (&told["pod"], &told["port"], &told["direction"]),
        (&json!("shop/web-1"), &json!(53), &json!("egress"))
    );
    assert_eq!(told["count"], 1, "one flow: {told:#}");
    assert_eq!(row(node, servers[0].addresses[0], "UDP")?, None);
    assert_eq!(node.sluice_json("drops")?["drops"], json!([]));

    // From maps alone: the agent is dead, and another one finds everything in place.
    node.stop_agent(Signal::SIGKILL)?;
    assert!(row(node, servers[1].addresses[0], "UDP")?.is_some());
    expect(&[answers(&web.netns, far)])?;
    node.spawn_agent(&AgentOptions::default())?;
    node.await_ready()?;

    cluster.objects.put_yaml("policies", AFTER)?;
    cluster.settle()?;
    expect(&[answers(&web.netns, near), is_silent(&web.netns, far)])?;
    println!("$ sluice drops\n{}", node.sluice("drops")?);
    let drops = node.sluice_json("drops")?;
    assert_eq!(drops["drops"][0]["isolatedBy"]["policies"], json!(["shop/web"]), "{drops:#}");

    cluster.objects.put_yaml("policies", FIXED)?;
    cluster.settle()?;
    expect(&[answers(&web.netns, near), answers(&web.netns, far)])
}

#[test]
fn namespaces_and_cluster_policies_are_audited_on_flows_that_are_there_too() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let node = cluster.node(1);
    let db = cluster.pod(1, &PodSpec::new("db", "db"))?;
    let web = cluster.pod(1, &PodSpec::new("web", "web"))?;
    cluster.settle()?;
    let _server = Server::start(&db.netns, "db", &[Listen::Echo(8000)])?;
    let mut connection = Connection::open(&web.netns, SocketAddr::new(db.addresses[0], 8000))?;
    assert!(connection.echoes(PATIENCE)?);

    let namespace = |annotations: Value| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default", "annotations": annotations}});
    cluster.objects.put("namespace", &namespace(json!({"sluice.dev/mode": "audit"})))?;
    cluster.objects.put("policy", &deny_all("closed", "db"))?;
    cluster.settle()?;
    assert!(connection.echoes(PATIENCE)?, "audited, not cut");
    let probe = Probe::Tcp(SocketAddr::new(db.addresses[1], 8000));
    expect(&[answers(&web.netns, probe)])?;
    for peer in web.addresses {
        let told = row(node, peer, "TCP")?.context("a record")?;
        assert_eq!((&told["policies"], &told["pod"]), (&json!(["default/closed"]), &json!("default/db")));
    }

    let no_web = |annotations: Value| {
        json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
            "metadata": {"name": "no-db", "annotations": annotations},
            "spec": {
                "tier": "Admin", "priority": 1,
                "subject": {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}}},
                "egress": [{"action": "Deny", "to": [{"namespaces": {}}]}],
            },
        })
    };
    cluster.objects.put("cluster-policy", &no_web(json!({"sluice.dev/mode": "audit"})))?;
    cluster.settle()?;
    expect(&[answers(&web.netns, probe)])?;
    let told = row(node, db.addresses[1], "TCP")?.context("a record")?;
    assert_eq!((&told["policies"], &told["pod"]), (&json!(["no-db"]), &json!("default/web")), "{told:#}");
    assert_eq!(told["rule"]["text"], "no-db egress[0]");

    cluster.objects.put("cluster-policy", &no_web(json!({})))?;
    cluster.settle()?;
    expect(&[is_silent(&web.netns, probe)])?;
    cluster.objects.delete("cluster-policy")?;
    cluster.objects.put("namespace", &namespace(json!({})))?;
    cluster.settle()?;
    expect(&[is_silent(&web.netns, probe)])
}
