//! The one task that owns the state: what is wanted, what the maps hold, and who waits for them to agree.
//!
//! Start at [`Reconciler::run`]: take in everything that is queued, then make the maps agree
//! (compile → diff → apply), then answer those who waited for it.
//!
//! **Invariant: nothing before everybody has spoken.** Until the source has told everything, no plan is made: the maps
//! stay as an earlier agent left them. The one exception adds only: a registration writes the endpoint's name and
//! interface at once, so that its drops have a name, and its address has no entry, so everything is dropped.
//!
//! **Invariant: `actual` is what the maps hold.** It changes with each applied step; when a step is refused, it is read
//! back from the kernel before anything else is decided.
//!
//! **Invariant: a link keeps its programs as long as it lives.** They are given up when the kernel says that the link
//! is gone, never because somebody says so: without them its pod would be open.

mod endpoints;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ipnetwork::IpNetwork;
use sluice_abi::{Addr, EndpointId};
use sluice_core::{
    cluster::{Change, LocalEndpoint},
    compile::Compiler,
    diff::{Limits, Outcome, diff},
    plan::{Actual, Plan, Step},
};
use sluice_maps::MapsError;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tracing::{debug, error, info, warn};

use crate::{
    apply::{ApplyError, apply, read_actual},
    causes::Causes,
    datapath::{Datapath, purge, sweep},
    metrics::{Metrics, State},
    netlink::{self, Addresses, Snapshot, Uplink},
    request::{Request, UnknownEndpoint},
    topology::Topology,
    watch::Event,
};

/// How long until a refused plan is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often expired flows are looked for: it only gives room back, the programs judge expiry themselves.
const SWEEP: Duration = Duration::from_secs(30);

/// What the rest of the agent follows: routes and the CNI configuration.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Published {
    /// Whether the source has told everything.
    pub synced: bool,
    /// Whether the first plan is in force.
    pub ready: bool,
    /// Routes to other nodes.
    pub routes: crate::routes::Wanted,
    /// This node's pod ranges, in the order of its object.
    pub own_ranges: Vec<IpNetwork>,
    /// How often routes may have been lost.
    pub disturbances: u64,
}

/// Where inputs come from.
#[derive(Debug)]
pub struct Inputs {
    /// The source of objects.
    pub objects: mpsc::Receiver<Event>,
    /// The kernel's announcements.
    pub network: mpsc::Receiver<netlink::Event>,
    /// The server's questions.
    pub requests: mpsc::Receiver<Request>,
}

/// The state and its owner.
#[derive(Debug)]
pub struct Reconciler {
    compiler: Compiler,
    actual: Actual,
    datapath: Datapath,
    topology: Topology,
    endpoints: BTreeMap<EndpointId, LocalEndpoint>,
    in_force: BTreeSet<EndpointId>,
    waiters: Vec<(EndpointId, oneshot::Sender<Result<(), UnknownEndpoint>>)>,
    addresses: Addresses,
    uplinks: BTreeSet<Uplink>,
    /// What the last diff left out, in words: each is told once.
    rejected: BTreeSet<String>,
    published: watch::Sender<Published>,
    /// Whether something changed since the last plan.
    dirty: bool,
    retry_at: Option<Instant>,
    /// When expired flows are looked for next.
    sweep_at: Instant,
    /// Addresses of pods that are gone, whose flows are to be forgotten.
    departed: BTreeSet<Addr>,
    metrics: Metrics,
}

impl Reconciler {
    /// Takes up what the maps hold: endpoints whose links are still there are attached again, the others are left to
    /// the first plan to delete.
    ///
    /// # Errors
    /// [`MapsError`] when the maps cannot be read.
    pub fn new(
        compiler: Compiler,
        topology: Topology,
        mut datapath: Datapath,
        network: Snapshot,
        published: watch::Sender<Published>,
    ) -> Result<Self, MapsError> {
        let actual = read_actual(datapath.maps())?;
        let mut reconciler = Self {
            compiler,
            actual,
            datapath,
            topology,
            endpoints: BTreeMap::new(),
            in_force: BTreeSet::new(),
            waiters: Vec::new(),
            addresses: Addresses::new(),
            uplinks: BTreeSet::new(),
            rejected: BTreeSet::new(),
            published,
            dirty: true,
            retry_at: None,
            sweep_at: Instant::now() + SWEEP,
            departed: BTreeSet::new(),
            metrics: Metrics::default(),
        };
        reconciler.recover(&network);
        reconciler.take_network(netlink::Event::Uplinks(network.uplinks));
        reconciler.take_network(netlink::Event::Addresses(network.addresses));
        Ok(reconciler)
    }

    /// Works until an input ends.
    pub async fn run(mut self, mut inputs: Inputs) {
        while self.take_next(&mut inputs).await {
            self.settle();
        }
    }

    /// Waits for an input and takes in all that are queued; false when one of them has ended.
    async fn take_next(&mut self, inputs: &mut Inputs) -> bool {
        let wake_at = self.retry_at.map_or(self.sweep_at, |retry_at| retry_at.min(self.sweep_at));
        tokio::select! {
            event = inputs.objects.recv() => match event {
                Some(event) => self.take_object(event),
                None => return false,
            },
            event = inputs.network.recv() => match event {
                Some(event) => self.take_network(event),
                None => return false,
            },
            request = inputs.requests.recv() => match request {
                Some(request) => self.take_request(request),
                None => return false,
            },
            () = tokio::time::sleep_until(wake_at) => self.wake(),
        }
        // Links first: an address that moved to a new pod must not be taken from it by the old one's end.
        while let Ok(event) = inputs.network.try_recv() {
            self.take_network(event);
        }
        while let Ok(event) = inputs.objects.try_recv() {
            self.take_object(event);
        }
        while let Ok(request) = inputs.requests.try_recv() {
            self.take_request(request);
        }
        true
    }

    fn wake(&mut self) {
        let now = Instant::now();
        if self.retry_at.is_some_and(|retry_at| retry_at <= now) {
            self.retry_at = None;
        }
        if self.sweep_at <= now {
            self.sweep_at = now + SWEEP;
            match sweep(self.datapath.maps(), monotonic_ns()) {
                Ok(swept) => self.metrics.set_flows(swept.live),
                Err(error) => error!(error = %Causes(&error), "expired flows stay"),
            }
        }
    }

    fn change(&mut self, change: Change) {
        if self.topology.observe(&change) {
            self.published.send_if_modified(|published| {
                let (routes, own_ranges) = (self.topology.wanted(), self.topology.own_ranges());
                let modified = published.routes != routes || published.own_ranges != own_ranges;
                (published.routes, published.own_ranges) = (routes, own_ranges.to_vec());
                modified
            });
        }
        self.dirty = true;
        if let Err(rejected) = self.compiler.apply(change) {
            self.metrics.objects_rejected.inc();
            warn!(object = %rejected.key, error = %Causes(&rejected), "object not understood: closed where it applies");
        }
    }

    fn take_object(&mut self, event: Event) {
        match event {
            Event::Change(change) => self.change(change),
            Event::Synced => {
                info!("source has told everything");
                self.dirty = true;
                self.published.send_modify(|published| published.synced = true);
            }
        }
    }

    fn take_network(&mut self, event: netlink::Event) {
        match event {
            netlink::Event::LinkGone(ifindex) => {
                let gone = self.endpoints.values().find(|endpoint| endpoint.ifindex == ifindex).map(|e| e.id);
                if let Some(id) = gone {
                    self.forget(id);
                }
                if self.datapath.attached().any(|attached| attached == ifindex) {
                    self.datapath.detach(ifindex);
                }
            }
            netlink::Event::Addresses(addresses) => {
                self.addresses = addresses;
                self.tell_node_addresses();
            }
            netlink::Event::Uplinks(uplinks) => self.take_uplinks(uplinks),
            netlink::Event::Disturbed => self.published.send_modify(|published| published.disturbances += 1),
        }
    }

    /// The node's addresses are those of all devices but its pods'.
    fn tell_node_addresses(&mut self) {
        let pods: BTreeSet<u32> = self.endpoints.values().map(|endpoint| endpoint.ifindex).collect();
        let of_node = self.addresses.iter().filter(|(ifindex, _)| !pods.contains(ifindex));
        let addresses: BTreeSet<Addr> = of_node.flat_map(|(_, addresses)| addresses).copied().collect();
        self.change(Change::NodeAddresses(addresses));
    }

    fn take_uplinks(&mut self, uplinks: Vec<Uplink>) {
        let uplinks: BTreeSet<_> = uplinks.into_iter().collect();
        for uplink in uplinks.difference(&self.uplinks) {
            match self.datapath.attach_uplink(&uplink.name, uplink.ifindex) {
                Ok(()) => {
                    info!(device = %uplink.name, ifindex = uplink.ifindex, "programs attached to uplink")
                }
                Err(error) => {
                    error!(device = %uplink.name, error = %Causes(&error), "uplink has no programs")
                }
            }
        }
        if uplinks.is_empty() {
            warn!("no uplink: pods reach this node only");
        }
        self.uplinks = uplinks;
    }

    /// Makes the maps agree with what is wanted, and answers those who waited for it.
    fn settle(&mut self) {
        self.purge_departed();
        let is_due = self.dirty && self.retry_at.is_none() && self.published.borrow().synced;
        if is_due && let Err(error) = self.plan_and_execute() {
            error!(error = %Causes(&error), "plan not in force; the old state is, as far as it went");
            self.retry_at = Some(Instant::now() + RETRY);
        }
        self.answer_waiters();
    }

    /// Forgets the flows of pods that are gone, before anybody can be in force under their addresses.
    fn purge_departed(&mut self) {
        for addr in std::mem::take(&mut self.departed) {
            match purge(self.datapath.maps(), &addr) {
                Ok(flows) => debug!(%addr, flows, "flows forgotten"),
                Err(error) => error!(%addr, error = %Causes(&error), "flows of a pod that is gone stay"),
            }
        }
    }

    fn plan_and_execute(&mut self) -> Result<(), ApplyError> {
        let begun = Instant::now();
        let Outcome { mut plan, rejected, in_force } =
            diff(self.compiler.desired(), &self.actual, &Limits::default());
        self.tell_rejected(rejected.iter().map(|rejection| Causes(rejection).to_string()).collect());
        // Everything is in force before the first wait for readers; nobody has to wait for the clearing up after it.
        let is_grace = |step: &Step| matches!(step, Step::Grace);
        let clearing_up = plan.split_off(plan.iter().position(is_grace).unwrap_or(plan.len()));
        self.execute(&plan)?;
        self.metrics.plan_seconds.observe(begun.elapsed().as_secs_f64());
        self.in_force = in_force;
        self.answer_waiters();
        self.execute(&clearing_up)?;
        self.dirty = false;
        if self.published.send_if_modified(|published| !std::mem::replace(&mut published.ready, true)) {
            info!(steps = plan.len() + clearing_up.len(), "first plan in force");
            release_memory();
        }
        Ok(())
    }

    fn answer_waiters(&mut self) {
        self.waiters.retain(|(_, waiter)| !waiter.is_closed());
        let in_force = &self.in_force;
        for (_, waiter) in self.waiters.extract_if(.., |(id, _)| in_force.contains(id)) {
            let _ = waiter.send(Ok(()));
        }
    }

    fn scrape(&mut self) -> String {
        let published = self.published.borrow();
        self.metrics.set_state(&State {
            ready: published.ready,
            endpoints: self.endpoints.len(),
            in_force: self.in_force.len(),
            rejected: self.rejected.len(),
        });
        self.metrics.set_entries(&self.actual);
        if let Err(error) = self.metrics.set_traffic(&self.datapath.maps().counters) {
            warn!(error = %Causes(&error), "packets not counted");
        }
        self.metrics.text()
    }

    fn tell_rejected(&mut self, rejected: BTreeSet<String>) {
        for rejection in rejected.difference(&self.rejected) {
            error!(rejection, "does not fit: the old state stays in force");
        }
        for rejection in self.rejected.difference(&rejected) {
            info!(rejection, "fits now");
        }
        self.rejected = rejected;
    }

    fn execute(&mut self, plan: &Plan) -> Result<(), ApplyError> {
        if plan.is_empty() {
            return Ok(());
        }
        let applied = apply(plan, self.datapath.maps());
        self.metrics.count_plan(plan.len(), applied.is_ok());
        match &applied {
            Ok(()) => plan.iter().for_each(|step| self.actual.apply(step)),
            Err(_) => match read_actual(self.datapath.maps()) {
                Ok(actual) => self.actual = actual,
                // The next plan is made of what was believed; the maps refuse what does not fit it.
                Err(error) => error!(error = %Causes(&error), "maps not read back"),
            },
        }
        debug!(steps = plan.len(), "plan applied");
        applied
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds, as `bpf_ktime_get_ns` tells it.
fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: room for the answer; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Gives the memory that lists and the first compilation took back to the system.
fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: has no precondition.
    unsafe {
        libc::malloc_trim(0);
    }
}
