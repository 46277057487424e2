//! The agent dies and comes back; traffic does not notice.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde_json::Value;
use sluice_tests::topology::{
    AgentOptions, Cluster, Node, PATIENCE, Pod, PodSpec,
    namespace::words_of,
    traffic::{Connection, Listen, Probe, Server},
};

use crate::{answers, deny_all, expect, is_silent};

/// A client, a server that it reaches, and one that policy closes.
fn pods(cluster: &Cluster) -> Result<[Pod<'_>; 3]> {
    cluster.objects.put("policy", &deny_all("nothing", "closed"))?;
    let client = cluster.pod(1, &PodSpec::new("client", "client"))?;
    let open = cluster.pod(1, &PodSpec::new("open", "open"))?;
    let closed = cluster.pod(1, &PodSpec::new("closed", "closed"))?;
    cluster.settle()?;
    Ok([client, open, closed])
}

#[test]
fn a_killed_agent_leaves_flows_and_policy_in_force() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let [client, open, closed] = pods(&cluster)?;
    let _servers = [&open, &closed].map(|pod| Server::start(&pod.netns, &pod.name, &[Listen::Echo(8000)]));
    let node = cluster.node(1);
    let targets = open.addresses.map(|ip| (ip, 8000).into());
    let mut flows =
        targets.into_iter().map(|to| Connection::open(&client.netns, to)).collect::<Result<Vec<_>>>()?;
    let dump = node.sluice_json("policy dump")?;
    assert!(dump.to_string().contains("default/nothing"), "{dump}");

    node.stop_agent(Signal::SIGKILL)?;
    for flow in &mut flows {
        assert!(flow.echoes(PATIENCE)?, "an open flow lives on");
    }
    let denied = closed.addresses.map(|ip| is_silent(&client.netns, Probe::Tcp((ip, 8000).into())));
    let allowed = targets.map(|to| answers(&client.netns, Probe::Tcp(to)));
    expect(&[denied, allowed].concat())?;
    assert_eq!(node.sluice_json("policy dump")?, dump, "dumps need only the kernel");
    let drops = node.sluice_json("drops")?;
    assert!(
        drops.to_string().contains("default/nothing"),
        "the policy behind a drop still has its name: {drops}"
    );

    node.spawn_agent(&AgentOptions::default())?;
    node.await_ready()?;
    for flow in &mut flows {
        assert!(flow.echoes(PATIENCE)?, "and through a restart");
    }
    Ok(())
}

#[test]
fn a_restart_in_an_unchanged_cluster_changes_no_map_program_or_link() -> Result<()> {
    const TRACE: &str = "/run/log/trace";
    let cluster = Cluster::start(1)?;
    let _pods = pods(&cluster)?;
    let node = cluster.node(1);
    let before = ids(node)?;
    assert!(before.len() >= 3 + 7, "three programs, two links a pod, one at the uplink: {before:?}");
    node.stop_agent(Signal::SIGKILL)?;
    // -D: the tracer is a child, the agent stays ours to stop.
    let under = ["strace", "-f", "-D", "-e", "trace=bpf", "-o", TRACE].map(str::to_owned).to_vec();
    node.spawn_agent(&AgentOptions { under, ..AgentOptions::default() })?;
    node.await_ready()?;
    assert_eq!(ids(node)?, before);
    let trace = fs::read_to_string(node.mounts.path(TRACE)).context("reading the trace")?;
    assert!(trace.contains("BPF_OBJ_GET"), "the tracer saw something: {trace}");
    let writes: Vec<_> = trace
        .lines()
        .filter(|line| line.contains("BPF_MAP_UPDATE") || line.contains("BPF_MAP_DELETE"))
        .collect();
    assert!(writes.is_empty(), "{writes:#?}");
    Ok(())
}

/// Ids of the pinned programs and links.
fn ids(node: &Node) -> Result<BTreeMap<String, u64>> {
    let status = node.sluice_json("status")?;
    let pins = status["pins"].as_str().context("the pins' folder")?;
    let mut ids = BTreeMap::new();
    for (kind, field) in [("prog", "programs"), ("link", "links")] {
        for pin in status["datapath"][field].as_array().context("a list of pins")? {
            let pin = format!("{pins}/{}", pin.as_str().context("a path")?);
            let shown = node.command("bpftool")?.args(["-j", kind, "show", "pinned", &pin]).output();
            let shown = words_of(&shown.context("starting bpftool")?).with_context(|| pin.clone())?;
            let shown: Value = serde_json::from_str(&shown).context("reading bpftool's answer")?;
            ids.insert(pin, shown["id"].as_u64().with_context(|| format!("an id in {shown}"))?);
        }
    }
    Ok(ids)
}
