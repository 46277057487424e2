//! `sluice monitor`: every drop with the policies that isolate, every new flow with the rule that lets it pass.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sluice_tests::topology::{
    Cluster, Node, Pod, PodSpec, binary,
    traffic::{Listen, Probe, Server},
};

use crate::{answers, expect, is_silent, network_policy};

/// A monitor under way. It dies with the calling thread.
struct Monitor(Child);

impl Monitor {
    /// Starts one and waits until it listens.
    fn start(node: &Node, args: &[&str]) -> Result<Self> {
        let mut command = node.command(binary("sluice")?)?;
        command.args(["monitor", "-o", "json"]).args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("starting sluice monitor")?;
        let mut first = String::new();
        BufReader::new(child.stderr.take().context("its errors")?).read_line(&mut first)?;
        ensure!(first.starts_with("listening"), "{first}");
        Ok(Self(child))
    }

    /// What it told, once it has ended by itself.
    fn events(mut self) -> Result<Vec<Value>> {
        let out = self.0.stdout.take().context("its output")?;
        let events = BufReader::new(out).lines().map(|line| Ok(serde_json::from_str(&line?)?)).collect();
        ensure!(self.0.wait().context("its end")?.success(), "the monitor failed");
        events
    }
}

/// What an event is about, and why.
fn about(event: &Value) -> [&str; 5] {
    fn text(value: &Value) -> &str {
        value.as_str().unwrap_or("-")
    }
    let [kind, pod, direction] = ["kind", "pod", "direction"].map(|key| text(&event[key]));
    let why = match event["rule"]["text"].as_str() {
        Some(rule) => rule,
        None => text(&event["isolatedBy"]["policies"][0]),
    };
    [kind, pod, direction, text(&event["destination"]["local"]), why]
}

fn world(cluster: &Cluster) -> Result<[Pod<'_>; 3]> {
    let rules = json!({"ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}]});
    cluster.objects.put("policy", &network_policy("db-from-web", "db", &rules))?;
    let pods = [("db", "db"), ("web", "web"), ("x", "x")];
    let [db, web, x] = pods.map(|(name, app)| cluster.pod(1, &PodSpec::new(name, app)));
    let pods = [db?, web?, x?];
    cluster.settle()?;
    Ok(pods)
}

#[test]
fn a_drop_names_the_policies_that_isolate_and_a_flow_the_rule_that_lets_it_pass() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let [db, web, x] = world(&cluster)?;
    let _server = Server::start(&db.netns, "db", &[Listen::Echo(8000), Listen::Udp(8000)])?;
    // The maps alone are enough.
    cluster.node(1).stop_agent(Signal::SIGKILL)?;
    for (ip, node) in db.addresses.into_iter().zip(cluster.node(1).addresses()) {
        let monitor = Monitor::start(cluster.node(1), &["--flows", "--pod", "default/db", "--count", "5"])?;
        let probe = Probe::Udp((ip, 8000).into());
        expect(&[is_silent(&x.netns, probe)])?;
        expect(&[answers(&web.netns, probe)])?;
        expect(&[answers(&db.netns, Probe::Ping(node))])?;
        expect(&[is_silent(&x.netns, Probe::Tcp((ip, 8000).into()))])?;
        let events = monitor.events()?;
        let told: Vec<_> = events.iter().map(about).collect();
        let drop = ["drop", "default/db", "ingress", "default/db", "default/db-from-web"];
        assert_eq!(told[0], drop, "{events:#?}");
        assert_eq!(told[1], ["allowed", "default/web", "egress", "default/db", "not isolated"]);
        assert_eq!(
            told[2],
            ["allowed", "default/db", "ingress", "default/db", "default/db-from-web ingress[0]"]
        );
        assert_eq!(told[3], ["allowed", "default/db", "egress", "node", "-"], "no policy is asked");
        assert_eq!(told[4], drop);
        assert_eq!((&events[0]["reason"], &events[0]["hook"]), (&json!("policy_denied"), &json!("from_pod")));
        assert_eq!(events[0]["source"]["local"], "default/x");
        assert_eq!(events[0]["destination"]["address"], json!(ip));
        assert_eq!(events[4]["protocol"], "TCP");
    }
    Ok(())
}

#[test]
fn what_an_audited_policy_would_drop_passes_and_is_told() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let [db, _web, x] = world(&cluster)?;
    let _server = Server::start(&db.netns, "db", &[Listen::Udp(8000)])?;
    let mut policy = network_policy("db-from-web", "db", &json!({"policyTypes": ["Ingress"]}));
    policy["metadata"]["annotations"] = json!({"sluice.dev/mode": "audit"});
    cluster.objects.put("policy", &policy)?;
    cluster.settle_written()?;
    let monitor = Monitor::start(cluster.node(1), &["--count", "2"])?;
    expect(&db.addresses.map(|ip| answers(&x.netns, Probe::Udp((ip, 8000).into()))))?;
    for event in monitor.events()? {
        let told = ["would_drop", "default/db", "ingress", "default/db", "default/db-from-web"];
        assert_eq!(about(&event), told, "{event:#}");
        assert_eq!(event["source"]["local"], "default/x");
    }
    Ok(())
}

#[test]
fn flows_are_no_events_unless_somebody_asks_and_what_was_before_is_not_told() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let [db, web, x] = world(&cluster)?;
    let _server = Server::start(&db.netns, "db", &[Listen::Udp(8000)])?;
    let probe = Probe::Udp((db.addresses[0], 8000).into());
    expect(&[is_silent(&x.netns, probe)])?;
    let monitor = Monitor::start(cluster.node(1), &["--count", "1"])?;
    let refused = cluster.node(1).sluice("monitor").expect_err("a second reader");
    assert!(format!("{refused:#}").contains("another process does already"), "{refused:#}");
    expect(&[answers(&web.netns, probe)])?;
    expect(&[is_silent(&x.netns, Probe::Udp((db.addresses[1], 8000).into()))])?;
    let events = monitor.events()?;
    assert_eq!(about(&events[0])[0], "drop", "{events:#?}");
    assert_eq!(events[0]["destination"]["address"], json!(db.addresses[1]));
    Ok(())
}
