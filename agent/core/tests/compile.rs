//! Golden tests: Kubernetes YAML in, the contents of the maps in symbols out.
//!
//! Each folder of `tests/compile/` is a case: `cluster.yaml` and `desired.txt`. `UPDATE=1` rewrites the latter; review it
//! as a diff. Pods of the node `here` are local, with one interface each.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use sluice_abi::{Addr, BackendState, Direction, EndpointId, FrontendKey, FrontendScope, RuleVerdict};
use sluice_core::{
    cluster::{Change, LocalEndpoint, NodeName},
    compile::Compiler,
    desired::{DesiredEndpoint, DesiredFrontend, DesiredState, Digest, PortPrefix},
    object::{Object, flatten},
};

#[test]
fn the_maps_hold_what_each_case_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compile");
    let mut cases: Vec<PathBuf> = fs::read_dir(&root)
        .expect("the folder of cases")
        .map(|entry| entry.expect("a case").path())
        .collect();
    cases.sort();
    let mut wrong = Vec::new();
    for case in &cases {
        let found = compiled(&fs::read_to_string(case.join("cluster.yaml")).expect("cluster.yaml"));
        let golden = case.join("desired.txt");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&golden, &found).expect("writing desired.txt");
        }
        if fs::read_to_string(&golden).unwrap_or_default() != found {
            wrong.push(format!("{}:\n{found}", case.display()));
        }
    }
    assert!(cases.len() >= 8);
    assert!(wrong.is_empty(), "UPDATE=1 rewrites what is right:\n{}", wrong.join("\n"));
}

fn compiled(yaml: &str) -> String {
    let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(yaml).expect("good YAML");
    let mut compiler = Compiler::new(NodeName("here".to_owned()));
    let mut text = String::new();
    let mut next = 1;
    for value in documents.into_iter().flat_map(flatten) {
        let Some(object) = Object::from_value(value).expect("a good object") else { continue };
        if let Object::Pod(pod) = &object
            && pod.spec.node_name == "here"
            && !pod.spec.host_network
        {
            compiler.apply(Change::Attach(endpoint(pod, next))).expect("an endpoint is never rejected");
            next += 1;
        }
        if let Object::Node(node) = &object
            && node.metadata.name == "here"
        {
            let addresses = node.status.addresses.iter().filter_map(|address| addr(&address.address));
            compiler.apply(Change::NodeAddresses(addresses.collect())).expect("addresses are never rejected");
        }
        if let Err(rejected) = compiler.apply(Change::Upsert(object)) {
            writeln!(text, "rejected {}: {}", rejected.key, rejected.reason).expect("a string");
        }
    }
    text + &dump(compiler.desired())
}

fn addr(text: &str) -> Option<Addr> {
    text.parse::<std::net::IpAddr>().ok().map(Addr::from)
}

fn endpoint(pod: &sluice_core::object::Pod, id: u32) -> LocalEndpoint {
    let mut addrs = [Addr::UNSPECIFIED; 2];
    let ips = pod.status.pod_ips.iter().map(|ip| &ip.ip).chain([&pod.status.pod_ip]);
    for (place, addr) in addrs.iter_mut().zip(ips.filter_map(|ip| addr(ip))) {
        *place = addr;
    }
    let name = pod.metadata.namespaced_name();
    LocalEndpoint {
        id: EndpointId(id),
        namespace: name.namespace,
        pod: name.name,
        uid: pod.metadata.uid.clone(),
        container: format!("c{id}"),
        ifname: "eth0".to_owned(),
        host_ifname: format!("veth{id}"),
        addrs,
        ifindex: 10 + id,
        mac: [2, 0, 0, 0, 0, 0],
    }
}

/// The state in words; rule sets are numbered in the order of the endpoints that use them.
fn dump(desired: &DesiredState) -> String {
    let mut sets: Vec<Digest> = Vec::new();
    let mut text = String::from("endpoints\n");
    for (addr, endpoint) in &desired.endpoints {
        match endpoint {
            DesiredEndpoint::Host { takes_node_ports: true } => writeln!(text, "  {addr} host, node ports"),
            DesiredEndpoint::Host { takes_node_ports: false } => writeln!(text, "  {addr} host"),
            DesiredEndpoint::Pod { id, rule_sets, shadows } => {
                let pod = desired.interfaces[id].pod_name();
                let numbers = rule_sets.map(|set| number(&mut sets, set));
                write!(text, "  {addr} {pod} ingress set {} egress set {}", numbers[0], numbers[1])
                    .expect("a string");
                for (direction, shadow) in Direction::ALL.iter().zip(shadows) {
                    if let Some(shadow) = shadow {
                        let number = number(&mut sets, *shadow);
                        write!(text, " shadow {} set {number}", direction.name()).expect("a string");
                    }
                }
                writeln!(text)
            }
        }
        .expect("a string");
    }
    for (index, set) in sets.iter().enumerate() {
        dump_set(desired, index, set, &mut text);
    }
    text.push_str("addresses\n");
    for (prefix, class) in &desired.ipcache {
        let class =
            class.map_or_else(|| "nothing known".to_owned(), |class| desired.classes[&class].to_string());
        writeln!(text, "  {prefix} {class}").expect("a string");
    }
    for policy in &desired.audited {
        writeln!(text, "audited {policy}").expect("a string");
    }
    dump_node(desired, &mut text);
    dump_services(desired, &mut text);
    text
}

fn number(sets: &mut Vec<Digest>, set: Digest) -> usize {
    sets.iter().position(|known| *known == set).unwrap_or_else(|| {
        sets.push(set);
        sets.len() - 1
    })
}

fn dump_set(desired: &DesiredState, index: usize, digest: &Digest, text: &mut String) {
    let set = &desired.rule_sets[digest];
    let isolating: Vec<_> = set.isolating.iter().map(ToString::to_string).collect();
    let isolating = if isolating.is_empty() { "nobody".to_owned() } else { isolating.join(", ") };
    writeln!(text, "set {index} {} isolated by {isolating}", Direction::name(set.direction))
        .expect("a string");
    for (class, entries) in &desired.rules[digest] {
        let class = class.map_or_else(|| "any".to_owned(), |class| desired.classes[&class].to_string());
        writeln!(text, "  {class}").expect("a string");
        for entry in entries.iter() {
            let source = match (&entry.source, entry.verdict) {
                (None, RuleVerdict::Allow) => "not isolated".to_owned(),
                (None, RuleVerdict::Deny) => "denied by no rule".to_owned(),
                (Some(source), RuleVerdict::Allow) => source.to_string(),
                (Some(source), RuleVerdict::Deny) => format!("denied by {source}"),
            };
            match entry.ports {
                PortPrefix::Any => writeln!(text, "    everything: {source}"),
                PortPrefix::Ports { protocol, first, bits } => {
                    let last = u32::from(first) + (1 << (16 - bits)) - 1;
                    writeln!(text, "    protocol {protocol} ports {first}-{last}: {source}")
                }
            }
            .expect("a string");
        }
    }
}

fn dump_node(desired: &DesiredState, text: &mut String) {
    let node = &desired.node;
    let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(", ");
    let addrs = list(&mut node.addrs.iter().map(ToString::to_string));
    writeln!(text, "node [{addrs}] masquerade {}", node.masquerade).expect("a string");
    let ranges = list(&mut node.no_masquerade.iter().map(ToString::to_string));
    writeln!(text, "  but to [{ranges}]").expect("a string");
}

fn dump_services(desired: &DesiredState, text: &mut String) {
    text.push_str("services\n");
    for (name, service) in &desired.services {
        writeln!(text, "  {name}").expect("a string");
        for (key, frontend) in &service.frontends {
            dump_frontend(key, frontend, text);
        }
        let keeping = service.backends.iter().filter(|(_, state)| **state == BackendState::Terminating);
        for (key, _) in keeping {
            writeln!(text, "    keeps flows: {} port {}", key.addr, key.port).expect("a string");
        }
        for range in &service.source_ranges {
            writeln!(text, "    clients from {range}").expect("a string");
        }
        if let Some(check) = desired.health_checks.get(name) {
            writeln!(text, "    health at port {}: {} here", check.port, check.local_endpoints)
                .expect("a string");
        }
    }
    for (key, names) in &desired.contested {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        writeln!(
            text,
            "  contested: {} port {} by {}",
            key.addr,
            u16::from_be_bytes(key.port),
            names.join(", ")
        )
        .expect("a string");
    }
}

fn dump_frontend(key: &FrontendKey, frontend: &DesiredFrontend, text: &mut String) {
    let scope = if key.scope == FrontendScope::Internal as u8 { "inside" } else { "outside" };
    let (addr, port, protocol) = (key.addr, u16::from_be_bytes(key.port), key.protocol);
    write!(text, "    {:?} {scope} {addr} port {port} protocol {protocol}", frontend.kind).expect("a string");
    if frontend.service_port != port {
        write!(text, " for port {}", frontend.service_port).expect("a string");
    }
    if let Some(seconds) = frontend.affinity_s {
        write!(text, " affinity {seconds} s").expect("a string");
    }
    if let Some(size) = frontend.slots.table {
        write!(text, " table of {size}").expect("a string");
    }
    for (word, has) in [(" local", frontend.is_local), (" restricted", frontend.has_source_ranges)] {
        text.push_str(if has { word } else { "" });
    }
    let backends = frontend.slots.backends.iter().map(|key| format!("{} port {}", key.addr, key.port));
    writeln!(text, " → [{}]", backends.collect::<Vec<_>>().join(", ")).expect("a string");
}
