//! Who reaches whom without and before policy.

use std::{fs, thread};

use anyhow::{Context as _, Result};
use serde_json::json;
use sluice_abi::DropReason;
use sluice_tests::topology::{
    Cluster, Pod, PodSpec, eventually,
    node::CniError,
    traffic::{Listen, Probe, Server},
};

use crate::{answers, deny_all, expect, is_silent};

const PORTS: [Listen; 2] = [Listen::Echo(8000), Listen::Udp(53)];

#[test]
fn pods_reach_each_other_on_one_node_and_across_nodes() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let pods =
        [(1, "a"), (1, "b"), (2, "c")].map(|(node, name)| cluster.pod(node, &PodSpec::new(name, name)));
    let pods = pods.into_iter().collect::<Result<Vec<_>>>()?;
    cluster.settle()?;
    let serve = |pod: &Pod<'_>| Server::start(&pod.netns, &pod.name, &PORTS);
    let _servers = pods.iter().map(serve).collect::<Result<Vec<_>>>()?;
    let mut expectations = Vec::new();
    for (from, to) in pods.iter().flat_map(|from| pods.iter().map(move |to| (from, to))) {
        for ip in to.addresses {
            let probes = [Probe::Tcp((ip, 8000).into()), Probe::Udp((ip, 53).into()), Probe::Ping(ip)];
            expectations.extend(probes.map(|probe| answers(&from.netns, probe)));
        }
    }
    expect(&expectations)
}

#[test]
fn a_pod_and_its_own_node_reach_each_other_under_any_policy() -> Result<()> {
    let cluster = Cluster::start(2)?;
    cluster.objects.put("policy", &deny_all("nothing", "closed"))?;
    let pod = cluster.pod(1, &PodSpec::new("closed", "closed"))?;
    let (own, other) = (cluster.node(1), cluster.node(2));
    let _servers = [
        Server::start(&pod.netns, "pod", &PORTS)?,
        Server::start(&own.netns, "node", &PORTS)?,
        Server::start(&other.netns, "other node", &PORTS)?,
    ];
    let probes = |ip| [Probe::Tcp((ip, 8000).into()), Probe::Udp((ip, 53).into()), Probe::Ping(ip)];
    let mut expectations = Vec::new();
    for ip in pod.addresses {
        expectations.extend(probes(ip).map(|probe| answers(&own.netns, probe)));
        expectations.extend(probes(ip).map(|probe| is_silent(&other.netns, probe)));
    }
    for ip in own.addresses() {
        expectations.extend(probes(ip).map(|probe| answers(&pod.netns, probe)));
    }
    for ip in other.addresses() {
        expectations.extend(probes(ip).map(|probe| is_silent(&pod.netns, probe)));
    }
    expect(&expectations)
}

#[test]
fn a_pod_whose_object_is_missing_gets_no_answer_and_no_packet() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let node = cluster.node(1);
    let pod = Pod::unwired(node, &PodSpec::new("early", "early"))?;
    let other = cluster.pod(1, &PodSpec::new("other", "other"))?;
    let hurry = |config: &mut serde_json::Value| config["agent"]["timeoutSeconds"] = json!(2);
    thread::scope(|scope| {
        let add = scope.spawn(|| node.cni_with("ADD", &pod.container(), hurry));
        // Both ends are up and addressed: only the programs stand between.
        eventually("the pod's interface is up", || Ok(pod.netns.ip("-o route")?.contains("default")))?;
        let addr = pod.netns.ip("-4 -o addr show dev eth0")?;
        let addr = addr.split_whitespace().nth(3).and_then(|addr| addr.split('/').next());
        let addr = addr.context("an address")?.parse()?;
        let [own, _] = node.addresses();
        expect(&[
            is_silent(&node.netns, Probe::Ping(addr)),
            is_silent(&other.netns, Probe::Ping(addr)),
            is_silent(&pod.netns, Probe::Ping(own)),
            is_silent(&pod.netns, Probe::Ping(other.addresses[0])),
        ])?;
        let error = add.join().expect("no panic").expect_err("no pod, no answer");
        let error = error.downcast::<CniError>()?;
        assert_eq!(error.code, 11, "try again later: {error}");
        assert!(error.message.contains("default/early"), "{error}");
        anyhow::Ok(())
    })?;
    assert!(!pod.netns.ip("-o link")?.contains("eth0"), "undone");
    let maps = node.maps()?;
    let dropped = |reason| anyhow::Ok(maps.counters.dropped(reason)?.packets);
    let dropped = dropped(DropReason::NotReady)?;
    assert!(dropped >= 4, "{dropped} drops are counted: {}", node.sluice("drops")?);
    assert_eq!(received(&pod)?, "0", "IPv4 packets that reached the pod");
    Ok(())
}

/// How many IPv4 packets the pod's stack has received (RFC 4293, `ipSystemStatsInReceives`).
fn received(pod: &Pod<'_>) -> Result<String> {
    let snmp =
        pod.netns.enter(|| fs::read_to_string("/proc/thread-self/net/snmp")).context("reading statistics")?;
    let line = |number| snmp.lines().nth(number).map(|line: &str| line.split_whitespace());
    let (names, values) = line(0).zip(line(1)).context("statistics of IPv4")?;
    names
        .zip(values)
        .find(|(name, _)| *name == "InReceives")
        .map(|(_, value)| value.to_owned())
        .context("InReceives")
}
