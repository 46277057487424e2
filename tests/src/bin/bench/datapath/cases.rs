//! The packets that are measured, and the world they are in.

use std::net::{IpAddr, SocketAddr};

use aya::programs::Xdp;
use sluice_abi::{Frontend, FrontendScope, Hook, Identity, Rule, RuleId, RuleSetId, RuleVerdict, protocol};
use sluice_tests::{
    lab::{ALLOW_ALL, Action, DENY_ALL, Lab, LabPod, UPLINK, ip},
    packet,
};

use super::wrapper::Target;

/// Whether every packet belongs to the same flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Packets {
    Same,
    Fresh,
}

/// One figure to measure.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) budget: Option<f64>,
    pub(super) hook: Hook,
    /// In XDP, before the hook.
    pub(super) in_xdp: bool,
    pub(super) ifindex: u32,
    pub(super) packet: Vec<u8>,
    pub(super) packets: Packets,
    /// Many runs go before the first that counts.
    pub(super) warm_up: bool,
    pub(super) action: Action,
}

/// Two pods that allow everything and one that nothing may reach, a Service with ports of the node, a route to another node.
pub(super) struct World {
    lab: Lab,
    client: LabPod,
    server: LabPod,
    closed: LabPod,
    xdp: Xdp,
}

/// A pod of another node, in each family.
const REMOTE: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 200)),
    IpAddr::V6(std::net::Ipv6Addr::new(0xfd02, 0, 0, 0, 0, 0, 0, 200)),
];
/// The Service's address, in each family.
const CLUSTER_IP: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 10)),
    IpAddr::V6(std::net::Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 10)),
];
const CLIENT_PORT: u16 = 40_000;
const PORT: u16 = 8000;
const SERVICE_PORT: u16 = 80;
/// The node, in each family.
const NODE: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 7, 1)),
    IpAddr::V6(std::net::Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1)),
];
const NODE_PORT: u16 = 30_080;
/// What the client is to others.
const CLIENT: Identity = Identity(50);
/// Rule sets × identities × 1 port = 100 000 rules.
const MANY_SETS: u32 = 1000;
const MANY_IDENTITIES: u32 = 100;
const FIRST_SET: u32 = 100;
const FIRST_IDENTITY: u32 = 16;

impl World {
    pub(super) fn new() -> Self {
        let mut lab = Lab::new();
        let (client, server, closed) = (lab.pod(), lab.pod(), lab.pod());
        lab.put_endpoint(&closed, DENY_ALL, ALLOW_ALL);
        for addr in client.addrs {
            lab.identity(addr, CLIENT);
        }
        route(client.ifindex);
        for (number, vip) in (1..).zip(CLUSTER_IP) {
            lab.service(SocketAddr::new(vip, SERVICE_PORT), protocol::TCP, &[server.at(vip, PORT)], number);
        }
        let xdp = lab.xdp();
        Self { lab, client, server, closed, xdp }
    }

    /// What the case measures.
    pub(super) fn target(&self, case: &Case) -> Target<'_> {
        if case.in_xdp { Target::Xdp(&self.xdp) } else { Target::Hook(self.lab.program(case.hook)) }
    }

    /// All cases with the few rules that there are.
    pub(super) fn cases(&mut self) -> Vec<Case> {
        let (client, server, closed) = (self.client, self.server, self.closed);
        let mut cases = Vec::new();
        for (family, like) in [("v4", REMOTE[0]), ("v6", REMOTE[1])] {
            let vip =
                SocketAddr::new(if like.is_ipv4() { CLUSTER_IP[0] } else { CLUSTER_IP[1] }, SERVICE_PORT);
            let remote = SocketAddr::new(like, PORT);
            let direct = self.establish(server.at(like, PORT), CLIENT_PORT);
            let translated = self.establish(vip, CLIENT_PORT + 1);
            let routed = self.establish(remote, CLIENT_PORT + 2);
            let from_client = |name: &str, budget, packet| {
                case(format!("{name}, {family}"), budget, Hook::FromPod, client.ifindex, packet)
            };
            cases.push(from_client("pod → pod, same node, established", Some(150.0), direct.packet.clone()));
            cases.push(from_client("pod → ClusterIP, established", Some(200.0), translated.packet));
            cases.push(case(
                format!("its reply, {family}"),
                Some(200.0),
                Hook::FromPod,
                server.ifindex,
                translated.reply,
            ));
            cases.push(from_client("pod → pod, other node, established", None, routed.packet));
            cases.push(case(format!("its reply, {family}"), None, Hook::FromNetdev, UPLINK, routed.reply));
            let mut to_pod = case(
                format!("node → pod, {family}"),
                None,
                Hook::ToPod,
                server.ifindex,
                packet::tcp(remote, server.at(like, PORT), "A"),
            );
            to_pod.action = Action::Stack;
            cases.push(to_pod);
            cases.push(self.dropped("policy drop of a new flow", 230.0, &closed, like));
            cases.push(self.opened("new flow, allowed", &server, PORT + 1, like));
            let mut service = from_client("new flow to a ClusterIP", None, self.syn(vip));
            service.packets = Packets::Fresh;
            cases.push(service);
            cases.extend(self.at_the_edge(like));
        }
        cases
    }

    /// What comes in and goes out by the uplink: Services' and the node's own.
    fn at_the_edge(&mut self, like: IpAddr) -> [Case; 7] {
        let (node, family) = (if like.is_ipv4() { NODE[0] } else { NODE[1] }, family(like));
        self.lab.node(node, 0);
        let (server, remote) = (self.server.at(like, PORT), SocketAddr::new(like, PORT));
        let client = SocketAddr::new(like, CLIENT_PORT);
        let any = if like.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        for (number, backend) in (0..).zip([server, remote]) {
            let first_slot = 100 + 2 * number + u32::from(like.is_ipv4());
            let frontend = Frontend { first_slot, ..Frontend::default() };
            let at = SocketAddr::new(any, NODE_PORT + number as u16);
            self.lab.frontend(at, protocol::TCP, FrontendScope::External, frontend, &[backend]);
        }
        let uplink = nix::net::if_::if_nametoindex("up0").expect("the uplink");
        let network =
            |name: &str, packet| case(format!("{name}, {family}"), None, Hook::FromNetdev, uplink, packet);
        let run = |packet: &[u8]| {
            let output = self.lab.run(Hook::FromNetdev, uplink, packet);
            assert_eq!(output.action, Action::Redirect, "a flow to a port of the node");
            packet::tuple(&output.packet)
        };
        let send = |number, flags| packet::tcp(client, SocketAddr::new(node, NODE_PORT + number), flags);
        run(&send(0, "S"));
        let masked = run(&send(1, "S"));
        self.lab.from_pod(&self.server, &packet::tcp(server, client, "SA"));
        run(&packet::tcp(remote, masked.src, "SA"));
        for number in [0, 1] {
            run(&send(number, "A"));
        }
        let mut cases = [
            network("network → NodePort, pod of this node, established", send(0, "A")),
            network("network → NodePort, pod of another node, established", send(1, "A")),
            network("its reply", packet::tcp(remote, masked.src, "A")),
            network("network → node, no Service", packet::tcp(client, SocketAddr::new(node, 22), "A")),
            network("node → network, no Service", packet::tcp(SocketAddr::new(node, 22), client, "A")),
            network("XDP: network → NodePort, pod of another node, established", send(1, "A")),
            network("XDP: its reply", packet::tcp(remote, masked.src, "A")),
        ];
        let [.., inwards, outwards, turned, answered] = &mut cases;
        for case in [turned, answered] {
            (case.in_xdp, case.budget) = (true, Some(200.0));
        }
        outwards.hook = Hook::ToNetdev;
        inwards.action = Action::Stack;
        outwards.action = Action::Stack;
        cases
    }

    /// The cases that depend on rules, with 100 000 of them: 1000 rule sets that know 100 peers each.
    pub(super) fn with_many_rules(&mut self) -> Vec<Case> {
        let allow = Rule::new(RuleId(RuleId::FIRST), RuleVerdict::Allow);
        for set in FIRST_SET..FIRST_SET + MANY_SETS {
            for identity in FIRST_IDENTITY..FIRST_IDENTITY + MANY_IDENTITIES {
                let port = 1024 + (set.wrapping_mul(31) + identity) % 4096;
                self.lab.rule(RuleSetId(set), Identity(identity), Some((protocol::TCP, port as u16)), allow);
            }
        }
        let middle = RuleSetId(FIRST_SET + MANY_SETS / 2);
        self.lab.rule(middle, CLIENT, Some((protocol::TCP, PORT + 1)), allow);
        let closed = self.closed;
        self.lab.put_endpoint(&closed, middle, ALLOW_ALL);
        REMOTE
            .into_iter()
            .flat_map(|like| {
                [
                    self.dropped("policy drop at 100 000 rules", 450.0, &closed, like),
                    self.opened("new flow, allowed, at 100 000 rules", &closed, PORT + 1, like),
                ]
            })
            .collect()
    }

    fn dropped(&self, name: &str, budget: f64, by: &LabPod, like: IpAddr) -> Case {
        let packet = self.syn(by.at(like, PORT));
        let name = format!("{name}, {}", family(like));
        let case = case(name, Some(budget), Hook::FromPod, self.client.ifindex, packet);
        Case { action: Action::Drop, warm_up: true, ..case }
    }

    fn opened(&self, name: &str, to: &LabPod, port: u16, like: IpAddr) -> Case {
        let packet = self.syn(to.at(like, port));
        let name = format!("{name}, {}", family(like));
        let case = case(name, None, Hook::FromPod, self.client.ifindex, packet);
        Case { packets: Packets::Fresh, ..case }
    }

    fn syn(&self, to: SocketAddr) -> Vec<u8> {
        packet::tcp(self.client.at(to.ip(), CLIENT_PORT), to, "S")
    }

    /// Opens a flow from the client; gives a packet of it and its reply, as they are sent.
    fn establish(&self, to: SocketAddr, client_port: u16) -> Flow {
        let from = self.client.at(to.ip(), client_port);
        let syn = self.lab.from_pod(&self.client, &packet::tcp(from, to, "S"));
        assert_eq!(syn.action, Action::Redirect, "SYN to {to}");
        let got = packet::tuple(&syn.packet);
        let answer = packet::tcp(got.dst, got.src, "SA");
        let answered = if REMOTE.contains(&to.ip()) {
            self.lab.run(Hook::FromNetdev, UPLINK, &answer)
        } else {
            self.lab.from_pod(&self.server, &answer)
        };
        assert_eq!(answered.action, Action::Redirect, "SYN-ACK from {to}");
        let packet = packet::tcp(from, to, "A");
        assert_eq!(self.lab.from_pod(&self.client, &packet).action, Action::Redirect, "ACK to {to}");
        Flow { packet, reply: packet::tcp(got.dst, got.src, "A") }
    }
}

struct Flow {
    packet: Vec<u8>,
    reply: Vec<u8>,
}

fn case(name: String, budget: Option<f64>, hook: Hook, ifindex: u32, packet: Vec<u8>) -> Case {
    let (packets, action) = (Packets::Same, Action::Redirect);
    Case { name, budget, hook, in_xdp: false, ifindex, packet, packets, warm_up: false, action }
}

fn family(like: IpAddr) -> &'static str {
    if like.is_ipv4() { "v4" } else { "v6" }
}

/// Gives the thread's namespace an uplink and a route to the other node.
fn route(pod: u32) {
    for line in [
        "link set lo up",
        "link add up0 type veth peer name up1",
        "link set up0 up",
        "link set up1 up",
        "addr add 192.168.7.1/24 dev up0",
        "addr add fd77::1/64 dev up0 nodad",
        "route add 10.1.0.128/25 via 192.168.7.2",
        "route add fd02::/64 via fd77::2",
        "neigh add 192.168.7.2 lladdr 02:00:00:00:00:07 dev up0",
        "neigh add fd77::2 lladdr 02:00:00:00:00:07 dev up0",
    ] {
        ip(line);
    }
    let name = nix::net::if_::if_indextoname(pod).expect("the pod's device");
    let name = name.to_str().expect("an interface's name is ASCII here");
    for family in ["ipv4", "ipv6"] {
        for name in [name, "up0"] {
            let path = format!("/proc/sys/net/{family}/conf/{name}/forwarding");
            std::fs::write(path, "1").expect("turning forwarding on");
        }
    }
    ip(&format!("link set {name} up"));
}
