//! Questions without a connection, as those to a DNS server, while pods are replaced.

use anyhow::{Result, ensure};
use sluice_tests::topology::{Cluster, load::Habit, server::Listen};

use crate::{Port, client_pods, clients, rollout::Deployment, turn};

const PORT: Port = Port { number: 53, node_port: 30_053 };
const PODS: usize = 3;

#[test]
fn a_rollout_of_dns_loses_no_query_whatever_socket_it_comes_from() -> Result<()> {
    let _turn = turn();
    let cluster = Cluster::start(2)?;
    let pods = client_pods(&cluster)?;
    let mut deployment = Deployment::new(&cluster, "UDP", PORT, Listen::Udp(5353), PODS)?;
    let habits = [Habit::Ask, Habit::AskUnconnected, Habit::AskConnected];
    let load = clients(&cluster, &pods, PORT, &habits)?;
    load.rounds(2)?;
    for _ in 0..PODS {
        deployment.replace_one(&load)?;
    }
    load.rounds(20)?;
    let tallies = load.stop()?;
    eprintln!("a rollout of {PODS} pods over UDP:\n{tallies}");
    tallies.check()?;
    for tally in tallies.0.iter().filter(|tally| tally.told > 0) {
        // Past every hook its packets cannot be led elsewhere; only there the kernel ends it, once for each pod that goes.
        let is_nodes = tally.name.starts_with("node-") && tally.name.contains("AskConnected");
        ensure!(is_nodes && tally.told <= PODS as u64, "asked to connect again: {tally:?}");
    }
    Ok(())
}
