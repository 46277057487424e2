//! A pod that is not ready any more.

use anyhow::{Result, ensure};
use sluice_tests::topology::{Cluster, load::Habit, objects::Conditions, server::Listen};

use crate::{Port, client_pods, clients, rollout::Deployment, turn};

const PORT: Port = Port { number: 80, node_port: 30_080 };

/// New connections of each client after the change: one of two pods is missed by twenty-four clients with ten each once in
/// 10^72 runs.
const CONNECTIONS: u64 = 10;

#[test]
fn a_pod_that_is_not_ready_gets_no_new_flow_and_keeps_its_connections() -> Result<()> {
    let _turn = turn();
    let cluster = Cluster::start(2)?;
    let pods = client_pods(&cluster)?;
    for conditions in [Conditions::Unready, Conditions::Ending, Conditions::Ended] {
        let mut deployment = Deployment::new(&cluster, "TCP", PORT, Listen::Echo(8000), 2)?;
        let [leaving, staying] = [0, 1].map(|index| deployment.names()[index].clone());
        let kept = clients(&cluster, &pods, PORT, &[Habit::Keep, Habit::Keep, Habit::Keep])?;
        kept.rounds(1)?;
        deployment.set(0, conditions)?;
        kept.rounds(5)?;
        let new = clients(&cluster, &pods, PORT, &[Habit::Connect])?;
        new.rounds(CONNECTIONS)?;
        kept.rounds(5)?;
        let (kept, new) = (kept.stop()?, new.stop()?);
        kept.check()?;
        new.check()?;
        for tally in &kept.0 {
            ensure!(tally.answers.len() == 1, "one server to the end: {tally:?}");
        }
        ensure!(kept.0.iter().any(|tally| tally.answers.contains_key(&leaving)), "connections to {leaving}");
        for tally in &new.0 {
            ensure!(tally.answers.keys().all(|name| *name == staying), "{conditions:?}: {tally:?}");
        }
        deployment.end()?;
    }
    Ok(())
}
