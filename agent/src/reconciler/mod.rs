//! The one task that owns the state: what is wanted, what the maps hold, and who waits for them to agree.
//!
//! Start at [`Reconciler::run`]: take in everything that is queued, then make the maps agree
//! (compile → diff → apply), then answer those who waited for it.
//!
//! **Invariant: nothing before everybody has spoken.** Until the source has told everything, no plan is made: the maps
//! stay as an earlier agent left them. The one exception adds only: a registration writes the endpoint's name at
//! once, so that a restarted agent knows of it; its address has no entry, so everything is dropped.
//!
//! **Invariant: `actual` is what the maps hold,** or will when nobody reads any more what is to be cleared up (`clearing`).
//! It changes with each step; when one is refused, it is read back from the kernel before anything else is decided.
//!
//! **Invariant: a link keeps its programs as long as it lives.** They are given up when the kernel says that the link
//! is gone, never because somebody says so: without them its pod would be open.

mod clearing;
mod endpoints;
mod rejections;
mod services;
mod strays;
mod uplinks;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use clearing::{Clearing, Later};
use ipnetwork::IpNetwork;
use sluice_abi::{Addr, EndpointId};
use sluice_core::{
    cluster::{Change, LocalEndpoint},
    compile::Compiler,
    diff::{Differ, Limits, Outcome},
    object::PolicyName,
    plan::{Actual, Entry, Key, Plan, Step},
};
use sluice_maps::{Maps, MapsError};
use strays::Before;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{JoinError, JoinHandle},
    time::Instant,
};
use tracing::{debug, error, info, warn};
use uplinks::Uplinks;

use crate::{
    apply::{ApplyError, apply, read_actual},
    audits::Audits,
    causes::Causes,
    datapath::{CgroupRoot, Datapath, Served, SuccessionError, Swept, purge, sweep},
    health_checks::HealthChecks,
    metrics::{Metrics, State},
    netlink::{self, Addresses, Snapshot, Uplink},
    notice::Notice,
    request::{Request, UnknownEndpoint},
    topology::Topology,
    watch::Event,
};

/// How long until a refused plan is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often expired flows are looked for: it only gives room back, the programs judge expiry themselves.
const SWEEP: Duration = Duration::from_secs(30);

/// How often it is looked whether the pins are still there.
const LOOK: Duration = Duration::from_secs(5);

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
    /// The devices to other nodes.
    pub uplinks: BTreeSet<Uplink>,
    /// How often routes may have been lost.
    pub disturbances: u64,
    /// What load balancers may ask.
    pub health_checks: HealthChecks,
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

/// Why a plan is not in force.
#[derive(Debug, thiserror::Error)]
enum PlanError {
    /// A step was refused.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// It is, in the maps, but not in the programs.
    #[error(transparent)]
    Programs(#[from] SuccessionError),
}

/// The state and its owner.
#[derive(Debug)]
pub struct Reconciler {
    compiler: Compiler,
    differ: Differ,
    actual: Actual,
    datapath: Datapath,
    /// Whose processes reach Services; `None`: nobody's of the node.
    cgroup: Option<CgroupRoot>,
    served: Served,
    topology: Topology,
    endpoints: BTreeMap<EndpointId, LocalEndpoint>,
    in_force: BTreeSet<EndpointId>,
    /// Endpoints of an earlier agent whose programs could not be attached again.
    bare: BTreeSet<EndpointId>,
    waiters: Vec<(EndpointId, oneshot::Sender<Result<(), UnknownEndpoint>>)>,
    addresses: Addresses,
    uplinks: Uplinks,
    /// What the last diff left out, in words: each is told once.
    rejected: BTreeSet<String>,
    /// The policies that were audited when that was told last.
    audited: BTreeSet<PolicyName>,
    audits: Audits,
    published: watch::Sender<Published>,
    notices: mpsc::Sender<Notice>,
    /// What is told once the source has told everything: before that it is not known who is concerned.
    held_back: Vec<Notice>,
    /// Whether something changed since the last plan.
    dirty: bool,
    retry_at: Option<Instant>,
    /// When expired flows are looked for next.
    sweep_at: Instant,
    /// When the pins are looked at next.
    look_at: Instant,
    /// Somebody took the pins away, and with them the programs: only a new start brings them back.
    is_unpinned: bool,
    /// Opened a second time: expired flows are looked for on another thread.
    swept_maps: Arc<Maps>,
    sweeping: Option<JoinHandle<Result<Swept, MapsError>>>,
    /// Whether there is something to find since that began.
    sweep_again: bool,
    /// Addresses of pods that are gone, whose flows are to be forgotten.
    departed: BTreeSet<Addr>,
    /// What is to be cleared up when its readers are done.
    clearing: Clearing,
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
        notices: mpsc::Sender<Notice>,
    ) -> Result<Self, MapsError> {
        let actual = read_actual(datapath.maps())?;
        let swept_maps = Arc::new(Maps::open(datapath.maps().bpffs())?);
        let mut reconciler = Self {
            compiler,
            differ: Differ::new(Limits::default()),
            actual,
            datapath,
            cgroup: None,
            served: Served::default(),
            topology,
            endpoints: BTreeMap::new(),
            in_force: BTreeSet::new(),
            bare: BTreeSet::new(),
            waiters: Vec::new(),
            addresses: Addresses::new(),
            uplinks: Uplinks::default(),
            rejected: BTreeSet::new(),
            audited: BTreeSet::new(),
            audits: Audits::default(),
            published,
            notices,
            held_back: Vec::new(),
            dirty: true,
            retry_at: None,
            sweep_at: Instant::now() + SWEEP,
            look_at: Instant::now() + LOOK,
            is_unpinned: false,
            swept_maps,
            sweeping: None,
            sweep_again: false,
            departed: BTreeSet::new(),
            clearing: Clearing::default(),
            metrics: Metrics::default(),
        };
        reconciler.publish_topology();
        reconciler.recover(&network);
        reconciler.take_network(netlink::Event::Uplinks(network.uplinks));
        reconciler.take_network(netlink::Event::Addresses(network.addresses));
        Ok(reconciler)
    }

    /// Lets the node's own processes, and pods if they are `served` too, reach Services from the first plan on, where the kernel does; the rest works without.
    pub fn serve_sockets(&mut self, root: Option<CgroupRoot>, served: Served) {
        (self.cgroup, self.served) = (root, served);
    }

    /// Works until an input ends, or the pins are gone.
    pub async fn run(mut self, mut inputs: Inputs) {
        while self.take_next(&mut inputs).await {
            self.settle();
        }
    }

    /// Waits for an input and takes in all that are queued; false when one of them has ended.
    async fn take_next(&mut self, inputs: &mut Inputs) -> bool {
        let bare_at = (!self.bare.is_empty()).then(|| Instant::now() + RETRY);
        let wake_at = [self.retry_at, self.uplinks.retry_at(), bare_at].into_iter().flatten();
        let wake_at = wake_at.fold(self.sweep_at.min(self.look_at), Instant::min);
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
            swept = ended(&mut self.sweeping) => self.take_swept(swept),
            graced = self.clearing.ended() => self.take_graced(graced),
            () = tokio::time::sleep_until(wake_at) => self.wake(),
        }
        if self.is_unpinned {
            return false;
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
        self.retry_uplinks();
        self.retry_bare();
        if self.look_at <= now {
            self.look_at = now + LOOK;
            self.is_unpinned = !self.datapath.is_pinned();
            if self.is_unpinned {
                error!("pinned maps and programs are gone, pods are without policy: starting over");
            }
        }
        if self.sweep_at <= now {
            self.sweep_at = now + SWEEP;
            self.sweep();
        }
    }

    /// Looks for flows to forget, unless that is being done: then once more when it is.
    fn sweep(&mut self) {
        self.sweep_again = self.sweeping.is_some();
        if !self.sweep_again {
            let maps = Arc::clone(&self.swept_maps);
            self.sweeping = Some(tokio::task::spawn_blocking(move || sweep(&maps, monotonic_ns())));
        }
    }

    fn take_swept(&mut self, swept: Result<Result<Swept, MapsError>, JoinError>) {
        match swept {
            Ok(Ok(swept)) => self.metrics.set_flows(swept.live),
            Ok(Err(error)) => error!(error = %Causes(&error), "expired flows stay"),
            Err(error) => error!(error = %Causes(&error), "expired flows stay"),
        }
        if self.sweep_again {
            self.sweep();
        }
    }

    fn change(&mut self, change: Change) {
        if self.topology.observe(&change) {
            self.publish_topology();
        }
        if let Err(rejected) = self.compiler.apply(change) {
            self.tell_not_understood(&rejected);
        }
        // Most of what objects say about themselves matters to no map.
        self.dirty |= self.compiler.has_pending();
    }

    fn publish_topology(&self) {
        self.published.send_if_modified(|published| {
            let (routes, own_ranges) = (self.topology.wanted(), self.topology.own_ranges());
            let modified = published.routes != routes || published.own_ranges != own_ranges;
            (published.routes, published.own_ranges) = (routes, own_ranges.to_vec());
            modified
        });
    }

    fn take_object(&mut self, event: Event) {
        match event {
            Event::Change(change) => self.change(change),
            Event::Changes(changes) => changes.into_iter().for_each(|change| self.change(change)),
            Event::Unreadable(unreadable) => self.tell_unreadable(unreadable),
            Event::Synced => {
                info!("source has told everything");
                self.dirty = true;
                self.published.send_modify(|published| published.synced = true);
                self.tell_held_back();
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
                self.tell_uplink_addresses();
            }
            netlink::Event::Uplinks(uplinks) => {
                self.take_uplinks(uplinks);
                self.tell_uplink_addresses();
            }
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

    /// Makes the maps agree with what is wanted, and answers those who waited for it.
    fn settle(&mut self) {
        // Before anybody can be in force under the addresses, and once more when packets for them make no flow again.
        self.purge_departed();
        // Twice at most: what a full map refused may fit when the first plan has cleared up.
        for _ in 0..2 {
            if !(self.dirty && self.retry_at.is_none() && self.published.borrow().synced) {
                break;
            }
            match self.plan_and_execute() {
                Ok(()) if self.purge_departed() => self.departed.clear(),
                Ok(()) => {}
                Err(error) => {
                    error!(error = %Causes(&error), "plan not in force; the old state is, as far as it went");
                    self.retry_at = Some(Instant::now() + RETRY);
                }
            }
        }
        self.answer_waiters();
    }

    /// Forgets the flows of pods that are gone; says whether it could.
    fn purge_departed(&mut self) -> bool {
        if self.departed.is_empty() {
            return true;
        }
        match purge(self.datapath.maps(), &self.departed) {
            Ok(flows) => {
                debug!(addresses = self.departed.len(), flows, "flows forgotten");
                true
            }
            Err(error) => {
                error!(addresses = ?self.departed, error = %Causes(&error), "flows of pods that are gone stay");
                false
            }
        }
    }

    fn plan_and_execute(&mut self) -> Result<(), PlanError> {
        let begun = Instant::now();
        let (desired, changes) = self.compiler.desired_changes();
        let Outcome { mut plan, rejected, in_force } = self.differ.plan(desired, &changes, &self.actual);
        self.tell_rejected(&rejected);
        self.tell_audited();
        // Everything is in force before the first wait for readers; nobody has to wait for the clearing up after it.
        let is_grace = |step: &Step| matches!(step, Step::Grace);
        let clearing_up = plan.split_off(plan.iter().position(is_grace).unwrap_or(plan.len()));
        if self.clearing.is_in_the_way(&plan) {
            self.finish_clearing()?;
        }
        let before = Before::of(&plan, &self.actual);
        self.execute(&plan)?;
        self.put_programs_in_place()?;
        self.metrics.plan_seconds.observe(begun.elapsed().as_secs_f64());
        self.in_force = in_force.difference(&self.bare).copied().collect();
        self.answer_waiters();
        self.publish_health_checks();
        let steps = plan.len() + clearing_up.len();
        self.dirty = false;
        let plans_again = !rejected.is_empty() && !clearing_up.is_empty();
        self.clear_up(Later { steps: clearing_up, plans_again, sweeps: false }, &before)?;
        if self.published.send_if_modified(|published| !std::mem::replace(&mut published.ready, true)) {
            info!(steps, "first plan in force");
            release_memory();
        }
        Ok(())
    }

    /// With the first plan the maps hold what programs need that waited for it.
    fn put_programs_in_place(&mut self) -> Result<(), SuccessionError> {
        if self.published.borrow().ready {
            return Ok(());
        }
        if self.datapath.is_waiting() {
            self.datapath.succeed()?;
            info!("programs are in place of another version's");
        }
        match self.datapath.serve_sockets(self.cgroup.as_ref(), self.served) {
            Ok(Some(cgroup)) => info!(cgroup = %cgroup.display(), "node's own processes reach Services"),
            Ok(None) => info!("node's own processes are not led to Services"),
            Err(error) => {
                warn!(
                    error = %Causes(&error),
                    "node's own processes (kubelet, hostNetwork pods) do not reach Services at cluster, node port, load \
                     balancer or external addresses: no program sees their sockets, and there is no other way \
                     (see --cgroup-root); pods and clients outside do"
                );
            }
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
        match self.audits.news(self.datapath.maps(), &self.actual) {
            Ok(news) => self.metrics.count_would_drop(news),
            Err(error) => warn!(error = %Causes(&error), "audits not counted"),
        }
        self.metrics.text()
    }

    fn execute(&mut self, plan: &Plan) -> Result<(), ApplyError> {
        if plan.is_empty() {
            return Ok(());
        }
        let applied = apply(plan, self.datapath.maps());
        self.metrics.count_plan(plan.len(), applied.is_ok());
        match &applied {
            Ok(()) => {
                plan.iter().for_each(|step| self.actual.apply(step));
                if plan.iter().any(may_strand_sockets) {
                    self.datapath.tell_sockets();
                }
            }
            Err(_) => self.read_back(),
        }
        debug!(steps = plan.len(), "plan applied");
        applied
    }

    /// Begins anew with what the maps hold, also of what was to be cleared up.
    fn read_back(&mut self) {
        self.clearing.take_all();
        self.differ.forget();
        match read_actual(self.datapath.maps()) {
            Ok(actual) => self.actual = actual,
            // The next plan is made of what was believed; the maps refuse what does not fit it.
            Err(error) => error!(error = %Causes(&error), "maps not read back"),
        }
    }
}

/// Whether a connected socket may be somewhere now where it should not stay.
fn may_strand_sockets(step: &Step) -> bool {
    matches!(step, Step::Delete(Key::Backend(_)) | Step::Put(Entry::Frontend(..)))
}

/// What a task that may be under way ends with; without one, never.
async fn ended<T>(task: &mut Option<JoinHandle<T>>) -> Result<T, JoinError> {
    let Some(running) = task else { return std::future::pending().await };
    let end = running.await;
    *task = None;
    end
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
