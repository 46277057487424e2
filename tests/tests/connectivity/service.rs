//! Services: who answers behind a cluster address.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sluice_abi::ABI_VERSION;
use sluice_tests::topology::{
    AgentOptions, Cluster, PATIENCE, Pod, PodSpec,
    namespace::words_of,
    objects,
    traffic::{Connection, Listen, Probe, Server},
};

use crate::{answers, expect, is_refused, network_policy};

const ADDRESSES: [&str; 2] = ["10.96.0.80", "fd00:10:96::80"];
const PORTS: [Listen; 2] = [Listen::Echo(8000), Listen::Udp(5353)];

/// A Service with TCP 80 → 8000 and UDP 53 → 5353 in front of the pods.
fn service(pods: &[&Pod<'_>]) -> Value {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": "echo"},
        "spec": {"clusterIPs": ADDRESSES, "ports": [
            {"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8000},
            {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 5353},
        ]},
    });
    let ports = json!([
        {"name": "http", "protocol": "TCP", "port": 8000}, {"name": "dns", "protocol": "UDP", "port": 5353},
    ]);
    let members: Vec<_> = pods.iter().map(|pod| pod.slice_member()).collect();
    let Value::Array(slices) = objects::slices("default", "echo", &ports, &members) else { unreachable!() };
    [service].into_iter().chain(slices).collect()
}

fn addresses() -> [IpAddr; 2] {
    ADDRESSES.map(|text| text.parse().expect("an address"))
}

fn probes(ip: IpAddr) -> [Probe; 2] {
    [Probe::Tcp((ip, 80).into()), Probe::Udp((ip, 53).into())]
}

#[test]
fn a_cluster_address_leads_to_every_backend_near_and_far() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let client = cluster.pod(1, &PodSpec::new("client", "client"))?;
    let backends = [(1, "echo-1"), (1, "echo-2"), (2, "echo-3")];
    let backends = backends.map(|(node, name)| cluster.pod(node, &PodSpec::new(name, "echo")));
    let backends = backends.into_iter().collect::<Result<Vec<_>>>()?;
    cluster.objects.put("service", &service(&backends.iter().collect::<Vec<_>>()))?;
    cluster.settle()?;
    let serve = |pod: &Pod<'_>| Server::start(&pod.netns, &pod.name, &PORTS);
    let _servers = backends.iter().map(serve).collect::<Result<Vec<_>>>()?;
    let names: BTreeSet<_> = backends.iter().map(|pod| pod.name.clone()).collect();
    for probe in addresses().into_iter().flat_map(probes) {
        // One of three is missed by 60 random choices once in 10^10 runs.
        let found = (0..60).map(|_| probe.answer(&client.netns)?.context("an answer"));
        assert_eq!(found.collect::<Result<BTreeSet<_>>>()?, names, "{probe:?}");
    }
    Ok(())
}

#[test]
fn a_pod_reaches_itself_through_its_service() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let pod = cluster.pod(1, &PodSpec::new("echo", "echo"))?;
    cluster.objects.put("service", &service(&[&pod]))?;
    cluster.settle()?;
    let _server = Server::start(&pod.netns, "echo", &PORTS)?;
    expect(
        &addresses().into_iter().flat_map(probes).map(|probe| answers(&pod.netns, probe)).collect::<Vec<_>>(),
    )
}

#[test]
fn port_unreachable_finds_its_way_back_through_a_cluster_address() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let near = cluster.pod(1, &PodSpec::new("near", "client"))?;
    let far = cluster.pod(2, &PodSpec::new("far", "client"))?;
    let backend = cluster.pod(1, &PodSpec::new("echo", "echo"))?;
    cluster.objects.put("service", &service(&[&backend]))?;
    cluster.settle()?;
    // Nobody listens: the backend's own stack answers, with its own address in the quoted packet.
    let clients = [&near.netns, &far.netns];
    let refused = clients.into_iter().flat_map(|client| {
        addresses().into_iter().flat_map(probes).map(move |probe| is_refused(client, probe))
    });
    expect(&refused.collect::<Vec<_>>())
}

/// A new ABI has maps of its own. This one is the present under an older name, without maps that a plan fills.
#[test]
fn an_agent_of_another_abi_takes_over_flows_and_loses_no_connection() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let client = cluster.pod(1, &PodSpec::new("client", "client"))?;
    let backends = ["echo-1", "echo-2"].map(|name| cluster.pod(1, &PodSpec::new(name, "echo")));
    let backends = backends.into_iter().collect::<Result<Vec<_>>>()?;
    cluster.objects.put("service", &service(&backends.iter().collect::<Vec<_>>()))?;
    let only_client = json!({"ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]});
    cluster.objects.put("policy", &network_policy("only-the-client", "echo", &only_client))?;
    cluster.settle()?;
    let serve = |pod: &Pod<'_>| Server::start(&pod.netns, &pod.name, &PORTS);
    let _servers = backends.iter().map(serve).collect::<Result<Vec<_>>>()?;
    let targets = addresses().map(|ip| SocketAddr::from((ip, 80)));
    let open = |to| Connection::open(&client.netns, to);
    let mut flows = targets.into_iter().map(open).collect::<Result<Vec<_>>>()?;

    let node = cluster.node(1);
    node.stop_agent(Signal::SIGTERM)?;
    let pins = node.sluice_json("status")?["pins"].as_str().context("the pins' folder")?.to_owned();
    let older = format!("{}/v{}", pins.rsplit_once('/').context("a folder")?.0, ABI_VERSION - 1);
    let script = format!(
        "mv {pins} {older} && cd {older} && rm INTERFACES BACKENDS RULES IPCACHE IPCACHE_CIDRS ENDPOINTS FRONTENDS SLOTS NODE"
    );
    words_of(&node.command("sh")?.args(["-c", &script]).output().context("starting sh")?)?;
    let stop = AtomicBool::new(false);
    let answered = thread::scope(|scope| -> Result<usize> {
        let asking = scope.spawn(|| -> Result<usize> {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) || count < 8 {
                for to in targets {
                    let answer = Probe::Tcp(to).answer(&client.netns)?;
                    answer.with_context(|| format!("connection {count} to {to} got no answer"))?;
                    count += 1;
                }
            }
            Ok(count)
        });
        let ready = node.spawn_agent(&AgentOptions::default()).and_then(|()| node.await_ready());
        stop.store(true, Ordering::Relaxed);
        let answered = asking.join().expect("no panic");
        ready?;
        answered
    })?;
    println!("{answered} connections meanwhile, all answered");
    for flow in &mut flows {
        assert!(flow.echoes(PATIENCE)?, "a flow through the Service lives on");
    }
    let left = node.command("test")?.args(["-e", &older]).status().context("starting test")?;
    assert!(!left.success(), "the older version's pins are gone");
    Ok(())
}
