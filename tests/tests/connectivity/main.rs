//! Real pods, wired by the real plugin, and real traffic between them: what the promises say to those who use a node.
//!
//! Every test makes its own cluster of namespaces. Needs root.

mod agent;
mod audit;
mod cycles;
mod host;
mod monitor;
mod mtu;
mod policy;
mod reach;
mod service;
mod xdp;

use anyhow::Result;
use serde_json::{Value, json};
use sluice_tests::topology::{
    namespace::Netns,
    traffic::{self, Expectation, Probe, Want},
};

/// A NetworkPolicy in the namespace `default` for the pods with the label `app`.
fn network_policy(name: &str, app: &str, rules: &Value) -> Value {
    let mut policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": "default", "name": name},
        "spec": rules,
    });
    policy["spec"]["podSelector"] = json!({"matchLabels": {"app": app}});
    policy
}

/// No traffic in either direction.
fn deny_all(name: &str, app: &str) -> Value {
    network_policy(name, app, &json!({"policyTypes": ["Ingress", "Egress"]}))
}

/// Sends all probes and fails with those that went otherwise.
#[track_caller]
fn expect(expectations: &[Expectation<'_>]) -> Result<()> {
    let outcomes = traffic::send_all(expectations)?;
    let wrong: Vec<_> = expectations
        .iter()
        .zip(&outcomes)
        .filter(|(one, outcome)| !one.want.is(outcome))
        .map(|(one, outcome)| format!("{:?}: {outcome:?} instead of {:?}", one.probe, one.want))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn answers(from: &Netns, probe: Probe) -> Expectation<'_> {
    Expectation { from, probe, want: Want::Answer }
}

fn is_silent(from: &Netns, probe: Probe) -> Expectation<'_> {
    Expectation { from, probe, want: Want::Silence }
}

fn is_refused(from: &Netns, probe: Probe) -> Expectation<'_> {
    Expectation { from, probe, want: Want::Refusal }
}
