//! Connections while pods are replaced.

use anyhow::{Result, ensure};
use sluice_tests::topology::{Cluster, load::Habit, server::Listen};

use crate::{Port, client_pods, clients, rollout::Deployment, turn};

const PORT: Port = Port { number: 80, node_port: 30_080 };
const PODS: usize = 10;

#[test]
fn a_rolling_update_under_load_loses_no_request_and_resets_no_connection() -> Result<()> {
    let _turn = turn();
    let cluster = Cluster::start(2)?;
    let pods = client_pods(&cluster)?;
    let mut deployment = Deployment::new(&cluster, "TCP", PORT, Listen::Echo(8000), PODS)?;
    let load = clients(&cluster, &pods, PORT, &[Habit::Connect, Habit::Keep])?;
    load.rounds(2)?;
    let before = deployment.names();
    for _ in 0..PODS {
        deployment.replace_one(&load)?;
    }
    load.rounds(20)?;
    let tallies = load.stop()?;
    eprintln!("a rolling update of {PODS} pods:\n{tallies}");
    tallies.check()?;
    let after = deployment.names();
    ensure!(after.iter().all(|name| !before.contains(name)), "all pods are new: {after:?}");
    let answered = |name: &String| tallies.0.iter().any(|tally| tally.answers.contains_key(name));
    ensure!(before.iter().chain(&after).all(answered), "old and new pods had work");
    Ok(())
}
