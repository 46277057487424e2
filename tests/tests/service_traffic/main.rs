//! Every field of a Service, with real traffic: two nodes with real agents, pods wired by the real plugin, and a client
//! outside behind a router with a smaller MTU; IPv4 and IPv6.
//!
//! [`World`] is what all tests start from. What is refused and what is dropped is told apart.

mod balancer;
mod kinds;
mod node_port;
mod none;
mod packets;
mod policies;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sluice_tests::topology::{
    Cluster, Node, Pod, PodSpec,
    namespace::Netns,
    objects::{self, SliceMember},
    traffic::{self, Expectation, Listen, Probe, Server, Want},
};

const CLUSTER_IPS: [&str; 2] = ["10.96.0.80", "fd00:10:96::80"];
/// Addresses that only Services have: of a load balancer, and others.
const BALANCER: [&str; 2] = ["203.0.113.50", "2001:db8:50::50"];
const EXTERNAL: [&str; 2] = ["203.0.113.51", "2001:db8:50::51"];

/// A port of the Service.
#[derive(Clone, Copy, Debug)]
struct Port {
    protocol: &'static str,
    /// At addresses of the Service.
    number: u16,
    /// At addresses of nodes.
    node_port: u16,
    listen: Listen,
    target: u16,
}

/// TCP, echoing.
const HTTP: Port =
    Port { protocol: "TCP", number: 80, node_port: 30_080, listen: Listen::Echo(8000), target: 8000 };
/// TCP, telling the client's address.
const WHOAMI: Port =
    Port { protocol: "TCP", number: 81, node_port: 30_081, listen: Listen::Client(8001), target: 8001 };
/// UDP, telling the server's name.
const DNS: Port =
    Port { protocol: "UDP", number: 53, node_port: 30_053, listen: Listen::Udp(5353), target: 5353 };
/// UDP, echoing.
const MIRROR: Port =
    Port { protocol: "UDP", number: 54, node_port: 30_054, listen: Listen::UdpEcho(5354), target: 5354 };
const PORTS: [Port; 4] = [HTTP, WHOAMI, DNS, MIRROR];

/// Questions of one client: one of two backends that chance chooses from is missed once in 10^12 runs.
const QUESTIONS: u16 = 40;

/// A client and a backend on each of two nodes.
struct World<'c> {
    cluster: &'c Cluster,
    clients: [Pod<'c>; 2],
    backends: [Pod<'c>; 2],
    _servers: [Server; 2],
}

impl<'c> World<'c> {
    fn new(cluster: &'c Cluster) -> Result<Self> {
        let pod = |node, name| cluster.pod(node, &PodSpec::new(name, "pod"));
        let clients = [pod(1, "client-1")?, pod(2, "client-2")?];
        let backends = [pod(1, "web-1")?, pod(2, "web-2")?];
        let serve = |pod: &Pod<'_>| Server::start(&pod.netns, &pod.name, &PORTS.map(|port| port.listen));
        let servers = [serve(&backends[0])?, serve(&backends[1])?];
        Ok(Self { cluster, clients, backends, _servers: servers })
    }

    /// Both backends, ready.
    fn members(&self) -> [SliceMember<'_>; 2] {
        [self.backends[0].slice_member(), self.backends[1].slice_member()]
    }

    /// Puts the Service in force, with these fields beside what it always has.
    fn serve(&self, fields: &Value, members: &[SliceMember<'_>]) -> Result<()> {
        self.serve_with(fields, &json!({}), members)
    }

    /// The same with a status.
    fn serve_with(&self, fields: &Value, status: &Value, members: &[SliceMember<'_>]) -> Result<()> {
        let mut service = service(fields)?;
        service["status"] = status.clone();
        let target =
            |port: &Port| json!({"name": port.name(), "protocol": port.protocol, "port": port.target});
        let targets = PORTS.iter().map(target).collect();
        self.put(&service, &objects::slices("default", "web", &targets, members))
    }

    /// Puts a Service and its EndpointSlices in force.
    fn put(&self, service: &Value, slices: &Value) -> Result<()> {
        self.cluster.objects.put("slices", slices)?;
        self.cluster.objects.put("service", service)?;
        self.cluster.settle_written()
    }

    fn outside(&self) -> &Netns {
        &self.cluster.outside
    }

    /// Pods, nodes, and the host outside.
    fn everybody(&self) -> Vec<&Netns> {
        self.inside().into_iter().chain([self.outside()]).collect()
    }

    /// Pods and nodes.
    fn inside(&self) -> Vec<&Netns> {
        let nodes = self.cluster.nodes().iter().map(|node| &node.netns);
        self.clients.iter().map(|pod| &pod.netns).chain(nodes).collect()
    }

    /// A port at all addresses of both nodes.
    fn node_ports(&self, port: Port) -> Vec<Probe> {
        let addresses = self.cluster.nodes().iter().flat_map(Node::addresses);
        addresses.map(|ip| port.at(ip, port.node_port)).collect()
    }

    /// Leads addresses that only Services have to a node.
    fn route_to(&self, node: u8) -> Result<()> {
        let [v4, v6] = self.cluster.node(node).addresses();
        self.cluster.router.ip_batch(&format!(
            "route replace 203.0.113.0/24 via {v4}\nroute replace 2001:db8:50::/64 via {v6}\n"
        ))
    }
}

/// The Service with these fields beside what it always has.
fn service(fields: &Value) -> Result<Value> {
    let port = |port: &Port| {
        json!({
            "name": port.name(), "protocol": port.protocol, "port": port.number, "targetPort": port.target,
            "nodePort": port.node_port,
        })
    };
    let ports: Vec<_> = PORTS.iter().map(port).collect();
    let mut spec = json!({"type": "NodePort", "clusterIPs": CLUSTER_IPS, "ports": ports});
    for (name, value) in fields.as_object().context("fields of a Service")? {
        spec[name] = value.clone();
    }
    Ok(objects::service("web", &spec))
}

impl Port {
    /// What Service and EndpointSlices call it.
    fn name(&self) -> String {
        self.number.to_string()
    }

    /// A question to this port, or to `number`, which stands for it.
    fn at(self, ip: IpAddr, number: u16) -> Probe {
        let to = SocketAddr::new(ip, number);
        if self.protocol == "TCP" { Probe::Tcp(to) } else { Probe::Udp(to) }
    }

    /// Questions to the port at addresses of the Service.
    fn at_all(self, addresses: [&str; 2]) -> [Probe; 2] {
        addresses.map(|ip| self.at(ip.parse().expect("an address"), self.number))
    }
}

/// Who answers, when asked often.
fn who(from: &Netns, probe: Probe) -> Result<BTreeSet<String>> {
    (0..QUESTIONS).map(|_| probe.answer(from)?.with_context(|| format!("an answer to {probe:?}"))).collect()
}

/// Fails unless exactly these answer.
#[track_caller]
fn expect_who(from: &Netns, probe: Probe, names: &[&str]) -> Result<()> {
    let found = who(from, probe)?;
    ensure!(
        found.iter().map(String::as_str).eq(names.iter().copied()),
        "{probe:?}: {found:?}, not {names:?}"
    );
    Ok(())
}

/// Asks all at once from everywhere named, and fails with what came otherwise.
#[track_caller]
fn expect(from: &[&Netns], probes: &[Probe], want: Want) -> Result<()> {
    let all = from
        .iter()
        .flat_map(|from| probes.iter().map(move |probe| Expectation { from, probe: *probe, want }));
    let all: Vec<_> = all.collect();
    let outcomes = traffic::send_all(&all)?;
    let wrong: Vec<_> = all
        .iter()
        .zip(&outcomes)
        .filter(|(one, outcome)| !one.want.is(outcome))
        .map(|(one, outcome)| {
            let from = from.iter().position(|from| std::ptr::eq(*from, one.from));
            format!("{:?} from {from:?}: {outcome:?} instead of {want:?}", one.probe)
        })
        .collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
