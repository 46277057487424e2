//! What the plugin and the agent take: pods made, policies put in force, memory.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};
use sluice_abi::Addr;
use sluice_tests::topology::{Cluster, Node, PATIENCE, Pod, PodSpec};

use crate::{
    Args,
    report::{Figure, Report},
    spread::{Spread, quantile},
};

const GROUP: &str = "control";
const ALONE: usize = 50;
const BURSTS: usize = 5;
const BURST: usize = 50;
const POLICIES: usize = 50;
const REMOTE_PODS: u32 = 10_000;

/// Everything that this group measures, in order.
const NAMES: [&str; 4] = ["CNI ADD alone", "CNI ADD, burst of 50", "NetworkPolicy", "agent memory"];

/// Measures pods, policies and memory on one node.
pub(crate) fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let [alone, burst, policy, memory] = NAMES.map(|name| args.wants(GROUP, name));
    if !(alone || burst || policy || memory) {
        return Ok(());
    }
    report.heading(
        "control: pods, policies, memory",
        &[
            "ADD is the plugin's whole run, from fork to exit, for a pod whose object the agent knows; the peers' ratio",
            "needs their plugins and is not measured here. NetworkPolicy: from the rename of its file to its rule set.",
        ],
    );
    let cluster = Cluster::start(1)?;
    let node = cluster.node(1);
    let mut world = World { cluster: &cluster, node, made: 0 };
    if memory {
        report.add(figure("agent memory (RSS), nothing to do", "MiB", vec![rss_mib(node)?], None));
    }
    if alone {
        world.alone(args, report)?;
    }
    if burst {
        world.bursts(args, report)?;
    }
    if policy {
        world.policies(args, report)?;
    }
    if memory {
        put_remote_pods(&cluster)?;
        cluster.settle()?;
        report.add(figure("agent memory (RSS), 10 000 remote pods", "MiB", vec![rss_mib(node)?], Some(30.0)));
    }
    Ok(())
}

fn figure(name: &str, unit: &'static str, figures: Vec<f64>, budget: Option<f64>) -> Figure {
    Figure { group: GROUP, name: name.to_owned(), unit, spread: Spread::of(figures), budget }
}

struct World<'c> {
    cluster: &'c Cluster,
    node: &'c Node,
    made: usize,
}

impl<'c> World<'c> {
    /// One pod after the other, in turns with and without the agent.
    fn alone(&mut self, args: &Args, report: &mut Report) -> Result<()> {
        let count = args.rounds(ALONE);
        let pods = self.pods(2 * count)?;
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for pair in pods.chunks_exact(2) {
            let [first, second] = pair else { continue };
            with.push(add(first, |_| {})?);
            without.push(add(second, |config| {
                config.as_object_mut().map(|config| config.remove("agent"));
            })?);
        }
        self.remove(&pods)?;
        report.add(figure("CNI ADD alone, with agent", "ms", with, None));
        report.add(figure("CNI ADD alone, plugin only", "ms", without, None));
        Ok(())
    }

    /// Fifty pods at once.
    fn bursts(&mut self, args: &Args, report: &mut Report) -> Result<()> {
        let (mut p50, mut p99, mut ratio) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..args.rounds(BURSTS) {
            let pods = self.pods(BURST)?;
            let mut times = thread::scope(|scope| {
                let adds: Vec<_> = pods.iter().map(|pod| scope.spawn(|| add(pod, |_| {}))).collect();
                let joined =
                    adds.into_iter().map(|add| add.join().unwrap_or_else(|_| bail!("an ADD panicked")));
                joined.collect::<Result<Vec<_>>>()
            })?;
            p50.push(quantile(&mut times, 0.5));
            p99.push(quantile(&mut times, 0.99));
            ratio.extend(p99.last().zip(p50.last()).map(|(p99, p50)| p99 / p50));
            self.remove(&pods)?;
        }
        report.add(figure("CNI ADD, burst of 50, p50", "ms", p50, None));
        report.add(figure("CNI ADD, burst of 50, p99", "ms", p99, None));
        report.add(figure("CNI ADD, burst of 50, p99 ÷ p50", "x", ratio, Some(2.0)));
        Ok(())
    }

    /// A policy comes and goes.
    fn policies(&mut self, args: &Args, report: &mut Report) -> Result<()> {
        let pod = self.cluster.pod(1, &PodSpec::new("selected", "selected"))?;
        self.cluster.settle()?;
        let maps = self.node.maps()?;
        let [address, _] = pod.addresses.map(Addr::from);
        let rule_set =
            || -> Result<_> { Ok(maps.endpoints.get(&address)?.context("the pod's endpoint")?.ingress) };
        let (mut added, mut deleted) = (Vec::new(), Vec::new());
        for number in 0..args.rounds(POLICIES) {
            let (open, start) = (rule_set()?, Instant::now());
            self.cluster.objects.put("policy", &policy(number))?;
            added.push(until(start, || Ok(rule_set()? != open))?);
            self.cluster.settle()?; // so that no plan is under way
            let (isolated, start) = (rule_set()?, Instant::now());
            self.cluster.objects.delete("policy")?;
            deleted.push(until(start, || Ok(rule_set()? != isolated))?);
            self.cluster.settle()?;
        }
        let p99 = quantile(&mut added.clone(), 0.99);
        report.add(figure("NetworkPolicy: file → in force, p50", "ms", added, Some(2.0)));
        report.add(figure("NetworkPolicy: file → in force, p99", "ms", vec![p99], Some(8.0)));
        report.add(figure("NetworkPolicy: file removed → gone, p50", "ms", deleted, None));
        pod.stop(&self.cluster.objects)
    }

    /// Pods that the agent knows and that have no interface yet.
    fn pods(&mut self, count: usize) -> Result<Vec<Pod<'c>>> {
        let names: Vec<_> = (self.made..self.made + count).map(|number| format!("pod-{number}")).collect();
        self.made += count;
        let objects: Vec<_> = names.iter().map(|name| pod(name, &self.node.name, json!([]))).collect();
        self.cluster.objects.put("pods", &objects.into())?;
        let pods = names.iter().map(|name| Pod::unwired(self.node, &PodSpec::new(name, "bench"))).collect();
        self.cluster.settle()?;
        pods
    }

    fn remove(&self, pods: &[Pod<'_>]) -> Result<()> {
        pods.iter().try_for_each(|pod| pod.node.cni("DEL", &pod.container()).map(|_| ()))?;
        self.cluster.objects.delete("pods")
    }
}

/// Milliseconds that the plugin took.
fn add(pod: &Pod<'_>, change: impl FnOnce(&mut Value)) -> Result<f64> {
    let start = Instant::now();
    pod.node.cni_with("ADD", &pod.container(), change)?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// Milliseconds from `start` until the answer is yes; asks without a pause, since the answer is in a map.
fn until(start: Instant, mut ask: impl FnMut() -> Result<bool>) -> Result<f64> {
    while !ask()? {
        if start.elapsed() > PATIENCE {
            return Err(anyhow!("waited {PATIENCE:?} for a policy"));
        }
        // Leaves the CPU to the agent, where there is only one.
        thread::sleep(Duration::from_micros(20));
    }
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

fn policy(number: usize) -> Value {
    // Another port each time: a rule set that was seen before might still be there.
    let port = 1000 + number;
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "default", "name": "bench"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "selected"}}, "policyTypes": ["Ingress"],
            "ingress": [{
                "from": [{"podSelector": {"matchLabels": {"app": "client"}}}],
                "ports": [{"port": port, "protocol": "TCP"}],
            }],
        },
    })
}

/// A Pod object with the uid that the topology gives it.
fn pod(name: &str, node: &str, ips: Value) -> Value {
    let uid = format!("uid-default-{name}");
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "default", "name": name, "uid": uid, "labels": {"app": "bench"}},
        "spec": {"nodeName": node, "containers": []}, "status": {"podIPs": ips},
    })
}

/// Pods of other nodes, a thousand in a file.
fn put_remote_pods(cluster: &Cluster) -> Result<()> {
    for thousand in 0..REMOTE_PODS / 1000 {
        let objects: Vec<_> = (thousand * 1000..(thousand + 1) * 1000)
            .map(|number| {
                let [.., high, low] = number.to_be_bytes();
                let ip = format!("10.200.{high}.{low}");
                pod(
                    &format!("remote-{number}"),
                    &format!("remote-node-{}", number / 100),
                    json!([{"ip": ip}]),
                )
            })
            .collect();
        cluster.objects.put(&format!("remote-pods-{thousand}"), &objects.into())?;
    }
    Ok(())
}

/// Resident memory of the node's agent.
pub(crate) fn rss_mib(node: &Node) -> Result<f64> {
    let pid = node.agent_pid().context("an agent")?;
    rss_of(&pid.to_string())
}

/// Resident memory of this program.
pub(crate) fn own_rss_mib() -> Result<f64> {
    rss_of("self")
}

fn rss_of(process: &str) -> Result<f64> {
    let path = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("its memory")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("its memory")?;
    Ok(kib / 1024.0)
}
