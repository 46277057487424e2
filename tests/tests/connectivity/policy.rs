//! What policy lets pass, and what it does to connections that are there.

use anyhow::Result;
use serde_json::json;
use sluice_tests::topology::{
    Cluster, PATIENCE, PodSpec,
    traffic::{Connection, Listen, Probe, SILENCE, Server},
};

use crate::{answers, deny_all, expect, is_silent, network_policy};

#[test]
fn only_what_a_policy_names_reaches_its_pods() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let rules = json!({"ingress": [{
        "from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"protocol": "TCP", "port": 8000}],
    }]});
    cluster.objects.put("policy", &network_policy("db-from-web", "db", &rules))?;
    let db = cluster.pod(1, &PodSpec::new("db", "db"))?;
    let near = [cluster.pod(1, &PodSpec::new("web-1", "web"))?, cluster.pod(1, &PodSpec::new("x-1", "x"))?];
    let far = [cluster.pod(2, &PodSpec::new("web-2", "web"))?, cluster.pod(2, &PodSpec::new("x-2", "x"))?];
    cluster.settle()?;
    let _server =
        Server::start(&db.netns, "db", &[Listen::Echo(8000), Listen::Echo(9000), Listen::Udp(8000)])?;
    let mut expectations = Vec::new();
    for [web, x] in [&near, &far] {
        for ip in db.addresses {
            let allowed = Probe::Tcp((ip, 8000).into());
            expectations.extend([answers(&web.netns, allowed), is_silent(&x.netns, allowed)]);
            let denied = [Probe::Tcp((ip, 9000).into()), Probe::Udp((ip, 8000).into()), Probe::Ping(ip)];
            expectations.extend(denied.map(|probe| is_silent(&web.netns, probe)));
        }
    }
    // The answers to what the pod itself asks pass.
    expectations.extend(near[0].addresses.map(|ip| answers(&db.netns, Probe::Ping(ip))));
    expectations.extend(far[0].addresses.map(|ip| answers(&db.netns, Probe::Ping(ip))));
    expect(&expectations)?;
    let drops = cluster.node(1).sluice_json("drops")?;
    for pod in [&near[1], &far[1]] {
        for ip in pod.addresses {
            let is_it = |row: &&serde_json::Value| row["peer"] == json!(ip) && row["protocol"] == "TCP";
            let row = drops["drops"].as_array().and_then(|rows| rows.iter().find(is_it));
            let row = row.unwrap_or_else(|| panic!("no record of {ip} in {drops:#}"));
            assert_eq!(row["reason"], "policy_denied");
            assert_eq!(row["isolatedBy"]["policies"], json!(["default/db-from-web"]));
        }
    }
    Ok(())
}

#[test]
fn a_policy_cuts_connections_that_are_there_and_goes_without_a_trace() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let db = cluster.pod(1, &PodSpec::new("db", "db"))?;
    let clients =
        [cluster.pod(1, &PodSpec::new("near", "web"))?, cluster.pod(2, &PodSpec::new("far", "web"))?];
    cluster.settle()?;
    let _server = Server::start(&db.netns, "db", &[Listen::Echo(8000)])?;
    let targets = db.addresses.map(|ip| (ip, 8000).into());
    let mut connections = Vec::new();
    for (client, target) in clients.iter().flat_map(|client| targets.map(|target| (client, target))) {
        connections.push(Connection::open(&client.netns, target)?);
    }
    for connection in &mut connections {
        assert!(connection.echoes(PATIENCE)?);
    }

    cluster.objects.put("policy", &deny_all("nothing", "db"))?;
    cluster.settle()?;
    for connection in &mut connections {
        assert!(!connection.echoes(SILENCE)?, "cut");
    }
    let probes =
        || clients.iter().flat_map(|client| targets.map(|target| (&client.netns, Probe::Tcp(target))));
    expect(&probes().map(|(from, probe)| is_silent(from, probe)).collect::<Vec<_>>())?;

    cluster.objects.delete("policy")?;
    cluster.settle()?;
    expect(&probes().map(|(from, probe)| answers(from, probe)).collect::<Vec<_>>())
}
