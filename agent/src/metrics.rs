//! What there is to count, as OpenMetrics text: names, units, help.
//!
//! **Invariant.** Packets are counted by the programs, in the kernel, and only read here when somebody asks; so the
//! counts outlive the agent.

use std::sync::atomic::Ordering;

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use sluice_abi::{DropReason, maps};
use sluice_core::plan::Actual;
use sluice_maps::{Counters, MapsError};

/// One label and its value.
type Label = [(&'static str, &'static str); 1];

/// Upper bounds of the histogram, seconds: around the budget of 2 ms (median) and 8 ms (p99).
const PLAN_SECONDS: [f64; 9] = [0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.064, 0.256, 1.0];

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Objects that could not be understood.
    pub objects_rejected: Counter,
    /// From the first change of a batch being taken up to its rules in force.
    pub plan_seconds: Histogram,
    plans: Family<Label, Counter>,
    plan_steps: Counter,
    ready: Gauge,
    endpoints: Family<Label, Gauge>,
    rejected: Gauge,
    flows: Gauge,
    map_entries: Family<Label, Gauge>,
    map_capacity: Family<Label, Gauge>,
    forwarded_packets: Counter,
    forwarded_bytes: Counter,
    dropped_packets: Family<Label, Counter>,
    dropped_bytes: Family<Label, Counter>,
    would_drop_flows: Counter,
    would_drop: Family<[(&'static str, String); 1], Counter>,
}

/// What the agent's state is when somebody asks.
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// Whether an ADD could be served.
    pub ready: bool,
    /// Registered endpoints.
    pub endpoints: usize,
    /// Those whose rules are in force.
    pub in_force: usize,
    /// Policies and Services that do not fit the maps.
    pub rejected: usize,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Registry::with_prefix("sluice"),
            objects_rejected: Counter::default(),
            plan_seconds: Histogram::new(PLAN_SECONDS),
            plans: Family::default(),
            plan_steps: Counter::default(),
            ready: Gauge::default(),
            endpoints: Family::default(),
            rejected: Gauge::default(),
            flows: Gauge::default(),
            map_entries: Family::default(),
            map_capacity: Family::default(),
            forwarded_packets: Counter::default(),
            forwarded_bytes: Counter::default(),
            dropped_packets: Family::default(),
            dropped_bytes: Family::default(),
            would_drop_flows: Counter::default(),
            would_drop: Family::default(),
        };
        metrics.registered()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        let all = &mut self.registry;
        all.register(
            "objects_rejected",
            "Objects that could not be understood",
            self.objects_rejected.clone(),
        );
        all.register_with_unit(
            "plan",
            "Time from taking up changes to their rules in force",
            Unit::Seconds,
            self.plan_seconds.clone(),
        );
        all.register("plans", "Plans by result", self.plans.clone());
        all.register("plan_steps", "Map writes of all plans", self.plan_steps.clone());
        all.register("ready", "1 when pods can be made", self.ready.clone());
        all.register("endpoints", "Pods' interfaces on this node, by state", self.endpoints.clone());
        all.register("rejected", "Policies and Services that do not fit the maps", self.rejected.clone());
        all.register("flows", "Flows that were alive at the last sweep", self.flows.clone());
        all.register("map_entries", "Entries the agent keeps in a map", self.map_entries.clone());
        all.register("map_capacity", "Entries a map can hold", self.map_capacity.clone());
        all.register(
            "forwarded_packets",
            "Packets forwarded to or from pods",
            self.forwarded_packets.clone(),
        );
        all.register_with_unit(
            "forwarded",
            "Bytes forwarded to or from pods",
            Unit::Bytes,
            self.forwarded_bytes.clone(),
        );
        all.register("dropped_packets", "Packets dropped, by reason", self.dropped_packets.clone());
        all.register_with_unit(
            "dropped",
            "Bytes dropped, by reason",
            Unit::Bytes,
            self.dropped_bytes.clone(),
        );
        all.register(
            "would_drop_flows",
            "Flows let pass that audited policies would have dropped",
            self.would_drop_flows.clone(),
        );
        all.register(
            "policy_audit_would_drop",
            "Flows let pass that audited policies would have dropped, by policy, as far as recorded",
            self.would_drop.clone(),
        );
        self
    }

    /// Counts a plan that was executed, whole or not.
    pub fn count_plan(&self, steps: usize, is_whole: bool) {
        self.plans.get_or_create(&[("result", if is_whole { "ok" } else { "error" })]).inc();
        self.plan_steps.inc_by(steps as u64);
    }

    /// Sets what the agent's state is.
    pub fn set_state(&self, state: &State) {
        self.ready.set(i64::from(state.ready));
        self.rejected.set(state.rejected as i64);
        let waiting = state.endpoints.saturating_sub(state.in_force);
        for (label, count) in [("in-force", state.in_force), ("waiting", waiting)] {
            self.endpoints.get_or_create(&[("state", label)]).set(count as i64);
        }
    }

    /// Sets how many flows are alive.
    pub fn set_flows(&self, live: usize) {
        self.flows.set(live as i64);
    }

    /// Sets how full the maps are that the agent fills.
    pub fn set_entries(&self, actual: &Actual) {
        for (spec, count) in [
            (maps::ENDPOINTS, actual.endpoints.len()),
            (maps::INTERFACES, actual.interfaces.len()),
            (maps::IPCACHE, actual.ipcache.keys().filter(|prefix| prefix.bits == 128).count()),
            (maps::IPCACHE_CIDRS, actual.ipcache.keys().filter(|prefix| prefix.bits < 128).count()),
            (maps::RULES, actual.rules.len()),
            (maps::FRONTENDS, actual.frontends.len()),
            (maps::SLOTS, actual.slots.len()),
            (maps::BACKENDS, actual.backends.len()),
            (maps::SOURCE_RANGES, actual.source_ranges.len()),
            (maps::NO_MASQUERADE, actual.no_masquerade.len()),
            (maps::ENDPOINT_META, actual.endpoint_meta.len()),
            (maps::IDENTITY_META, actual.identity_meta.len()),
            (maps::RULE_SET_META, actual.rule_set_meta.len()),
            (maps::RULE_META, actual.rule_meta.len()),
            (maps::POLICY_META, actual.policy_meta.len()),
            (maps::SERVICE_META, actual.service_meta.len()),
        ] {
            self.map_entries.get_or_create(&[("map", spec.name)]).set(count as i64);
            self.map_capacity.get_or_create(&[("map", spec.name)]).set(i64::from(spec.max_entries));
        }
    }

    /// Reads the programs' counters.
    ///
    /// # Errors
    /// [`MapsError`] when the kernel refuses.
    pub fn set_traffic(&self, counters: &Counters) -> Result<(), MapsError> {
        self.would_drop_flows.inner().store(counters.would_drop()?, Ordering::Relaxed);
        let forwarded = counters.forwarded()?;
        self.forwarded_packets.inner().store(forwarded.packets, Ordering::Relaxed);
        self.forwarded_bytes.inner().store(forwarded.bytes, Ordering::Relaxed);
        for reason in DropReason::ALL {
            let (label, dropped) = ([("reason", reason.name())], counters.dropped(*reason)?);
            self.dropped_packets.get_or_create(&label).inner().store(dropped.packets, Ordering::Relaxed);
            self.dropped_bytes.get_or_create(&label).inner().store(dropped.bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Counts flows that audited policies would have dropped, by policy.
    pub fn count_would_drop(&self, news: impl IntoIterator<Item = (String, u64)>) {
        for (policy, flows) in news {
            self.would_drop.get_or_create(&[("policy", policy)]).inc_by(flows);
        }
    }

    /// Everything, as OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_prefix_unit_and_help() {
        let metrics = Metrics::default();
        metrics.count_plan(3, true);
        metrics.count_would_drop([("shop/web".to_owned(), 2)]);
        metrics.plan_seconds.observe(0.003);
        metrics.set_state(&State { ready: true, endpoints: 3, in_force: 2, rejected: 0 });
        metrics.set_entries(&Actual::default());
        let text = metrics.text();
        for line in [
            "sluice_plans_total{result=\"ok\"} 1",
            "sluice_plan_steps_total 3",
            "sluice_plan_seconds_bucket{le=\"0.004\"} 1",
            "sluice_ready 1",
            "sluice_endpoints{state=\"waiting\"} 1",
            "sluice_map_capacity{map=\"RULES\"} 524288",
            "sluice_forwarded_bytes_total 0",
            "sluice_would_drop_flows_total 0",
            "sluice_policy_audit_would_drop_total{policy=\"shop/web\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert!(text.lines().all(|line| line.starts_with('#') || line.starts_with("sluice_")), "{text}");
    }
}
