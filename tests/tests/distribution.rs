//! How new flows are spread over backends: many flows through the loaded programs, whose maps are what the compiler makes
//! of a Service.
//!
//! Chance is judged by the chi-squared statistic (NIST/SEMATECH e-Handbook, 1.3.5.15); its bound for chance is one that a
//! fair choice exceeds once in a million runs. Consistent hashing is the same in every run: there the bound is what a fair
//! choice exceeds once in a thousand.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    thread,
};

use serde_json::{Value, json};
use sluice_abi::{Addr, EndpointId, FrontendKey, FrontendScope, Hook, protocol};
use sluice_agent::apply::{apply, read_actual};
use sluice_core::{
    cluster::{Change, Cluster, LocalEndpoint, NodeName},
    compile::{Settings, compile_with},
    diff::{Limits, diff},
    object::Object,
};
use sluice_tests::{
    lab::{Action, Lab, UPLINK, ip},
    packet::{self, ETH_LEN},
};

const FLOWS: u32 = 100_000;
/// Flows of which it is compared where they go.
const COMPARED: u32 = 10_000;

const CLUSTER_IPS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 96, 0, 80)), IpAddr::V6(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0x80))];
const BALANCER: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 80)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x80)),
];
const SERVICE_PORT: u16 = 80;
const BACKEND_PORT: u16 = 8080;
/// The pods that ask, each with as many flows as it has ports; backends are 1, 2, …
const CLIENTS: [u8; 3] = [250, 251, 252];
const PORTS: u32 = 40_000;

/// Degrees of freedom, and the 99.9 % and 99.9999 % quantiles of chi-squared.
const QUANTILES: [(usize, f64, f64); 3] = [(2, 13.82, 27.63), (9, 27.88, 44.81), (99, 148.23, 180.79)];

fn quantiles(backends: usize) -> (f64, f64) {
    let found = QUANTILES.iter().find(|(freedom, ..)| *freedom + 1 == backends);
    found.map(|(_, thousand, million)| (*thousand, *million)).expect("a row for this many backends")
}

/// Where clients are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum From {
    /// In a pod, at the cluster address.
    Pod,
    /// Outside, at the load balancer's address.
    Outside,
}

fn backend(number: u8, family: usize) -> IpAddr {
    match family {
        0 => IpAddr::from([10, 1, 0, number]),
        _ => IpAddr::from([0xfd01, 0, 0, 0, 0, 0, 0, u16::from(number)]),
    }
}

/// A node with the Service in its maps.
struct Loaded {
    lab: Lab,
    /// Host-side devices of the pods that ask.
    devices: [u32; 3],
    uplink: u32,
}

impl Loaded {
    /// A node on which the backends `is_here` says run.
    fn new(node: &str, backends: &[u8], is_here: impl Fn(u8) -> bool, table_size: u32) -> Self {
        let mut lab = Lab::bare();
        let devices = CLIENTS.map(|_| lab.device());
        let uplink = uplink();
        let mut cluster = Cluster::default();
        let mut take = |change| cluster.apply(change).expect("nothing to reject");
        // Each device is a pod's; all backends may be behind the same one where nothing is delivered.
        let served = backends.iter().filter(|number| is_here(**number)).map(|number| (*number, UPLINK));
        for (number, device) in served.chain(CLIENTS.into_iter().zip(devices)) {
            take(upsert(pod(number, node)));
            take(Change::Attach(endpoint(number, device)));
        }
        service(backends, |number| if is_here(number) { node } else { "elsewhere" })
            .into_iter()
            .for_each(|object| take(upsert(object)));
        let own =
            ["192.168.7.1", "fd77::1"].map(|text| Addr::from(text.parse::<IpAddr>().expect("an address")));
        take(Change::NodeAddresses(own.into()));
        take(Change::UplinkAddresses(own.into()));
        let settings = Settings { maglev_table_size: table_size, ..Settings::default() };
        let desired = compile_with(&cluster, &NodeName(node.to_owned()), settings);
        let actual = read_actual(lab.maps()).expect("reading the maps");
        let outcome = diff(&desired, &actual, &Limits::default());
        assert_eq!(outcome.rejected, []);
        apply(&outcome.plan, lab.maps()).expect("applying the plan");
        Self { lab, devices, uplink }
    }

    /// Who gets each of so many new flows.
    fn choices(&self, from: From, family: usize, count: u32) -> Vec<IpAddr> {
        let to = [CLUSTER_IPS, BALANCER][usize::from(from == From::Outside)][family];
        let mut syn =
            packet::tcp(SocketAddr::new(client(0, family), 1), SocketAddr::new(to, SERVICE_PORT), "S");
        let mut choose = |number: u32| {
            let pod = usize::try_from(number / PORTS).expect("a small number");
            let (src, hook, ifindex) = match from {
                From::Pod => (backend(CLIENTS[pod], family), Hook::FromPod, self.devices[pod]),
                From::Outside => {
                    (client(number / PORTS + number % 251, family), Hook::FromNetdev, self.uplink)
                }
            };
            set_source(&mut syn, src, u16::try_from(1024 + number % PORTS).expect("a port"));
            let output = self.lab.run(hook, ifindex, &syn);
            assert_ne!(output.action, Action::Drop, "flow {number}");
            packet::addresses(&output.packet).1
        };
        (0..count).map(&mut choose).collect()
    }

    /// Places of each backend in the table for clients outside.
    fn places(&mut self, family: usize) -> BTreeMap<IpAddr, usize> {
        let maps = self.lab.maps();
        let key = FrontendKey {
            addr: BALANCER[family].into(),
            port: SERVICE_PORT.to_be_bytes(),
            protocol: protocol::TCP,
            scope: FrontendScope::External as u8,
        };
        let frontend = maps.frontends.get(&key).expect("a frontend").expect("a frontend");
        let mut places = BTreeMap::new();
        for slot in frontend.first_slot..frontend.first_slot + frontend.count {
            let id = maps.slots.get(slot).expect("a slot");
            let backend = maps.backends.get(&id).expect("a backend").expect("a backend");
            *places.entry(IpAddr::from(backend.addr)).or_default() += 1;
        }
        places
    }
}

/// Gives the packet another source. The programs change checksums by what they change and never look at the rest.
fn set_source(packet: &mut [u8], src: IpAddr, port: u16) {
    match src {
        IpAddr::V4(v4) => packet[ETH_LEN + 12..ETH_LEN + 16].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => packet[ETH_LEN + 8..ETH_LEN + 24].copy_from_slice(&v6.octets()),
    }
    let at = packet::l4_offset(packet);
    packet[at..at + 2].copy_from_slice(&port.to_be_bytes());
}

/// Makes the device by which everything else is reached.
fn uplink() -> u32 {
    for line in [
        "link add up0 type veth peer name up1",
        "link set up0 up",
        "link set up1 up",
        "addr add 192.168.7.1/24 dev up0",
        "addr add fd77::1/64 dev up0 nodad",
        "route add default via 192.168.7.2",
        "route add default via fd77::2",
        "neigh add 192.168.7.2 lladdr 02:00:00:00:00:07 dev up0",
        "neigh add fd77::2 lladdr 02:00:00:00:00:07 dev up0",
    ] {
        ip(line);
    }
    for family in ["ipv4", "ipv6"] {
        std::fs::write(format!("/proc/sys/net/{family}/conf/all/forwarding"), "1").expect("forwarding");
    }
    nix::net::if_::if_nametoindex("up0").expect("the uplink")
}

/// A host outside; hundreds of them.
fn client(number: u32, family: usize) -> IpAddr {
    let [.., high, low] = number.to_be_bytes();
    match family {
        0 => IpAddr::from([198, 18, high, low]),
        _ => IpAddr::from([0x2001, 0xdb8, 1, 0, 0, 0, 0, u16::from_be_bytes([high, low])]),
    }
}

fn upsert(value: Value) -> Change {
    Change::Upsert(Object::from_value(value).expect("a good object").expect("a known kind"))
}

fn pod(number: u8, node: &str) -> Value {
    let ips = [0, 1].map(|family| json!({"ip": backend(number, family)}));
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "default", "name": format!("pod-{number}"), "uid": format!("uid-{number}")},
        "spec": {"nodeName": node, "containers": []}, "status": {"phase": "Running", "podIPs": ips},
    })
}

fn endpoint(number: u8, device: u32) -> LocalEndpoint {
    LocalEndpoint {
        id: EndpointId(u32::from(number)),
        namespace: "default".to_owned(),
        pod: format!("pod-{number}"),
        uid: Some(format!("uid-{number}")),
        container: format!("container-{number}"),
        ifname: "eth0".to_owned(),
        host_ifname: "v1".to_owned(),
        addrs: [0, 1].map(|family| Addr::from(backend(number, family))),
        ifindex: device,
        mac: [2, 0, 0, 0, 0, number],
    }
}

fn service<'a>(backends: &[u8], node_of: impl Fn(u8) -> &'a str) -> Vec<Value> {
    let slices = ["IPv4", "IPv6"].into_iter().enumerate().map(|(family, kind)| {
        let endpoints: Vec<_> = backends
            .iter()
            .map(|number| json!({"addresses": [backend(*number, family)], "nodeName": node_of(*number)}))
            .collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "namespace": "default", "name": format!("web-{family}"),
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": kind, "endpoints": endpoints, "ports": [{"port": BACKEND_PORT}],
        })
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": "web"},
        "spec": {"type": "LoadBalancer", "clusterIPs": CLUSTER_IPS, "ports": [{"port": SERVICE_PORT}]},
        "status": {"loadBalancer": {"ingress": BALANCER.map(|ip| json!({"ip": ip}))}},
    });
    [service].into_iter().chain(slices).collect()
}

/// Chi-squared of what came, beside what each backend should have.
fn chi_squared(choices: &[IpAddr], shares: &BTreeMap<IpAddr, f64>) -> f64 {
    let mut counts: BTreeMap<IpAddr, u32> = shares.keys().map(|ip| (*ip, 0)).collect();
    for choice in choices {
        *counts.get_mut(choice).expect("one of the backends") += 1;
    }
    let term = |(ip, count): (&IpAddr, &u32)| {
        let expected = shares[ip] * choices.len() as f64;
        (f64::from(*count) - expected).powi(2) / expected
    };
    counts.iter().map(term).sum()
}

/// Runs on a thread of its own: a lab takes its thread to other namespaces.
fn apart<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

#[test]
fn chance_gives_each_backend_of_a_cluster_address_its_share() {
    for count in [3, 10, 100] {
        apart(|| {
            let backends: Vec<u8> = (1..=count).collect();
            let loaded = Loaded::new("here", &backends, |_| true, 1021);
            for family in [0, 1] {
                let shares = backends.iter().map(|number| (backend(*number, family), 1.0 / f64::from(count)));
                let statistic = chi_squared(&loaded.choices(From::Pod, family, FLOWS), &shares.collect());
                let (thousand, million) = quantiles(usize::from(count));
                eprintln!(
                    "cluster address, {count} backends, IPv{}: chi-squared {statistic:.1} (99.9 %: {thousand})",
                    4 + 2 * family
                );
                assert!(statistic < million, "{count} backends: {statistic}");
            }
        });
    }
}

#[test]
fn consistent_hashing_gives_each_backend_the_share_it_has_of_the_table() {
    for count in [3, 10, 100] {
        apart(|| {
            let backends: Vec<u8> = (1..=count).collect();
            let mut loaded = Loaded::new("here", &backends, |_| true, 1021);
            for family in [0, 1] {
                let places = loaded.places(family);
                let (least, most) =
                    (places.values().min().expect("some"), places.values().max().expect("some"));
                assert!(places.len() == usize::from(count) && most - least <= 1, "{least} to {most} places");
                let total = places.values().sum::<usize>() as f64;
                let shares = places.iter().map(|(ip, places)| (*ip, *places as f64 / total)).collect();
                let choices = loaded.choices(From::Outside, family, FLOWS);
                let even = places.keys().map(|ip| (*ip, 1.0 / places.len() as f64)).collect();
                let statistic = chi_squared(&choices, &shares);
                let (thousand, _) = quantiles(usize::from(count));
                eprintln!(
                    "outside, {count} backends of {least} to {most} places, IPv{}: chi-squared {statistic:.1} (99.9 %: {thousand}), beside even shares {:.1}",
                    4 + 2 * family,
                    chi_squared(&choices, &even)
                );
                assert!(statistic < thousand, "{count} backends: {statistic}");
            }
        });
    }
}

#[test]
fn few_flows_of_the_others_move_when_one_of_a_hundred_backends_leaves() {
    const GONE: u8 = 42;
    for (size, bound) in [(1021, 0.05), (16_381, 0.05)] {
        for family in [0, 1] {
            let all: Vec<u8> = (1..=100).collect();
            let fewer: Vec<u8> = all.iter().copied().filter(|number| *number != GONE).collect();
            let choices = |backends: &[u8]| {
                apart(|| {
                    Loaded::new("here", backends, |_| true, size).choices(From::Outside, family, COMPARED)
                })
            };
            let (before, after) = (choices(&all), choices(&fewer));
            let others = || before.iter().zip(&after).filter(|(old, _)| **old != backend(GONE, family));
            let moved = others().filter(|(old, new)| old != new).count() as f64 / others().count() as f64;
            eprintln!(
                "one of 100 leaves, table of {size}, IPv{}: {:.2} % of the others' flows move",
                4 + 2 * family,
                moved * 100.0
            );
            assert!(moved <= bound, "table of {size}: {moved}");
        }
    }
}

#[test]
fn every_node_chooses_the_same_backend_for_a_flow_from_outside() {
    let backends: Vec<u8> = (1..=10).collect();
    // Another order of the same objects, and other backends of its own.
    let reversed: Vec<u8> = backends.iter().rev().copied().collect();
    for family in [0, 1] {
        let first = apart(|| {
            Loaded::new("first", &backends, |number| number <= 5, 1021).choices(
                From::Outside,
                family,
                COMPARED / 4,
            )
        });
        let second = apart(|| {
            Loaded::new("second", &reversed, |number| number > 5, 1021).choices(
                From::Outside,
                family,
                COMPARED / 4,
            )
        });
        let differ: Vec<_> = first.iter().zip(&second).filter(|(a, b)| a != b).take(5).collect();
        assert!(differ.is_empty(), "IPv{}: {differ:?}", 4 + 2 * family);
    }
}
