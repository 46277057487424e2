//! Tables, and a count of what was not as expected.

use std::{collections::BTreeMap, net::IpAddr, time::Instant};

use anyhow::{Context as _, Result};
use comfy_table::{Table, presets};
use serde_json::Value;

use super::{
    control_plane::{UPLOAD_PORT, World},
    probes::Row,
};
use crate::topology::{
    Node, PATIENCE, WAN_MTU,
    traffic::{Outcome, Probe, Want, send_all, transfer},
};

/// Probes in flight at a time.
const AT_ONCE: usize = 16;

const TRANSFER_BYTES: usize = 2 << 20;

/// What was tried and how it went.
#[derive(Debug, Default)]
pub(super) struct Report {
    checks: usize,
    mismatches: Vec<String>,
}

impl Report {
    pub(super) fn heading(&self, text: &str) {
        println!("\n== {text}\n");
    }

    pub(super) fn pods(&self, world: &World<'_>) {
        let mut table = table(["POD", "NODE", "IPV4", "IPV6"]);
        for pod in &world.pods {
            table.add_row([
                pod.name.clone(),
                pod.node.name.clone(),
                pod.addresses[0].to_string(),
                pod.addresses[1].to_string(),
            ]);
        }
        for (name, [v4, v6]) in &world.services {
            table.add_row([format!("Service {name}"), "-".to_owned(), v4.to_string(), v6.to_string()]);
        }
        println!("\n{}", table.trim_fmt());
    }

    /// Sends the probes and prints a line for each.
    pub(super) fn probes(&mut self, rows: &[Row<'_>]) -> Result<()> {
        let mut table = table(["FROM", "TO", "PATH", "PROBE", "ADDRESS", "EXPECTED", "OBSERVED", ""]);
        for rows in rows.chunks(AT_ONCE) {
            let sent: Vec<_> = rows.iter().map(|row| row.sent.clone()).collect();
            for (row, outcome) in rows.iter().zip(send_all(&sent)?) {
                let (probe, address) = words(row.sent.probe);
                let (expected, observed) = (expected(row.sent.want), observed(&outcome));
                let is_right = row.sent.want.is(&outcome);
                self.check(is_right, || format!("{} → {} {probe} {address}: {observed}", row.from, row.to));
                let mark = if is_right { "ok" } else { "MISMATCH" };
                let cells = [&row.from, &row.to, row.path, &probe, &address, expected, &observed, mark];
                table.add_row(cells);
            }
        }
        println!("{}", table.trim_fmt());
        Ok(())
    }

    /// Connects often and counts who answers; every backend must.
    pub(super) fn balance(&mut self, world: &World<'_>, times: u32) -> Result<()> {
        let client = world.pod("frontend-1")?;
        let mut table = table(["ADDRESS", "BACKEND", "NODE", "ANSWERS"]);
        for ip in world.service("inference")? {
            let mut answers = BTreeMap::<String, u32>::new();
            for _ in 0..times {
                let name = Probe::Tcp((ip, 80).into()).answer(&client.netns)?;
                *answers.entry(name.unwrap_or_else(|| "nobody".to_owned())).or_default() += 1;
            }
            let backends: Vec<_> = world.replicas("inference").collect();
            for backend in &backends {
                let count = answers.get(&backend.name).copied().unwrap_or_default();
                self.check(count > 0, || format!("{} never answered for {ip}", backend.name));
                table.add_row([&ip.to_string(), &backend.name, &backend.node.name, &count.to_string()]);
            }
            self.check(answers.len() == backends.len(), || format!("{ip} was answered by {answers:?}"));
        }
        println!("{}", table.trim_fmt());
        Ok(())
    }

    /// A transfer that only completes when the sender learns the path's MTU.
    pub(super) fn path_mtu(&mut self, world: &World<'_>, to: IpAddr) -> Result<()> {
        let pod = world.pod("reporter")?;
        pod.netns.sysctls(&[("net/ipv4/tcp_mtu_probing", "0")])?;
        let started = Instant::now();
        let sent = transfer(&pod.netns, (to, UPLOAD_PORT).into(), TRANSFER_BYTES, PATIENCE)?;
        let route = pod.netns.ip(&format!("route get {to}"))?;
        let mtu =
            route.split_once(" mtu ").and_then(|(_, rest)| rest.split_whitespace().next()).unwrap_or("none");
        let is_right = sent == Some(TRANSFER_BYTES) && mtu == WAN_MTU.to_string();
        self.check(is_right, || format!("{sent:?} bytes reached {to}, learnt MTU {mtu}"));
        let sent = sent.map_or_else(|| "stalled".to_owned(), |bytes| format!("{bytes} bytes arrived"));
        println!("{to}: {sent} in {:.0?}; MTU learnt: {mtu} (expected {WAN_MTU})", started.elapsed());
        Ok(())
    }

    /// Counters that are not zero.
    pub(super) fn counters(&self, text: &str) {
        for line in text.lines().filter(|line| line.split_whitespace().nth(1) != Some("0")) {
            println!("{line}");
        }
    }

    /// Recent drops, summed up by what caused them.
    pub(super) fn causes(&self, node: &Node) -> Result<()> {
        let answer = node.sluice_json("drops")?;
        let mut causes = BTreeMap::<[String; 3], u64>::new();
        for drop in answer["drops"].as_array().context("a list of drops")? {
            let word = |field: &str| drop[field].as_str().unwrap_or("-").to_owned();
            let policies = drop["isolatedBy"]["policies"].as_array().into_iter().flatten();
            let policies: Vec<_> = policies.filter_map(Value::as_str).collect();
            let policies = if policies.is_empty() { "-".to_owned() } else { policies.join(", ") };
            let count = causes.entry([word("reason"), policies, word("pod")]).or_default();
            *count += drop["count"].as_u64().unwrap_or_default();
        }
        let mut table = table(["REASON", "POLICY", "POD", "PACKETS"]);
        table.add_rows(
            causes.into_iter().map(|([reason, policy, pod], count)| [reason, policy, pod, count.to_string()]),
        );
        println!("{}\n", table.trim_fmt());
        Ok(())
    }

    /// Every drop that policy caused must name the policy.
    pub(super) fn policies_are_named(&mut self, node: &Node, world: &World<'_>) -> Result<()> {
        let answer = node.sluice_json("drops")?;
        let drops = answer["drops"].as_array().context("a list of drops")?;
        let denied: Vec<_> = drops.iter().filter(|drop| drop["reason"] == "policy_denied").collect();
        self.check(!denied.is_empty(), || format!("{} remembers no drop", node.name));
        for drop in denied {
            let pod = drop["pod"].as_str().unwrap_or_default();
            let want =
                if world.replicas("inference").any(|replica| pod == format!("default/{}", replica.name)) {
                    "default/inference-from-frontend"
                } else {
                    "default/reporter-uploads-only"
                };
            let names = &drop["isolatedBy"]["policies"];
            let is_named = names.as_array().is_some_and(|names| names.iter().any(|name| name == want));
            self.check(is_named, || format!("{}: a drop of {pod} names {names}, not {want}", node.name));
        }
        Ok(())
    }

    fn check(&mut self, is_right: bool, problem: impl FnOnce() -> String) {
        self.checks += 1;
        if !is_right {
            self.mismatches.push(problem());
        }
    }

    /// Prints the sums; whether everything was as expected.
    pub(super) fn finish(self) -> bool {
        self.heading("Result");
        for mismatch in &self.mismatches {
            println!("MISMATCH  {mismatch}");
        }
        println!("{} checks, {} mismatches", self.checks, self.mismatches.len());
        self.mismatches.is_empty()
    }
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

fn words(probe: Probe) -> (String, String) {
    match probe {
        Probe::Tcp(to) => (format!("TCP {}", to.port()), to.ip().to_string()),
        Probe::Udp(to) => (format!("UDP {}", to.port()), to.ip().to_string()),
        Probe::Ping(to) => {
            (if to.is_ipv4() { "ICMP echo" } else { "ICMPv6 echo" }.to_owned(), to.to_string())
        }
    }
}

fn expected(want: Want) -> &'static str {
    match want {
        Want::Answer => "pass",
        Want::Refusal => "refused",
        Want::Silence => "drop",
    }
}

fn observed(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Answer(name) => format!("pass: {name}"),
        Outcome::Refused => "refused".to_owned(),
        Outcome::Silence => "drop".to_owned(),
    }
}
