//! How long one change takes in a large cluster: 10 000 pods, 1 000 policies, 30 000 Services, 100 pods here.
//!
//! `cargo bench -p sluice-core`; prints the median and the slowest of a few runs to stderr.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_abi::{Addr, EndpointId};
use sluice_core::{
    cluster::{Change, LocalEndpoint, NodeName},
    compile::{Compiler, compile},
    diff::{Differ, Limits},
    object::Object,
    plan::Actual,
};

const PODS: u32 = 10_000;
const LOCAL: u32 = 100;
const POLICIES: u32 = 1_000;
const SERVICES: u32 = 30_000;
const NAMESPACES: u32 = 50;

fn main() {
    let mut bench = Bench {
        compiler: Compiler::new(NodeName("here".to_owned())),
        differ: Differ::new(Limits::default()),
        actual: Actual::default(),
    };
    let begun = Instant::now();
    (0..PODS).for_each(|number| bench.apply(pod(number, "a")));
    (0..LOCAL).for_each(|number| bench.change(Change::Attach(endpoint(number))));
    (0..POLICIES).for_each(|number| bench.apply(policy(number, 80)));
    for number in 0..SERVICES {
        bench.apply(service(number, 0));
        bench.apply(slice(number, 3));
    }
    report("taking in the cluster", &[begun.elapsed()]);
    let begun = Instant::now();
    let _desired = compile(bench.compiler.cluster(), &NodeName("here".to_owned()));
    report("compiling from scratch", &[begun.elapsed()]);
    report("first plan", &[bench.settle()]);
    report("nothing new", &times(|_| bench.settle()));
    report(
        "the first plan of a restarted agent",
        &times(|_| {
            bench.differ.forget();
            bench.settle()
        }),
    );
    let change = |bench: &mut Bench, value: Value| {
        let begun = Instant::now();
        bench.apply(value);
        bench.settle();
        begun.elapsed()
    };
    report("a policy of a local pod changes", &times(|run| change(&mut bench, policy(0, 1000 + run))));
    report("a policy of another pod changes", &times(|run| change(&mut bench, policy(40, 1000 + run))));
    report(
        "a remote pod changes its labels",
        &times(|run| change(&mut bench, pod(5000, &format!("b{run}")))),
    );
    report("a local pod changes its labels", &times(|run| change(&mut bench, pod(1, &format!("b{run}")))));
    report("a Service loses or gets a backend", &times(|run| change(&mut bench, slice(7, 2 + run % 2))));
    report(
        "a Service gets or loses a node port",
        &times(|run| change(&mut bench, service(7, run % 2 * 30_007))),
    );
    report("another node comes", &times(|run| change(&mut bench, node(run))));
}

struct Bench {
    compiler: Compiler,
    differ: Differ,
    actual: Actual,
}

impl Bench {
    fn apply(&mut self, value: Value) {
        let object = Object::from_value(value).expect("a good object").expect("a known kind");
        self.change(Change::Upsert(object));
    }

    fn change(&mut self, change: Change) {
        self.compiler.apply(change).expect("nothing to reject");
    }

    /// Makes the maps agree; the time without executing the plan.
    fn settle(&mut self) -> Duration {
        let begun = Instant::now();
        let (desired, changes) = self.compiler.desired_changes();
        let outcome = self.differ.plan(desired, &changes, &self.actual);
        let elapsed = begun.elapsed();
        assert!(outcome.rejected.is_empty(), "{:?}", outcome.rejected);
        outcome.plan.iter().for_each(|step| self.actual.apply(step));
        elapsed
    }
}

fn times(mut run: impl FnMut(u32) -> Duration) -> Vec<Duration> {
    (0..11).map(&mut run).collect()
}

fn report(what: &str, times: &[Duration]) {
    let mut sorted = times.to_vec();
    sorted.sort();
    eprintln!("{what}: {:?}, at most {:?}", sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
}

fn octets(number: u32) -> [u8; 2] {
    [u8::try_from(number / 250).expect("small"), u8::try_from(number % 250).expect("small")]
}

fn pod(number: u32, extra: &str) -> Value {
    let [high, low] = octets(number);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": format!("ns-{}", number % NAMESPACES),
            "name": format!("pod-{number}"),
            "labels": {"app": format!("app-{}", number % 500), "extra": extra},
        },
        "spec": {"nodeName": if number < LOCAL { "here" } else { "there" }},
        "status": {"phase": "Running", "podIP": format!("10.0.{high}.{low}")},
    })
}

fn endpoint(number: u32) -> LocalEndpoint {
    let [high, low] = octets(number);
    LocalEndpoint {
        id: EndpointId(number + 1),
        namespace: format!("ns-{}", number % NAMESPACES),
        pod: format!("pod-{number}"),
        uid: None,
        container: format!("container-{number}"),
        ifname: "eth0".to_owned(),
        host_ifname: format!("veth{number}"),
        addrs: [Addr::v4([10, 0, high, low]), Addr::UNSPECIFIED],
        ifindex: 10 + number,
        mac: [2, 0, 0, 0, high, low],
    }
}

fn policy(number: u32, port: u32) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": format!("ns-{}", number % NAMESPACES), "name": format!("policy-{number}")},
        "spec": {
            "podSelector": {"matchLabels": {"app": format!("app-{}", number % 500)}},
            "ingress": [
                {
                    "from": [{"podSelector": {"matchLabels": {"app": format!("app-{}", (number + 50) % 500)}}}],
                    "ports": [{"port": port}],
                },
                {"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": format!("app-{}", number % 7)}}}]},
            ],
        },
    })
}

fn node(number: u32) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": format!("node-{number}")},
        "spec": {"podCIDR": format!("10.100.{number}.0/24")},
        "status": {"addresses": [{"type": "InternalIP", "address": format!("192.0.2.{number}")}]},
    })
}

fn service(number: u32, node_port: u32) -> Value {
    let [high, low] = octets(number);
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": format!("ns-{}", number % NAMESPACES), "name": format!("service-{number}")},
        "spec": {"clusterIP": format!("10.96.{high}.{low}"), "ports": [{"port": 80, "nodePort": node_port}]},
    })
}

fn slice(number: u32, count: u32) -> Value {
    let endpoints: Vec<_> = (0..count)
        .map(|index| octets((number + index) % PODS))
        .map(|[high, low]| json!({"addresses": [format!("10.0.{high}.{low}")]}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": format!("ns-{}", number % NAMESPACES),
            "name": format!("service-{number}-1"),
            "labels": {"kubernetes.io/service-name": format!("service-{number}")},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"port": 8080}],
    })
}
