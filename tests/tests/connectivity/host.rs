//! Services as the node's own processes reach them.

use std::net::IpAddr;

use anyhow::Result;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sluice_tests::topology::{
    AgentOptions, Cluster, Pod, PodSpec, objects,
    traffic::{Listen, Probe, Server},
};

use crate::{answers, expect, is_refused, is_silent, network_policy};

const PORTS: [Listen; 2] = [Listen::Echo(8000), Listen::Udp(5353)];

/// A Service with TCP 80 → 8000 and UDP 53 → 5353, whose addresses end in `number`.
fn service(name: &str, number: u8, pods: &[&Pod<'_>]) -> Value {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": name},
        "spec": {"clusterIPs": addresses(number), "ports": [
            {"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8000},
            {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 5353},
        ]},
    });
    let ports = json!([
        {"name": "http", "protocol": "TCP", "port": 8000}, {"name": "dns", "protocol": "UDP", "port": 5353},
    ]);
    let members: Vec<_> = pods.iter().map(|pod| pod.slice_member()).collect();
    let Value::Array(slices) = objects::slices("default", name, &ports, &members) else { unreachable!() };
    [service].into_iter().chain(slices).collect()
}

fn addresses(number: u8) -> [IpAddr; 2] {
    let v6 = [0xfd00, 0x10, 0x96, 0, 0, 0, 0, u16::from(number)];
    [IpAddr::from([10, 96, 0, number]), IpAddr::from(v6)]
}

fn probes(number: u8) -> impl Iterator<Item = Probe> {
    addresses(number).into_iter().flat_map(|ip| [Probe::Tcp((ip, 80).into()), Probe::Udp((ip, 53).into())])
}

/// Policy at the veth sees the backend, as it does behind a translation, and nothing is translated. Addresses that no other
/// test has: these agents lead every namespace of the process's cgroup.
#[test]
fn pods_that_are_led_at_their_sockets_are_judged_by_the_backend() -> Result<()> {
    let options = AgentOptions { args: vec!["--socket-lb-pods".to_owned()], ..AgentOptions::default() };
    let cluster = Cluster::start_with(2, &options)?;
    let friend = cluster.pod(1, &PodSpec::new("friend", "friend"))?;
    let stranger = cluster.pod(1, &PodSpec::new("stranger", "stranger"))?;
    let near = cluster.pod(1, &PodSpec::new("near", "echo"))?;
    let far = cluster.pod(2, &PodSpec::new("far", "echo"))?;
    let friends = json!({"ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}]}]});
    cluster.objects.put("policy", &network_policy("echo", "echo", &friends))?;
    cluster.objects.put("service-near", &service("near", 101, &[&near]))?;
    cluster.objects.put("service-far", &service("far", 102, &[&far]))?;
    cluster.settle()?;
    let serve = |pod: &Pod<'_>| Server::start(&pod.netns, &pod.name, &PORTS);
    let _servers = (serve(&near)?, serve(&far)?);
    let of_friend = probes(101).chain(probes(102)).map(|probe| answers(&friend.netns, probe));
    let of_stranger = probes(101).chain(probes(102)).map(|probe| is_silent(&stranger.netns, probe));
    expect(&of_friend.chain(of_stranger).collect::<Vec<_>>())?;
    let flows = cluster.node(1).sluice_json("conntrack")?;
    let flows = flows["flows"].as_array().map(Vec::as_slice).unwrap_or_default();
    let tcp = flows.iter().filter(|flow| flow["protocol"] == "TCP");
    let translated: Vec<_> = tcp.clone().filter(|flow| !flow["via"].is_null()).collect();
    assert!(tcp.count() >= 4 && translated.is_empty(), "{flows:?}");
    Ok(())
}

/// The near pod lets nobody in, the far one only node 1, by the address that the packets must therefore have.
#[test]
fn a_process_of_the_node_reaches_services_near_and_far_with_the_nodes_address() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let near = cluster.pod(1, &PodSpec::new("near", "near"))?;
    let far = cluster.pod(2, &PodSpec::new("far", "far"))?;
    let node = cluster.node(1).addresses().map(|address| {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        json!({"ipBlock": {"cidr": format!("{address}/{bits}")}})
    });
    let nobody = json!({"policyTypes": ["Ingress"]});
    cluster.objects.put("policy-near", &network_policy("near", "near", &nobody))?;
    cluster
        .objects
        .put("policy-far", &network_policy("far", "far", &json!({"ingress": [{"from": node}]})))?;
    cluster.objects.put("service-near", &service("near", 1, &[&near]))?;
    cluster.objects.put("service-far", &service("far", 2, &[&far]))?;
    cluster.objects.put("service-none", &service("none", 3, &[]))?;
    cluster.settle()?;
    let _servers = [Server::start(&near.netns, "near", &PORTS)?, Server::start(&far.netns, "far", &PORTS)?];
    let from = &cluster.node(1).netns;
    let answered = [1, 2].into_iter().flat_map(probes).map(|probe| answers(from, probe));
    let expectations: Vec<_> = answered.chain(probes(3).map(|probe| is_refused(from, probe))).collect();
    expect(&expectations)?;
    // The programs need no agent.
    cluster.node(1).stop_agent(Signal::SIGKILL)?;
    expect(&expectations)
}
