//! The policy table: one sentence a row, run on two engines and in both address families; a module for each corner of the APIs.
//!
//! The cluster of every row ([`fixture()`]) has, on this node, the pods `web`, `db`, `job` in namespace `default` and
//! `other/web`, `other/db` in `other`; on another node `far` (labelled like `web`) and `other/far`; a host-network pod
//! `hostnet` on this node and `farhost` on the other; the nodes themselves as `node` and `node2`. Anything else in a
//! probe is an address.

mod audit;
mod blocks;
mod changes;
mod cluster_changes;
mod cluster_closed;
mod cluster_peers;
mod cluster_tiers;
mod ends;
mod fixture;
mod full;
mod isolation;
mod named_ports;
mod ports;
mod selectors;
mod services;

pub use fixture::{PODS, Pod, fixture};

/// One row: policies, and what passes and what does not while they are in force.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The rule that would be broken.
    pub name: &'static str,
    /// `spec`s of NetworkPolicies `p0`, `p1`, … in namespace `default`; one that starts with `other:` is in that namespace,
    /// one that starts with `audit:` is audited.
    pub policies: &'static [&'static str],
    /// `spec`s of ClusterNetworkPolicies `c0`, `c1`, …; one that starts with `audit:` is audited.
    pub cluster: &'static [&'static str],
    /// Other objects beside the fixture's, or in their places.
    pub objects: &'static [&'static str],
    /// Probes that pass, and that audited policies let pass too: `source > destination protocol[/port]`.
    pub allowed: &'static [&'static str],
    /// Probes that pass, and that audited policies would drop.
    pub audited: &'static [&'static str],
    /// Probes that do not.
    pub denied: &'static [&'static str],
    /// What happens then, step by step.
    pub then: &'static [Then],
}

/// A row of nothing, for `..ROW`.
const ROW: Case = Case {
    name: "",
    policies: &[],
    cluster: &[],
    objects: &[],
    allowed: &[],
    audited: &[],
    denied: &[],
    then: &[],
};

/// A step of nothing, for `..STEP`.
const STEP: Then = Then { what: "", upsert: &[], delete: &[], allowed: &[], audited: &[], denied: &[] };

/// Something that happens in a row, and what passes afterwards.
#[derive(Clone, Copy, Debug)]
pub struct Then {
    /// What happens.
    pub what: &'static str,
    /// Objects that are new or change.
    pub upsert: &'static [&'static str],
    /// Objects that go, as `Kind name` or `Kind namespace/name`.
    pub delete: &'static [&'static str],
    /// Probes that pass.
    pub allowed: &'static [&'static str],
    /// Probes that pass, and that audited policies would drop.
    pub audited: &'static [&'static str],
    /// Probes that do not.
    pub denied: &'static [&'static str],
}

/// The rows by corner.
pub const CORNERS: &[(&str, &[Case])] = &[
    ("isolation", isolation::CASES),
    ("selectors", selectors::CASES),
    ("ports", ports::CASES),
    ("named ports", named_ports::CASES),
    ("ip blocks", blocks::CASES),
    ("ends", ends::CASES),
    ("services", services::CASES),
    ("changes", changes::CASES),
    ("audit", audit::CASES),
    ("cluster: tiers and precedence", cluster_tiers::CASES),
    ("cluster: subjects, peers and ports", cluster_peers::CASES),
    ("cluster: closed", cluster_closed::CASES),
    ("cluster: changes", cluster_changes::CASES),
];

/// Rows that are run with full maps: no single address has room ([`crate::engine::check_full`]).
pub const FULL: &[Case] = full::CASES;

/// A rule set that lets `web` reach `db` on TCP 80, for rows about something else.
const WEB_TO_DB: &str = "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 80}]}]}";
