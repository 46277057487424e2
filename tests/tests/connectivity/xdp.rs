//! XDP on a real uplink: what comes from outside for another node's backend turns round before the kernel sees it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    programs::{Xdp, XdpMode},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sluice_tests::topology::{
    AgentOptions, Cluster, Node, Pod, PodSpec,
    namespace::words_of,
    objects,
    traffic::{Connection, Listen, Probe, Server, transfer},
};

use crate::{answers, expect};

const NODE_PORTS: [u16; 3] = [30080, 30053, 30090];
const PORTS: [Listen; 3] = [Listen::Echo(8000), Listen::Udp(5353), Listen::Sink(9000)];

fn service(pod: &Pod<'_>) -> Value {
    let [http, dns, sink] = NODE_PORTS;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": "echo"},
        "spec": {"type": "NodePort", "clusterIPs": ["10.96.0.80", "fd00:10:96::80"], "ports": [
            {"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8000, "nodePort": http},
            {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 5353, "nodePort": dns},
            {"name": "sink", "protocol": "TCP", "port": 90, "targetPort": 9000, "nodePort": sink},
        ]},
    });
    let ports = json!([
        {"name": "http", "protocol": "TCP", "port": 8000}, {"name": "dns", "protocol": "UDP", "port": 5353},
        {"name": "sink", "protocol": "TCP", "port": 9000},
    ]);
    let Value::Array(slices) = objects::slices("default", "echo", &ports, &[pod.slice_member()]) else {
        unreachable!()
    };
    [service].into_iter().chain(slices).collect()
}

fn options(words: &str) -> AgentOptions {
    AgentOptions { args: words.split_whitespace().map(str::to_owned).collect(), ..AgentOptions::default() }
}

/// With a program that passes everything.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SLUICE_BENCH_OBJECT"));

/// The uplink's port of the switch takes frames of XDP as long as the result lives, and hands over none with an open checksum.
fn prepare(cluster: &Cluster, node: &Node) -> Result<Ebpf> {
    let port = format!("node{}", node.number);
    let output = cluster.router.command(None, "ethtool")?.args(["-K", &port, "tx", "off"]).output();
    words_of(&output.context("starting ethtool")?)?;
    let mut object = EbpfLoader::new().btf(None).load(OBJECT)?;
    let program: &mut Xdp = object.program_mut("nothing_xdp").context("the program")?.try_into()?;
    program.load()?;
    cluster.router.enter(|| program.attach(&port, XdpMode::Driver))?;
    Ok(object)
}

/// Packets that the device has sent back by XDP.
fn turned(node: &Node) -> Result<u64> {
    let output = node.netns.command(None, "ethtool")?.args(["-S", "eth0"]).output();
    let words = words_of(&output.context("starting ethtool")?)?;
    let counts = words.lines().filter_map(|line| line.trim().split_once(": "));
    let counts = counts.filter(|(name, _)| name.starts_with("rx_queue_") && name.ends_with("_xdp_tx"));
    counts.map(|(_, count)| count.parse::<u64>().context("a count")).sum()
}

fn restart(node: &Node, words: &str) -> Result<()> {
    node.stop_agent(Signal::SIGTERM)?;
    node.spawn_agent(&options(words))?;
    node.await_ready()
}

#[test]
fn xdp_serves_clients_outside_and_comes_and_goes_without_them_noticing() -> Result<()> {
    let cluster = Cluster::new(2)?;
    let (edge, far) = (cluster.node(1), cluster.node(2));
    let _object = prepare(&cluster, edge)?;
    edge.spawn_agent(&options("--xdp native --xdp-on-veth"))?;
    far.spawn_agent(&options(""))?;
    edge.await_ready()?;
    far.await_ready()?;
    let backend = cluster.pod(2, &PodSpec::new("echo", "echo"))?;
    cluster.objects.put("service", &service(&backend))?;
    cluster.settle()?;
    let _server = Server::start(&backend.netns, "echo", &PORTS)?;
    let [http, dns, sink] = NODE_PORTS;
    let at = |ip: IpAddr, port| SocketAddr::new(ip, port);
    let probes =
        || edge.addresses().into_iter().flat_map(|ip| [Probe::Tcp(at(ip, http)), Probe::Udp(at(ip, dns))]);
    let ask = || expect(&probes().map(|probe| answers(&cluster.outside, probe)).collect::<Vec<_>>());
    ask()?;
    let status = edge.sluice_json("status")?;
    assert_eq!(status["datapath"]["xdp"][0]["device"], "eth0");
    assert_eq!(status["datapath"]["xdp"][0]["mode"], "native");
    // Both ways of at least four flows. What came before a neighbour was known went through tc.
    assert!(turned(edge)? >= 8, "{}", turned(edge)?);
    let limit = std::time::Duration::from_secs(20);
    for ip in edge.addresses() {
        let length = 1 << 20;
        let got = transfer(&cluster.outside, at(ip, sink), length, limit)?;
        assert_eq!(got, Some(length), "a megabyte through a smaller path");
    }
    let links = || -> Result<Vec<String>> {
        let status = edge.sluice_json("status")?;
        let links = status["datapath"]["links"].as_array().context("links")?;
        Ok(links.iter().filter_map(|link| link.as_str().map(str::to_owned)).collect())
    };
    // A connection goes on through a restart with XDP, one without, and one with it again.
    let mut connections = Vec::new();
    for ip in edge.addresses() {
        connections.push(Connection::open(&cluster.outside, at(ip, http))?);
    }
    for (words, runs) in [
        ("--xdp native --xdp-on-veth", true),
        ("--xdp off", false),
        ("--xdp native --xdp-on-veth", true),
        ("--xdp generic --xdp-on-veth", true),
    ] {
        restart(edge, words)?;
        assert_eq!(links()?.iter().any(|link| link.contains("-xdp-")), runs, "{words}");
        assert_eq!(edge.netns.ip("link show dev eth0")?.contains("xdp"), runs, "{words}");
        for connection in &mut connections {
            assert!(connection.echoes(limit)?, "{words}");
        }
        ask().with_context(|| words.to_owned())?;
    }
    Ok(())
}

#[test]
fn a_veth_runs_xdp_only_when_told_and_its_packets_go_through_tc() -> Result<()> {
    let cluster = Cluster::start_with(2, &options("--xdp native"))?;
    let backend = cluster.pod(2, &PodSpec::new("echo", "echo"))?;
    cluster.objects.put("service", &service(&backend))?;
    cluster.settle()?;
    let _server = Server::start(&backend.netns, "echo", &PORTS)?;
    let edge = cluster.node(1);
    let probes = edge.addresses().map(|ip| Probe::Tcp(SocketAddr::new(ip, NODE_PORTS[0])));
    expect(&probes.map(|probe| answers(&cluster.outside, probe)))?;
    let told = edge.log().lines().filter(|line| line.contains("uplink runs no XDP")).count();
    assert_eq!(told, 1, "{}", edge.log());
    assert_eq!(edge.sluice_json("status")?["datapath"]["xdp"], json!([]));
    Ok(())
}
