//! What pods can no longer do: ask for names, and use the Services of their own namespace.
//!
//! Both are asked of the maps, as a packet would be.

use std::collections::{BTreeMap, BTreeSet};

use sluice_abi::Direction;

use super::{Code, Finding, Policy, Severity, count, names};
use crate::{
    explain::{Protocol, protocol_of, served, target_on},
    object::{self, Container, ContainerPort, Meta, NamespacedName, Object, ObjectKey, PodSpec},
    reach::Reach,
    world::{Assumed, Pod, World},
};

pub(super) fn lint(world: &World, policies: &[Policy<'_>], found: &mut BTreeSet<Finding>) {
    if policies.is_empty() {
        return;
    }
    let servers = name_servers(world);
    if servers.is_empty() {
        let with = with_name_server(world);
        names_cut(&with, &name_servers(&with), found);
    } else {
        names_cut(world, &servers, found);
    }
    for (name, service) in services(world) {
        blocked(world, name, service, found);
    }
}

fn services(world: &World) -> impl Iterator<Item = (&NamespacedName, &object::Service)> {
    world.objects().iter().filter_map(|(key, object)| match (key, object) {
        (ObjectKey::Service(name), Object::Service(service)) => Some((name, service)),
        _ => None,
    })
}

/// A name server, and where it listens.
struct Server<'a> {
    pod: &'a Pod,
    ports: [(Protocol, u16); 2],
}

/// The port of name servers (RFC 1035, section 4.2).
const DNS: u16 = 53;

/// The cluster's name servers: the pods labelled as such, else those of Services that offer DNS.
fn name_servers(world: &World) -> Vec<Server<'_>> {
    let labelled = world.pods().iter().filter(|pod| {
        let model = world.cluster().pods().get(&pod.name);
        model.is_some_and(|model| model.labels.get("k8s-app") == Some("kube-dns"))
    });
    let mut pods: Vec<&Pod> = labelled.collect();
    if pods.is_empty() {
        let offering = services(world).filter(|(_, service)| {
            service.spec.ports.iter().any(|port| port.protocol == "UDP" && port.port == i64::from(DNS))
        });
        pods = offering.flat_map(|(name, service)| served(world, name, service)).collect();
        pods.sort_by(|one, other| one.name.cmp(&other.name));
        pods.dedup_by(|one, other| one.name == other.name);
    }
    pods.into_iter()
        .map(|pod| Server {
            pod,
            ports: [Protocol::Udp, Protocol::Tcp].map(|protocol| (protocol, listens(world, pod, protocol))),
        })
        .collect()
}

/// Where a Service leads to on a name server; port 53 without one.
fn listens(world: &World, pod: &Pod, protocol: Protocol) -> u16 {
    let leads = |(name, service)| {
        let _: &Pod = served(world, name, service).find(|other| other.name == pod.name)?;
        let is_dns =
            |port: &&object::ServicePort| port.protocol == protocol.name() && port.port == i64::from(DNS);
        target_on(world, pod, service.spec.ports.iter().find(is_dns)?)
    };
    services(world).find_map(leads).unwrap_or(DNS)
}

/// The same world with a name server as every cluster has one, for manifests that leave it out.
fn with_name_server(world: &World) -> World {
    let port = |protocol: &str| ContainerPort {
        name: String::new(),
        container_port: i64::from(DNS),
        protocol: protocol.to_owned(),
    };
    let container = Container { ports: vec![port("UDP"), port("TCP")], ..Container::default() };
    let server = object::Pod {
        metadata: Meta {
            namespace: "kube-system".to_owned(),
            name: "coredns".to_owned(),
            labels: BTreeMap::from([("k8s-app".to_owned(), "kube-dns".to_owned())]),
            ..Meta::default()
        },
        spec: PodSpec { containers: vec![container], ..PodSpec::default() },
        ..object::Pod::default()
    };
    let objects = world.objects().values().cloned();
    World::new(objects.chain([Object::Pod(server)]), &mut Assumed::default())
}

/// What pods cannot ask: which name servers, over which protocols.
type Cut = (Vec<NamespacedName>, BTreeSet<(NamespacedName, &'static str)>);

fn names_cut(world: &World, servers: &[Server<'_>], found: &mut BTreeSet<Finding>) {
    let probes: BTreeSet<(Protocol, u16)> = servers.iter().flat_map(|server| server.ports).collect();
    let probes: Vec<_> = probes.into_iter().collect();
    let mut reach = Reach::new(world, probes.clone());
    let mut cut: BTreeMap<Cut, Vec<&Pod>> = BTreeMap::new();
    let mut closed: BTreeMap<&NamespacedName, (BTreeSet<&'static str>, Vec<&Pod>)> = BTreeMap::new();
    let clients = world.pods().iter().filter(|pod| !pod.is_host);
    for client in clients.filter(|pod| !servers.iter().any(|server| server.pod.name == pod.name)) {
        let mut refused = BTreeSet::new();
        for server in servers {
            let [leaves, arrives] = reach.sides(client, server.pod);
            for asked in server.ports {
                let key = (server.pod.name.clone(), asked.0.name());
                let probe = probes.binary_search(&asked).expect("every port is probed");
                if !leaves.has(probe) {
                    refused.insert(key);
                } else if !arrives.has(probe) {
                    let (protocols, clients) = closed.entry(&server.pod.name).or_default();
                    protocols.insert(asked.0.name());
                    clients.push(client);
                }
            }
        }
        if !refused.is_empty() {
            cut.entry((isolating(world, client, Direction::Egress), refused)).or_default().push(client);
        }
    }
    for ((policies, refused), pods) in cut {
        found.insert(cut_finding(world, servers, policies, &refused, &pods));
    }
    for (server, (protocols, mut pods)) in closed {
        pods.dedup_by(|one, other| one.name == other.name);
        let policies = world.pod(server).map(|pod| isolating(world, pod, Direction::Ingress));
        let protocols: Vec<_> = protocols.into_iter().rev().collect();
        let message = format!(
            "the name server {} takes no {} from {}",
            at(world, server),
            protocols.join(" and "),
            count(pods.len(), "pod")
        );
        let fix = format!("let every pod in on {}", ports_text(servers));
        let policies = policies.unwrap_or_default();
        found.insert(finding(Severity::Error, Code::DnsCut, policies, message, &fix, &pods));
    }
}

/// Where name servers listen, in words.
fn ports_text(servers: &[Server<'_>]) -> String {
    let ports = servers.iter().flat_map(|server| server.ports).map(|(_, port)| port);
    let ports: BTreeSet<String> = ports.map(|port| port.to_string()).collect();
    let ports: Vec<String> = ports.into_iter().collect();
    format!("port {}, UDP and TCP", ports.join(" and "))
}

fn cut_finding(
    world: &World,
    servers: &[Server<'_>],
    policies: Vec<NamespacedName>,
    refused: &BTreeSet<(NamespacedName, &'static str)>,
    pods: &[&Pod],
) -> Finding {
    let over = |protocol: &str| refused.iter().filter(|(_, refused)| *refused == protocol).count();
    let (udp, tcp) = (over("UDP"), over("TCP"));
    let protocols = match (udp, tcp) {
        (0, _) => "TCP",
        (_, 0) => "UDP",
        _ => "UDP and TCP",
    };
    let severity = if udp == 0 { Severity::Warning } else { Severity::Error };
    let who = count(pods.len(), "pod");
    let message = if udp.max(tcp) == servers.len() {
        format!("{who} cannot ask any name server over {protocols}")
    } else {
        let refused: BTreeSet<_> = refused.iter().map(|(server, _)| at(world, server)).collect();
        let refused: Vec<_> = refused.into_iter().collect();
        format!(
            "{who} cannot ask {} over {protocols}: of {}, whoever gets one of these waits in vain",
            refused.join(", "),
            count(servers.len(), "name server")
        )
    };
    let ports = ports_text(servers);
    let fix = if udp == 0 {
        format!("allow {ports}: answers that do not fit a datagram come over TCP")
    } else {
        format!("add an egress rule to the name servers, by their labels, on {ports}")
    };
    finding(severity, Code::DnsCut, policies, message, &fix, pods)
}

/// A pod, and the node it is on.
fn at(world: &World, pod: &NamespacedName) -> String {
    let addr = world.pod(pod).and_then(|pod| pod.addrs.first());
    match addr.and_then(|addr| world.node_at(*addr)) {
        Some(node) => format!("{pod} on {node}"),
        None => pod.to_string(),
    }
}

/// A finding about all these policies: any of them may be the one to change.
fn finding(
    severity: Severity,
    code: Code,
    policies: Vec<NamespacedName>,
    message: String,
    fix: &str,
    pods: &[&Pod],
) -> Finding {
    let mut policies = policies.into_iter().map(ObjectKey::NetworkPolicy);
    let object =
        policies.next().map_or_else(|| "ClusterNetworkPolicies".to_owned(), |first| first.to_string());
    let others: Vec<String> = policies.map(|policy| policy.to_string()).collect();
    let others = if others.is_empty() { String::new() } else { format!(" (with {})", others.join(", ")) };
    let (message, fix) = (format!("{message}{others}"), fix.to_owned());
    Finding { severity, code, object, field: None, message, fix, pods: names(pods.iter().copied()) }
}

fn isolating(world: &World, pod: &Pod, direction: Direction) -> Vec<NamespacedName> {
    let set = pod.addrs.first().and_then(|addr| world.place_of(pod).rule_set(*addr, direction));
    set.iter().flat_map(|set| &set.isolating).cloned().collect()
}

/// A Service that no pod of the cluster can use, though its namespace has some that could.
fn blocked(world: &World, name: &NamespacedName, service: &object::Service, found: &mut BTreeSet<Finding>) {
    let backends: Vec<&Pod> = served(world, name, service).filter(|pod| !pod.is_host).collect();
    let is_backend = |pod: &&Pod| backends.iter().any(|backend| backend.name == pod.name);
    let clients: Vec<&Pod> = world.pods().iter().filter(|pod| !is_backend(pod)).collect();
    if backends.is_empty() || !clients.iter().any(|pod| pod.name.namespace == name.namespace && !pod.is_host)
    {
        return;
    }
    for port in &service.spec.ports {
        let Some(protocol) = protocol_of(&port.protocol) else { continue };
        let targets: Vec<(&Pod, u16)> =
            backends.iter().filter_map(|pod| Some((*pod, target_on(world, pod, port)?))).collect();
        let is_used = targets.iter().any(|(backend, target)| {
            let mut reach = Reach::new(world, vec![(protocol, *target)]);
            clients.iter().any(|client| reach.sides(client, backend)[1].has(0))
        });
        if is_used || targets.is_empty() {
            continue;
        }
        let policies: BTreeSet<NamespacedName> =
            targets.iter().flat_map(|(pod, _)| isolating(world, pod, Direction::Ingress)).collect();
        let message = format!(
            "no pod can use {} {} of Service {name}: port {} of {} behind it is closed to all",
            port.protocol,
            port.port,
            targets[0].1,
            count(targets.len(), "pod")
        );
        let fix = "add an ingress rule for the Service's clients, with the port that its pods listen on";
        let pods: Vec<&Pod> = targets.iter().map(|(pod, _)| *pod).collect();
        let (severity, code) = (Severity::Warning, Code::ServiceBlocked);
        found.insert(finding(severity, code, policies.into_iter().collect(), message, fix, &pods));
    }
}
