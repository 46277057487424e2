//! What the loaded programs do is what the API's text says: random clusters and packets, the same as the compiled model is held
//! to in `agent/core/tests/policy`, judged by the same oracle.
//!
//! `SLUICE_POLICY_CASES` is the number of packets.

#[path = "../../agent/core/tests/policy/flow.rs"]
mod flow;
#[path = "../../agent/core/tests/policy/oracle/mod.rs"]
mod oracle;
#[path = "../../agent/core/tests/policy/world.rs"]
mod world;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use flow::Packet;
use oracle::Corners;
use serde_json::Value;
use sluice_abi::{Hook, protocol};
use sluice_agent::apply::{apply, read_actual};
use sluice_core::{
    cluster::NodeName,
    compile::Compiler,
    diff::{Limits, Rejection, diff},
};
use sluice_tests::{
    lab::{Action, Lab, UPLINK},
    packet,
};
use world::{Chance, LOCAL, NODE};

/// Packets for each cluster.
const PACKETS: u64 = 40;

/// The first source port of packets: none of them is a destination port, so no flow looks like a reply.
const FIRST_PORT: u16 = 20_000;

/// A protocol without ports.
const GRE: u8 = 47;

/// Switches the programs to a cluster of these objects.
fn load(lab: &mut Lab, devices: &[u32], objects: &[Value]) {
    let mut compiler = Compiler::new(NodeName(NODE.to_owned()));
    for change in world::changes(objects, |number| devices[number]) {
        // Some policies make no sense.
        let _rejected = compiler.apply(change);
    }
    let maps = lab.maps();
    let actual = read_actual(maps).expect("reading the maps");
    let outcome = diff(compiler.desired(), &actual, &Limits::default());
    let is_tied = |rejection: &Rejection| matches!(rejection, Rejection::Tied { .. });
    assert!(outcome.rejected.iter().all(is_tied), "{:?}", outcome.rejected);
    apply(&outcome.plan, maps).expect("applying the plan");
}

/// The pod of this node that has an address.
fn local(objects: &[Value], addr: IpAddr) -> Option<usize> {
    let oracle = oracle::Oracle { objects };
    let pod = oracle.pod_at(addr)?;
    (0..LOCAL).find(|number| pod["metadata"]["name"] == format!("pod-{number}"))
}

/// Whether a packet of a flow of its own passes.
fn passes(lab: &Lab, devices: &[u32], objects: &[Value], probe: &Packet, source_port: u16) -> bool {
    let (from, to) = (SocketAddr::new(probe.src, source_port), SocketAddr::new(probe.dst, probe.port));
    let bytes = match probe.protocol {
        protocol::TCP => packet::tcp(from, to, "S"),
        protocol::UDP => packet::udp(from, to),
        protocol::SCTP => packet::sctp(from, to),
        protocol::ICMP | protocol::ICMPV6 => packet::ping(probe.src, probe.dst, source_port),
        other => packet::other(probe.src, probe.dst, other),
    };
    let (hook, ifindex) = match local(objects, probe.src) {
        Some(number) => (Hook::FromPod, devices[number]),
        None => (Hook::FromNetdev, UPLINK),
    };
    lab.run(hook, ifindex, &bytes).action != Action::Drop
}

/// How many flows audited policies would have dropped.
fn would_drop(lab: &mut Lab) -> u64 {
    lab.maps().counters.would_drop().expect("the counters")
}

/// Whether the packet can be on a wire here: an address of this node's own comes from no device.
fn is_on_a_wire(objects: &[Value], probe: &Packet) -> bool {
    let own = ["192.168.0.1", "fd99::1"].map(|text| text.parse::<IpAddr>().expect("an address"));
    let has_local = local(objects, probe.src).is_some() || local(objects, probe.dst).is_some();
    has_local && !own.contains(&probe.src)
}

#[test]
fn the_loaded_programs_do_what_the_api_says() {
    let cases = std::env::var("SLUICE_POLICY_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000);
    let mut lab = Lab::bare();
    let devices: Vec<u32> = (0..LOCAL).map(|_| lab.device()).collect();
    let (mut corners, mut source_port) = (Corners::new(), FIRST_PORT);
    let (mut asked, mut allowed, mut audited) = (0u64, 0u64, 0u64);
    let mut portless = BTreeSet::new();
    let mut seed = 0;
    while asked < cases {
        let mut chance = Chance::new(seed);
        let objects = world::objects(&mut chance);
        let enforced = oracle::enforced(&objects);
        load(&mut lab, &devices, &objects);
        let probes: Vec<_> = (0..PACKETS).map(|_| world::packet(&mut chance)).collect();
        for probe in probes.into_iter().filter(|probe| is_on_a_wire(&objects, probe)) {
            // Without ports every packet between two addresses is of one flow, whoever opened it, and none is masqueraded.
            let ends = (probe.src.min(probe.dst), probe.src.max(probe.dst));
            let stays = local(&objects, probe.dst).is_some();
            if probe.protocol == GRE && !(stays && portless.insert(ends)) {
                continue;
            }
            source_port = source_port.checked_add(1).unwrap_or(FIRST_PORT);
            let passes_by_api = flow::allows(&enforced, NODE, &probe, &mut corners);
            let audits = !flow::allows(&objects, NODE, &probe, &mut Corners::new());
            let wanted = (passes_by_api, passes_by_api && audits);
            let before = would_drop(&mut lab);
            let found = passes(&lab, &devices, &objects, &probe, source_port);
            let found = (found, would_drop(&mut lab) > before);
            if found != wanted {
                let text: Vec<String> = objects.iter().map(Value::to_string).collect();
                panic!(
                    "seed {seed}: {probe:?}: (passes, would drop) {found:?}, by the API {wanted:?}, in\n{}",
                    text.join("\n")
                );
            }
            asked += 1;
            allowed += u64::from(wanted.0);
            audited += u64::from(wanted.1);
        }
        seed += 1;
    }
    eprintln!("{asked} packets in {seed} clusters, {allowed} allowed, {audited} of them would be dropped");
    corners.iter().for_each(|(corner, count)| eprintln!("{count:>9}  {corner}"));
    assert!((asked * 3 / 10..=asked * 7 / 10).contains(&allowed), "{allowed} of {asked} allowed");
    assert!(audited > asked / 100, "{audited} of {asked} audited");
}
