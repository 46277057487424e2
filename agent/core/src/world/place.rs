//! One node: what its maps would hold.

use std::collections::BTreeSet;

use sluice_abi::{Addr, Direction, EndpointId, Identity, RuleSetId};

use super::Pod;
use crate::{
    cluster::{Change, Cluster, LocalEndpoint, NodeName},
    compile::compile,
    desired::{Class, DesiredEndpoint, DesiredState, RuleSet},
    diff::{Limits, diff},
    plan::Actual,
    prefix::longest,
};

/// One node's maps, in symbols and in numbers.
#[derive(Debug)]
pub struct Place {
    /// What they shall hold, in symbols.
    pub desired: DesiredState,
    /// What they hold.
    pub actual: Actual,
}

impl Place {
    /// Compiles a node with these pods and addresses, as if nothing were ever full.
    pub(super) fn new<'a>(
        cluster: &Cluster,
        name: &str,
        pods: impl Iterator<Item = (EndpointId, &'a Pod)>,
        addrs: BTreeSet<Addr>,
    ) -> Self {
        let mut cluster = cluster.clone();
        let attach = pods.map(|(id, pod)| Change::Attach(endpoint(id, pod)));
        for change in attach.chain([Change::NodeAddresses(addrs)]) {
            cluster.apply(change).expect("only objects are rejected");
        }
        let desired = compile(&cluster, &NodeName(name.to_owned()));
        let mut actual = Actual::default();
        let outcome = diff(&desired, &actual, &UNLIMITED);
        outcome.plan.iter().for_each(|step| actual.apply(step));
        Self { desired, actual }
    }

    /// The policies of the pod at an address in one direction.
    pub fn rule_set(&self, addr: Addr, direction: Direction) -> Option<&RuleSet> {
        let DesiredEndpoint::Pod { rule_sets, .. } = self.desired.endpoints.get(&addr)? else { return None };
        self.desired.rule_sets.get(&rule_sets[direction as usize]).map(|set| &**set)
    }

    /// The same with those that are audited, where that is something else.
    pub fn shadow(&self, addr: Addr, direction: Direction) -> Option<&RuleSet> {
        let DesiredEndpoint::Pod { shadows, .. } = self.desired.endpoints.get(&addr)? else { return None };
        self.desired.rule_sets.get(&shadows[direction as usize]?).map(|set| &**set)
    }

    /// The numbers of the rule sets of the pod at an address, by [`Direction`].
    pub(crate) fn rule_set_ids(&self, addr: Addr) -> Option<[RuleSetId; 2]> {
        let endpoint = self.actual.endpoints.get(&addr)?;
        Some([endpoint.ingress, endpoint.egress])
    }

    /// What an address satisfies here; `None` when nothing.
    pub fn class(&self, addr: Addr) -> Option<&Class> {
        let class = longest(&self.desired.ipcache, &sluice_abi::Prefix::host(addr))?.as_ref()?;
        self.desired.classes.get(class).map(|class| &**class)
    }

    /// The number of what an address satisfies here.
    pub(crate) fn identity(&self, addr: Addr) -> Identity {
        self.actual.identity_of(addr)
    }
}

/// The interface that a pod would have.
fn endpoint(id: EndpointId, pod: &Pod) -> LocalEndpoint {
    let mut addrs = [Addr::UNSPECIFIED; 2];
    for (place, addr) in addrs.iter_mut().zip(&pod.addrs) {
        *place = *addr;
    }
    LocalEndpoint {
        id,
        namespace: pod.name.namespace.clone(),
        pod: pod.name.name.clone(),
        uid: None,
        container: String::new(),
        ifname: String::new(),
        host_ifname: String::new(),
        addrs,
        ifindex: id.0,
        mac: [0; 6],
    }
}

const UNLIMITED: Limits = Limits {
    endpoints: usize::MAX,
    interfaces: usize::MAX,
    ipcache: usize::MAX,
    ipcache_cidrs: usize::MAX,
    rules: usize::MAX,
    frontends: usize::MAX,
    slots: usize::MAX,
    backends: usize::MAX,
    source_ranges: usize::MAX,
    no_masquerade: usize::MAX,
    endpoint_meta: usize::MAX,
    identity_meta: usize::MAX,
    rule_set_meta: usize::MAX,
    rule_meta: usize::MAX,
    policy_meta: usize::MAX,
    service_meta: usize::MAX,
};
