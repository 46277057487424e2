//! Services change, and those who use them do not notice: real agents, pods wired by the real plugin, clients in pods, on
//! nodes and outside, all over IPv4 and IPv6.
//!
//! [`rollout`] replaces pods as a Deployment does it; `tcp`, `udp` and `readiness` say what clients see of it.

mod readiness;
mod rollout;
mod tcp;
mod udp;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::Result;
use sluice_tests::topology::{
    Cluster, Pod, PodSpec,
    load::{Habit, Load},
};

const CLUSTER_IPS: [&str; 2] = ["10.96.0.80", "fd00:10:96::80"];

/// A port of a Service: for pods and nodes, and for clients outside.
#[derive(Clone, Copy, Debug)]
struct Port {
    number: u16,
    node_port: u16,
}

/// Holds off the other tests of this file: dozens of clients keep a small machine busy enough.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cluster_ips() -> [IpAddr; 2] {
    CLUSTER_IPS.map(|text| text.parse().expect("an address"))
}

/// A pod on each node, to be a client.
fn client_pods(cluster: &Cluster) -> Result<[Pod<'_>; 2]> {
    Ok([
        cluster.pod(1, &PodSpec::new("client-1", "client"))?,
        cluster.pod(2, &PodSpec::new("client-2", "client"))?,
    ])
}

/// Clients of each habit in a pod of each node, in the network of each node, and outside, each over both families.
fn clients(cluster: &Cluster, pods: &[Pod<'_>; 2], port: Port, habits: &[Habit]) -> Result<Load> {
    let mut load = Load::default();
    for habit in habits {
        for (pod, node) in pods.iter().zip(cluster.nodes()) {
            for ip in cluster_ips() {
                let to = SocketAddr::new(ip, port.number);
                load.add(&pod.name, *habit, &pod.netns, to)?;
                load.add(&node.name, *habit, &node.netns, to)?;
            }
            for ip in node.addresses() {
                load.add("outside", *habit, &cluster.outside, SocketAddr::new(ip, port.node_port))?;
            }
        }
    }
    Ok(load)
}
