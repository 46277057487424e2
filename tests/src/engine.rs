//! The engines that answer the probes of [`crate::policy_cases`]: the compiled model, and the loaded programs.

use std::{collections::BTreeMap, net::IpAddr};

use sluice_abi::{Addr, EndpointId, Hook, protocol};
use sluice_agent::apply::{apply, read_actual};
use sluice_core::{
    cluster::{Change, Cluster, LocalEndpoint, NodeName},
    compile::compile,
    diff::{Limits, Rejection, diff},
    object::{NamespacedName, Object, ObjectKey},
    plan::Actual,
    verdict::{Answer, Flow, verdict},
};

use crate::{
    lab::{Action, Lab, UPLINK},
    packet,
    policy_cases::{CORNERS, Case, FULL, PODS, Pod, Then, fixture},
};

/// A parsed probe, in one address family.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Who sends.
    pub src: IpAddr,
    /// To whom.
    pub dst: IpAddr,
    /// IANA protocol number.
    pub protocol: u8,
    /// Destination port; 0 where the protocol has none.
    pub port: u16,
}

impl Probe {
    /// The probe in each family in which both ends have an address.
    ///
    /// # Panics
    /// When the text is no probe.
    pub fn parse(text: &str) -> Vec<Self> {
        let mut words = text.split_whitespace();
        let (src, ">", dst, what) = (
            words.next().expect("a source"),
            words.next().expect("an arrow"),
            words.next().expect("a destination"),
            words.next().expect("a protocol"),
        ) else {
            panic!("{text} is no probe")
        };
        let (name, port) = what.split_once('/').unwrap_or((what, "0"));
        let port = port.parse().expect("a port");
        let probes = [0, 1].into_iter().filter_map(|family| {
            let (src, dst) = (address(src, family)?, address(dst, family)?);
            let protocol = match name {
                "tcp" => protocol::TCP,
                "udp" => protocol::UDP,
                "sctp" => protocol::SCTP,
                "icmp" if src.is_ipv4() => protocol::ICMP,
                "icmp" => protocol::ICMPV6,
                "gre" => 47,
                _ => panic!("{text}: no protocol {name}"),
            };
            Some(Self { src, dst, protocol, port })
        });
        probes.collect()
    }
}

/// The address of a pod, a node or a literal in a family (0: IPv4, 1: IPv6).
fn address(name: &str, family: usize) -> Option<IpAddr> {
    let text = match name {
        "node" => ["192.168.0.1", "fd99::1"][family],
        "node2" => ["192.168.0.2", "fd99::2"][family],
        _ => PODS.iter().find(|pod| pod.name == name).map_or(name, |pod| pod.addrs[family]),
    };
    let ip: IpAddr = text.parse().expect("an address");
    (ip.is_ipv6() == (family == 1)).then_some(ip)
}

/// Something that can be given a cluster and asked about flows.
pub trait Engine {
    /// Interface index of a local pod's host-side veth.
    fn ifindex(&mut self, pod: &Pod) -> u32;
    /// Moves from whatever was in force to the cluster.
    fn load(&mut self, cluster: &Cluster);
    /// What becomes of the first packet of a flow.
    fn ask(&mut self, probe: &Probe) -> Fate;
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    /// It passes.
    Passes,
    /// It passes, and audited policies would drop it.
    WouldDrop,
    /// It is dropped.
    Dropped,
}

impl Fate {
    fn of(passes: bool, would_drop: bool) -> Self {
        match (passes, would_drop) {
            (true, false) => Self::Passes,
            (true, true) => Self::WouldDrop,
            (false, _) => Self::Dropped,
        }
    }
}

/// Runs every row of some corners on the engine; the answer is the number of corners.
///
/// # Panics
/// With the row's sentence and the probe, when one is answered wrongly.
pub fn check(engine: &mut impl Engine, is_wanted: impl Fn(&str) -> bool) -> usize {
    let corners: Vec<_> = CORNERS.iter().filter(|(corner, _)| is_wanted(corner)).collect();
    for (corner, cases) in &corners {
        let asked: usize = cases.iter().map(|case| run(case, engine)).sum();
        eprintln!("{:>4} rows, {asked:>4} probes: {corner}", cases.len());
    }
    corners.len()
}

/// Runs the rows about full maps on an engine that was made for them; the answer is the number of probes.
///
/// # Panics
/// As [`check`].
pub fn check_full(engine: &mut impl Engine) -> usize {
    FULL.iter().map(|case| run(case, engine)).sum()
}

/// Capacities without room for any single address.
pub fn full() -> Limits {
    Limits { ipcache: 0, ..Limits::default() }
}

/// Runs a row; the answer is the number of probes.
fn run(case: &Case, engine: &mut impl Engine) -> usize {
    let mut cluster = cluster(case, engine);
    engine.load(&cluster);
    let mut asked = ask(engine, case.name, [case.allowed, case.audited, case.denied]);
    for Then { what, upsert, delete, allowed, audited, denied } in case.then {
        for object in upsert.iter().flat_map(|yaml| objects(yaml)) {
            let _ = cluster.apply(Change::Upsert(object));
        }
        for key in *delete {
            cluster.apply(Change::Delete(self::key(key))).expect("a deletion");
        }
        engine.load(&cluster);
        asked += ask(engine, &format!("{}; {what}", case.name), [allowed, audited, denied]);
    }
    asked
}

/// Asks about the probes that pass, those that pass and would not, and those that do not.
fn ask(engine: &mut impl Engine, row: &str, probes: [&[&str]; 3]) -> usize {
    let mut asked = 0;
    for (probes, wanted) in probes.into_iter().zip([Fate::Passes, Fate::WouldDrop, Fate::Dropped]) {
        for (text, probe) in
            probes.iter().flat_map(|text| Probe::parse(text).into_iter().map(move |p| (text, p)))
        {
            assert_eq!(engine.ask(&probe), wanted, "{row}: {text} ({probe:?})");
            asked += 1;
        }
    }
    asked
}

/// The object that `Kind name` or `Kind namespace/name` names.
fn key(text: &str) -> ObjectKey {
    let (kind, name) = text.split_once(' ').expect("a kind and a name");
    let namespaced = || {
        let (namespace, name) = name.split_once('/').expect("a namespace and a name");
        NamespacedName::new(namespace, name)
    };
    match kind {
        "Pod" => ObjectKey::Pod(namespaced()),
        "Namespace" => ObjectKey::Namespace(name.to_owned()),
        "NetworkPolicy" => ObjectKey::NetworkPolicy(namespaced()),
        "ClusterNetworkPolicy" => ObjectKey::ClusterNetworkPolicy(name.to_owned()),
        _ => panic!("{text} goes in no row"),
    }
}

/// The annotations of a row's policy, to stand behind its name, and the rest of its text.
fn mode(spec: &str) -> (&'static str, &str) {
    spec.strip_prefix("audit:").map_or(("", spec), |spec| (", annotations: {sluice.dev/mode: audit}", spec))
}

/// The fixture with the row's policies, and the local pods attached.
fn cluster(case: &Case, engine: &mut impl Engine) -> Cluster {
    let mut cluster = Cluster::default();
    for object in objects(&fixture()) {
        cluster.apply(Change::Upsert(object)).expect("a sound fixture");
    }
    let policies = case.policies.iter().enumerate().map(|(number, spec)| {
        let (annotations, spec) = mode(spec);
        let (namespace, spec) = spec.strip_prefix("other:").map_or(("default", spec), |spec| ("other", spec));
        format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p{number}, namespace: {namespace}{annotations}}}, spec: {spec}}}"
        )
    });
    let of_cluster = case.cluster.iter().enumerate().map(|(number, spec)| {
        let (annotations, spec) = mode(spec);
        format!(
            "{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {{name: c{number}{annotations}}}, spec: {spec}}}"
        )
    });
    let others = case.objects.iter().map(ToString::to_string);
    for object in policies.chain(of_cluster).chain(others).flat_map(|yaml| objects(&yaml)) {
        // Some rows are about a policy that is refused.
        let _ = cluster.apply(Change::Upsert(object));
    }
    for (number, pod) in (1..).zip(PODS.iter().filter(|pod| pod.is_local())) {
        let (namespace, name) = pod.namespaced();
        let endpoint = LocalEndpoint {
            id: EndpointId(number),
            namespace: namespace.to_owned(),
            pod: name.to_owned(),
            uid: Some(format!("uid-{namespace}-{name}")),
            container: format!("container-{number}"),
            ifname: "eth0".to_owned(),
            host_ifname: format!("v{number}"),
            addrs: pod.addrs.map(|addr| Addr::from(addr.parse::<IpAddr>().expect("an address"))),
            ifindex: engine.ifindex(pod),
            mac: [2, 0, 0, 0, 0, number as u8],
        };
        cluster.apply(Change::Attach(endpoint)).expect("an endpoint");
    }
    let node = ["192.168.0.1", "fd99::1"].map(|addr| Addr::from(addr.parse::<IpAddr>().expect("an address")));
    cluster.apply(Change::NodeAddresses(node.into())).expect("addresses");
    cluster
}

/// The objects of a YAML text.
///
/// # Panics
/// When it cannot be understood.
pub fn objects(yaml: &str) -> Vec<Object> {
    yaml.split("\n---\n")
        .map(|document| {
            let value: serde_json::Value = serde_saphyr::from_str(document).expect("YAML");
            Object::from_value(value).expect("an object").expect("a known kind")
        })
        .collect()
}

/// Whether everything fits, or what is to be left out is; ties are told of too, and are served.
fn assert_fits(limits: &Limits, rejected: &[Rejection]) {
    let is_full = *limits == full();
    let is_expected = |rejection: &Rejection| {
        matches!(rejection, Rejection::Tied { .. })
            || (is_full && matches!(rejection, Rejection::Addresses { .. } | Rejection::Narrowed { .. }))
    };
    assert!(rejected.iter().all(is_expected), "{rejected:?}");
}

fn this_node() -> NodeName {
    NodeName("node".to_owned())
}

/// The compiled model: no kernel.
#[derive(Debug, Default)]
pub struct Model {
    actual: Actual,
    limits: Limits,
}

impl Model {
    /// A model of maps of other capacities.
    pub fn with_limits(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }
}

impl Engine for Model {
    fn ifindex(&mut self, pod: &Pod) -> u32 {
        PODS.iter().position(|other| other.name == pod.name).expect("a pod of the fixture") as u32 + 100
    }

    fn load(&mut self, cluster: &Cluster) {
        let outcome = diff(&compile(cluster, &this_node()), &self.actual, &self.limits);
        assert_fits(&self.limits, &outcome.rejected);
        for step in &outcome.plan {
            self.actual.apply(step);
        }
    }

    fn ask(&mut self, probe: &Probe) -> Fate {
        let flow =
            Flow { src: probe.src.into(), dst: probe.dst.into(), protocol: probe.protocol, port: probe.port };
        let answer = verdict(&self.actual, &flow);
        let ways = match &answer {
            Answer::Direct(judged) => std::slice::from_ref(judged),
            Answer::Service(_, backends) => backends,
        };
        Fate::of(answer.allows(), ways.iter().any(|way| way.would_drop().next().is_some()))
    }
}

/// The loaded programs.
#[derive(Debug)]
pub struct Kernel {
    lab: Lab,
    devices: BTreeMap<&'static str, u32>,
    /// Gives every probe a flow of its own.
    next_port: u16,
    limits: Limits,
}

impl Kernel {
    /// Loads the programs.
    pub fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    /// Loads the programs, and plans as if the maps had these capacities.
    pub fn with_limits(limits: Limits) -> Self {
        Self { lab: Lab::bare(), devices: BTreeMap::new(), next_port: 10_000, limits }
    }

    fn would_drop(&mut self) -> u64 {
        self.lab.maps().counters.would_drop().expect("the counters")
    }
}

impl Default for Kernel {
    fn default() -> Self {
        Self::new()
    }
}

impl Engine for Kernel {
    fn ifindex(&mut self, pod: &Pod) -> u32 {
        let lab = &mut self.lab;
        *self.devices.entry(pod.name).or_insert_with(|| lab.device())
    }

    fn load(&mut self, cluster: &Cluster) {
        let maps = self.lab.maps();
        let actual = read_actual(maps).expect("reading the maps");
        let outcome = diff(&compile(cluster, &this_node()), &actual, &self.limits);
        assert_fits(&self.limits, &outcome.rejected);
        apply(&outcome.plan, maps).expect("applying the plan");
    }

    fn ask(&mut self, probe: &Probe) -> Fate {
        self.next_port += 1;
        let from = std::net::SocketAddr::new(probe.src, self.next_port);
        let to = std::net::SocketAddr::new(probe.dst, probe.port);
        let packet = match probe.protocol {
            protocol::TCP => packet::tcp(from, to, "S"),
            protocol::UDP => packet::udp(from, to),
            protocol::SCTP => packet::sctp(from, to),
            protocol::ICMP | protocol::ICMPV6 => packet::ping(probe.src, probe.dst, self.next_port),
            other => packet::other(probe.src, probe.dst, other),
        };
        let sender = PODS.iter().find(|pod| pod.addrs.iter().any(|addr| addr.parse() == Ok(probe.src)));
        let (hook, ifindex) = match sender.filter(|pod| pod.is_local()) {
            Some(pod) => (Hook::FromPod, self.devices[pod.name]),
            None => (Hook::FromNetdev, UPLINK),
        };
        let before = self.would_drop();
        let passes = self.lab.run(hook, ifindex, &packet).action != Action::Drop;
        Fate::of(passes, self.would_drop() > before)
    }
}
