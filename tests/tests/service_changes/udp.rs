//! Questions without a connection, as those to a DNS server, while pods are replaced.

use anyhow::{Result, ensure};
use serde_json::json;
use sluice_tests::topology::{
    Cluster, PodSpec,
    load::Habit,
    objects::{self, SliceMember},
    server::{Listen, Server},
};

use crate::{CLUSTER_IPS, Port, client_pods, clients, rollout::Deployment, turn};

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

#[test]
fn no_client_stays_with_a_pod_that_left_the_service_and_lives_on_for_another() -> Result<()> {
    let _turn = turn();
    let cluster = Cluster::start(2)?;
    let pods = client_pods(&cluster)?;
    let serving =
        [cluster.pod(1, &PodSpec::new("web-1", "web"))?, cluster.pod(2, &PodSpec::new("web-2", "web"))?];
    let serve =
        |pod: &sluice_tests::topology::Pod<'_>| Server::start(&pod.netns, &pod.name, &[Listen::Udp(5353)]);
    let _servers = [serve(&serving[0])?, serve(&serving[1])?];
    let ports = json!([{"protocol": "UDP", "port": 5353}]);
    let publish = |name: &str, members: &[SliceMember<'_>]| {
        let slices = objects::slices("default", name, &ports, members);
        cluster.objects.put(&format!("{name}-slices"), &slices)
    };
    let members = serving.each_ref().map(|pod| pod.slice_member());
    for (name, addresses) in [("web", CLUSTER_IPS), ("other", ["10.96.0.81", "fd00:10:96::81"])] {
        let mut spec = json!({
            "type": "ClusterIP", "clusterIPs": addresses,
            "ports": [{"protocol": "UDP", "port": PORT.number, "targetPort": 5353}],
        });
        if name == "web" {
            spec["type"] = json!("NodePort");
            spec["ports"][0]["nodePort"] = json!(PORT.node_port);
        }
        cluster.objects.put(name, &objects::service(name, &spec))?;
        publish(name, &members)?;
    }
    cluster.settle_written()?;
    let load = clients(&cluster, &pods, PORT, &[Habit::AskUnconnected, Habit::AskConnected])?;
    load.rounds(2)?;
    // Each pod leaves the Service once: whoever had it has the other afterwards.
    for left in [0, 1] {
        publish("web", &[members[1 - left]])?;
        cluster.settle_written()?;
        load.leaves(&serving[left].name)?;
    }
    let tallies = load.stop()?;
    eprintln!("two pods that left one of two Services:\n{tallies}");
    tallies.check()
}
