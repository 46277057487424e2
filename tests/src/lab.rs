//! The loaded programs in a world of their own, run on packets by `BPF_PROG_TEST_RUN`.
//!
//! A [`Lab`] moves its thread into new network and mount namespaces, so that nothing is left behind however a test
//! ends. Devices are real, since the kernel wants one for each interface index; what leaves a program is read from
//! its return value and the packet it gives back.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use aya::{
    TestRun as _,
    programs::{SchedClassifier, TestRunOptions, Xdp},
};
use aya_obj::programs::XdpAttachType;
use nix::sched::{CloneFlags, unshare};
use sluice_abi::{
    Addr, Backend, BackendId, BackendState, DropReason, Endpoint, EndpointId, Frontend, FrontendKey,
    FrontendScope, Hook, Identity, NodeAddr, NodeFamily, Prefix, Rule, RuleId, RuleKey, RuleSetId,
    RuleVerdict, ServiceId, endpoint_flags,
};
use sluice_agent::datapath::{Datapath, DatapathConfig, XdpConfig, XdpMode};
use sluice_maps::{Maps, RuleRange, testing::PrivateBpffs};

/// What a program decided.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Dropped.
    Drop,
    /// Left to the host stack.
    Stack,
    /// Redirected: into a pod, or out of a device.
    Redirect,
}

/// What a program made of a packet.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its decision.
    pub action: Action,
    /// The packet as it left.
    pub packet: Vec<u8>,
}

/// A pod as the programs know it.
#[derive(Clone, Copy, Debug)]
pub struct LabPod {
    /// Its number.
    pub id: EndpointId,
    /// Interface index of its host-side veth.
    pub ifindex: u32,
    /// Its IPv4 and IPv6 addresses.
    pub addrs: [IpAddr; 2],
}

impl LabPod {
    /// Its address of the same family as `like`.
    pub fn addr(&self, like: IpAddr) -> IpAddr {
        if like.is_ipv4() { self.addrs[0] } else { self.addrs[1] }
    }

    /// The same with a port.
    pub fn at(&self, like: IpAddr, port: u16) -> SocketAddr {
        SocketAddr::new(self.addr(like), port)
    }
}

/// Rule set that allows everything, as for pods that no policy selects.
pub const ALLOW_ALL: RuleSetId = RuleSetId(1);
/// Rule set without a rule.
pub const DENY_ALL: RuleSetId = RuleSetId(2);
/// The uplink's interface index is that of loopback, which every namespace has.
pub const UPLINK: u32 = 1;

/// The loaded programs, their maps, and a namespace with devices.
pub struct Lab {
    bpffs: PrivateBpffs,
    datapath: Datapath,
    programs: [SchedClassifier; 4],
    config: DatapathConfig,
    devices: u32,
}

impl std::fmt::Debug for Lab {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lab")
            .field("bpffs", &self.bpffs)
            .field("devices", &self.devices)
            .finish_non_exhaustive()
    }
}

impl Lab {
    /// Loads the programs; the thread gets namespaces of its own.
    ///
    /// # Panics
    /// When something does not work: the test cannot go on.
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// The same with another configuration.
    ///
    /// # Panics
    /// When something does not work: the test cannot go on.
    pub fn with(change: impl FnOnce(&mut DatapathConfig)) -> Self {
        let mut lab = Self::bare_with(change);
        lab.rule(ALLOW_ALL, Identity::ANY, None, Rule::new(RuleId::NOT_ISOLATED, RuleVerdict::Allow));
        lab
    }

    /// The same with empty maps.
    ///
    /// # Panics
    /// When something does not work: the test cannot go on.
    pub fn bare() -> Self {
        Self::bare_with(|_| {})
    }

    fn bare_with(change: impl FnOnce(&mut DatapathConfig)) -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of the thread's own (needs root)");
        let bpffs = PrivateBpffs::mount();
        let mut config = DatapathConfig::new(bpffs.path().to_owned());
        change(&mut config);
        let datapath = Datapath::load(&config).expect("loading the programs");
        let programs = [Hook::FromPod, Hook::ToPod, Hook::FromNetdev, Hook::ToNetdev]
            .map(|hook| pinned(bpffs.path(), hook));
        Self { bpffs, datapath, programs, config, devices: 0 }
    }

    /// The maps.
    pub fn maps(&mut self) -> &mut Maps {
        self.datapath.maps()
    }

    /// Where the pins are.
    pub fn bpffs(&self) -> &Path {
        self.bpffs.path()
    }

    /// Makes a device and gives its interface index.
    ///
    /// # Panics
    /// When there can be none.
    pub fn device(&mut self) -> u32 {
        self.devices += 1;
        let (name, peer) = (format!("v{}", self.devices), format!("p{}", self.devices));
        ip(&format!("link add {name} type veth peer name {peer}"));
        nix::net::if_::if_nametoindex(name.as_str()).expect("the device just made")
    }

    /// Makes a pod with the addresses 10.1.0.N and fd01::N and its endpoint, allowed everything.
    ///
    /// # Panics
    /// When there can be none.
    pub fn pod(&mut self) -> LabPod {
        let ifindex = self.device();
        let number = self.devices as u8;
        let addrs =
            [IpAddr::from([10, 1, 0, number]), IpAddr::from([0xfd01, 0, 0, 0, 0, 0, 0, u16::from(number)])];
        let pod = LabPod { id: EndpointId(u32::from(number)), ifindex, addrs };
        self.interface(&pod);
        self.put_endpoint(&pod, ALLOW_ALL, ALLOW_ALL);
        pod
    }

    /// Says whose the interface is, which makes nothing pass yet.
    ///
    /// # Panics
    /// When the map refuses.
    pub fn interface(&mut self, pod: &LabPod) {
        self.maps().interfaces.put(&pod.ifindex, &pod.id).expect("an interface");
    }

    /// Puts the pod's rule sets in force.
    ///
    /// # Panics
    /// When the map refuses.
    pub fn put_endpoint(&mut self, pod: &LabPod, ingress: RuleSetId, egress: RuleSetId) {
        let endpoint = Endpoint {
            id: pod.id,
            ifindex: pod.ifindex,
            ingress,
            egress,
            mac: [2, 0, 0, 0, 9, 9],
            ..Endpoint::default()
        };
        for addr in pod.addrs {
            self.maps().endpoints.put(&addr.into(), &endpoint).expect("an endpoint");
        }
    }

    /// Has the pod, which may do everything, audited by these rule sets.
    ///
    /// # Panics
    /// When the map refuses.
    pub fn shadow(&mut self, pod: &LabPod, ingress: RuleSetId, egress: RuleSetId) {
        for addr in pod.addrs {
            let endpoints = &self.maps().endpoints;
            let found = endpoints.get(&addr.into()).expect("the map").expect("an endpoint");
            let flags = found.flags | endpoint_flags::AUDIT;
            let endpoint = Endpoint { shadow_ingress: ingress, shadow_egress: egress, flags, ..found };
            endpoints.put(&addr.into(), &endpoint).expect("an endpoint");
        }
    }

    /// Makes an address the node's own.
    ///
    /// # Panics
    /// When the map refuses.
    pub fn node_address(&mut self, addr: IpAddr) {
        self.host_endpoint(addr, endpoint_flags::HOST);
    }

    /// Makes an address the node's own that takes NodePorts and is what the node translates sources to; `flags` are of
    /// [`sluice_abi::node_flags`].
    ///
    /// # Panics
    /// When a map refuses.
    pub fn node(&mut self, addr: IpAddr, flags: u32) {
        self.host_endpoint(addr, endpoint_flags::HOST | endpoint_flags::NODE_PORT);
        let family = if addr.is_ipv4() { NodeFamily::V4 } else { NodeFamily::V6 };
        let node = NodeAddr { addr: addr.into(), flags };
        self.maps().node.put(&(family as u32), &node).expect("the node's address");
    }

    fn host_endpoint(&mut self, addr: IpAddr, flags: u16) {
        let host = Endpoint { flags, ..Endpoint::default() };
        self.maps().endpoints.put(&addr.into(), &host).expect("an endpoint");
    }

    /// Lets an address see pods' own addresses.
    ///
    /// # Panics
    /// When the map refuses.
    pub fn no_masquerade(&mut self, addr: IpAddr) {
        self.maps().no_masquerade.put(&Prefix::host(addr.into()), &1).expect("a range");
    }

    /// Adds a rule; `ports` is protocol and port, `None` every protocol.
    ///
    /// # Panics
    /// When the map refuses.
    pub fn rule(&mut self, rule_set: RuleSetId, identity: Identity, ports: Option<(u8, u16)>, rule: Rule) {
        let (protocol, port) = ports.unwrap_or_default();
        let key = RuleKey { rule_set, identity, protocol, reserved: 0, port: port.to_be_bytes() };
        let bits = if ports.is_some() { RuleKey::BITS } else { RuleKey::BITS_ANY_PROTOCOL };
        self.maps().rules.put(&RuleRange { key, bits }, &rule).expect("a rule");
    }

    /// Gives an address an identity.
    ///
    /// # Panics
    /// When the map refuses.
    pub fn identity(&mut self, addr: IpAddr, identity: Identity) {
        self.maps().ipcache.put(&addr.into(), &identity).expect("an identity");
    }

    /// Moves the epoch: flows are judged again.
    ///
    /// # Panics
    /// When the map refuses.
    pub fn move_epoch(&mut self) {
        let epoch = self.maps().epoch.get(0).expect("the epoch");
        self.maps().epoch.put(0, &(epoch + 1)).expect("the epoch");
    }

    /// Makes a Service whose backends get the numbers from `first` on, which are its slots too.
    ///
    /// # Panics
    /// When a map refuses.
    pub fn service(&mut self, at: SocketAddr, protocol: u8, backends: &[SocketAddr], first: u32) {
        let frontend = Frontend { first_slot: first, service: ServiceId(1), ..Frontend::default() };
        self.frontend(at, protocol, FrontendScope::Internal, frontend, backends);
    }

    /// Makes a frontend; its backends get the numbers from `frontend.first_slot` on, which are its slots too. A port of
    /// the node is at the unspecified address.
    ///
    /// # Panics
    /// When a map refuses.
    pub fn frontend(
        &mut self,
        at: SocketAddr,
        protocol: u8,
        scope: FrontendScope,
        frontend: Frontend,
        backends: &[SocketAddr],
    ) {
        for (number, backend) in (frontend.first_slot..).zip(backends) {
            let value = Backend {
                addr: backend.ip().into(),
                port: backend.port().to_be_bytes(),
                protocol,
                state: BackendState::Active as u8,
            };
            self.maps().backends.put(&BackendId(number), &value).expect("a backend");
            self.maps().slots.put(number, &BackendId(number)).expect("a slot");
        }
        let key =
            FrontendKey { addr: at.ip().into(), port: at.port().to_be_bytes(), protocol, scope: scope as u8 };
        let frontend = Frontend { count: backends.len() as u32, backends: backends.len() as u32, ..frontend };
        self.maps().note_port(&key).expect("a port");
        self.maps().frontends.put(&key, &frontend).expect("a frontend");
    }

    /// Runs the hook on a packet that came by the interface.
    ///
    /// # Panics
    /// When the kernel cannot run it, or the return value is none that a program gives.
    pub fn run(&self, hook: Hook, ifindex: u32, packet: &[u8]) -> Output {
        self.run_forwarded(hook, ifindex, 0, packet)
    }

    /// Runs the hook on a packet that came by the interface `from`, where the hook is on the way out.
    ///
    /// # Panics
    /// As [`Lab::run`].
    pub fn run_forwarded(&self, hook: Hook, ifindex: u32, from: u32, packet: &[u8]) -> Output {
        let mut out = vec![0; packet.len() + 256];
        let mut context = context(ifindex);
        context[36..40].copy_from_slice(&from.to_ne_bytes());
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let result = self.program(hook).test_run(options).expect("a run of the program");
        out.truncate(result.data_size_out as usize);
        let action = action(result.return_value)
            .unwrap_or_else(|| panic!("{} returned {}", hook.name(), result.return_value));
        Output { action, packet: out }
    }

    /// Runs `from_pod` on what the pod sends.
    ///
    /// # Panics
    /// As [`Lab::run`].
    pub fn from_pod(&self, pod: &LabPod, packet: &[u8]) -> Output {
        self.run(Hook::FromPod, pod.ifindex, packet)
    }

    /// Loads the program of XDP.
    ///
    /// # Panics
    /// When the kernel refuses it.
    pub fn xdp(&mut self) -> Xdp {
        let xdp = XdpConfig { mode: XdpMode::Native, on_veth: true };
        self.datapath.use_xdp(&self.config, Some(xdp)).expect("loading the program of XDP");
        let pin = programs(self.bpffs.path()).join("xdp_netdev");
        Xdp::from_pin(pin, XdpAttachType::Interface).expect("a pinned program")
    }

    /// Packets dropped for a reason.
    ///
    /// # Panics
    /// When the counter cannot be read.
    pub fn dropped(&mut self, reason: DropReason) -> u64 {
        self.maps().counters.dropped(reason).expect("a counter").packets
    }

    /// The program of a hook.
    pub fn program(&self, hook: Hook) -> &SchedClassifier {
        match hook {
            Hook::FromPod => &self.programs[0],
            Hook::ToPod => &self.programs[1],
            Hook::FromNetdev => &self.programs[2],
            Hook::ToNetdev => &self.programs[3],
        }
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

/// The mapped address.
pub fn addr(ip: IpAddr) -> Addr {
    ip.into()
}

/// Runs `ip` in the thread's namespace.
///
/// # Panics
/// When it fails.
pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("running ip");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn pinned(bpffs: &Path, hook: Hook) -> SchedClassifier {
    SchedClassifier::from_pin(programs(bpffs).join(hook.name())).expect("a pinned program")
}

/// Where the programs are pinned.
fn programs(bpffs: &Path) -> PathBuf {
    let folder = sluice_maps::pin_dir(bpffs).join("programs");
    let digest = std::fs::read_dir(&folder)
        .expect("the folder of programs")
        .next()
        .expect("programs")
        .expect("a folder");
    digest.path()
}

/// What the program of XDP made of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum XdpAction {
    /// Dropped.
    Drop,
    /// On to tc.
    Pass,
    /// Sent out of the device it came by.
    Turn,
}

/// Runs the program of XDP on a packet that came by the interface; gives its decision and the packet as it left.
///
/// # Panics
/// When the kernel cannot run it, or the return value is none that the program gives.
pub fn run_xdp(program: &Xdp, ifindex: u32, packet: &[u8]) -> (XdpAction, Vec<u8>) {
    let mut out = vec![0; packet.len() + 256];
    let context = xdp_context(ifindex, packet.len());
    let options = TestRunOptions {
        data_in: Some(packet),
        data_out: Some(&mut out),
        ctx_in: Some(&context),
        ..TestRunOptions::default()
    };
    let result = program.test_run(options).expect("a run of the program");
    out.truncate(result.data_size_out as usize);
    (xdp_action(result.return_value).expect("a decision of the program"), out)
}

/// What a return value of XDP means (`enum xdp_action`, `linux/bpf.h`); none for one that the program does not give.
pub fn xdp_action(return_value: u32) -> Option<XdpAction> {
    match return_value {
        1 => Some(XdpAction::Drop),
        2 => Some(XdpAction::Pass),
        3 => Some(XdpAction::Turn),
        _ => None,
    }
}

/// A `struct xdp_md` (`linux/bpf.h`) of a packet of so many bytes that came by the interface.
pub fn xdp_context(ifindex: u32, len_bytes: usize) -> [u8; 24] {
    let mut context = [0; 24];
    context[4..8].copy_from_slice(&(len_bytes as u32).to_ne_bytes());
    context[12..16].copy_from_slice(&ifindex.to_ne_bytes());
    context
}

/// What a program's return value means (`TC_ACT_*`, `linux/pkt_cls.h`); none for one that no program gives.
pub fn action(return_value: u32) -> Option<Action> {
    match return_value as i32 {
        2 => Some(Action::Drop),
        -1 => Some(Action::Stack),
        7 => Some(Action::Redirect),
        _ => None,
    }
}

/// A `struct __sk_buff` (`linux/bpf.h`) up to and with `ifindex`, the only field that is not zero; `ingress_ifindex` is
/// before it.
pub fn context(ifindex: u32) -> [u8; 44] {
    let mut context = [0; 44];
    context[40..].copy_from_slice(&ifindex.to_ne_bytes());
    context
}
