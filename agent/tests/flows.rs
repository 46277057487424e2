//! Forgetting flows in real tables. Needs root.

use std::collections::BTreeSet;

use sluice_abi::{
    Addr, Backend, BackendId, BackendState, CtEntry, CtState, Endpoint, FlowKey, Frontend, FrontendKey,
    FrontendScope, Tuple, flow_flags, protocol,
};
use sluice_agent::datapath::{Swept, purge, sweep};
use sluice_maps::{Maps, testing::PrivateBpffs};

/// From pod `pod` to somewhere else.
fn tuple(pod: u8, port: u16) -> Tuple {
    Tuple {
        src: Addr::v4([10, 244, 1, pod]),
        dst: Addr::v4([192, 0, 2, 9]),
        src_port: port.to_be_bytes(),
        dst_port: [0, 80],
        protocol: protocol::TCP,
        ..Tuple::default()
    }
}

/// What a masqueraded flow looks like elsewhere: another address, and a port of its own.
fn foreign(of: &Tuple) -> Tuple {
    Tuple { src: Addr::v4([198, 51, 100, 1]), src_port: [250, of.src.v4_octets()[3]], ..*of }
}

/// A flow that is seen as `other` elsewhere.
fn flow(tuple: &Tuple, other: &Tuple, last_seen_ns: u64) -> (FlowKey, CtEntry) {
    let state = CtState::Established as u8;
    (FlowKey::of(tuple).0, CtEntry { last_seen_ns, other: *other, state, ..CtEntry::default() })
}

/// The entry under the other tuple, which leads to the flow.
fn alias(of: &Tuple) -> (FlowKey, CtEntry) {
    let entry = CtEntry { other: *of, flags: flow_flags::ALIAS, ..CtEntry::default() };
    (FlowKey::of(&foreign(of)).0, entry)
}

fn masqueraded(tuple: &Tuple, last_seen_ns: u64) -> [(FlowKey, CtEntry); 2] {
    [flow(tuple, &foreign(tuple), last_seen_ns), alias(tuple)]
}

#[test]
fn flows_of_all_departed_addresses_go_in_one_pass_with_their_aliases() {
    let bpffs = PrivateBpffs::mount();
    let maps = Maps::create(bpffs.path()).expect("maps");
    for pod in 1..=3 {
        for (key, entry) in masqueraded(&tuple(pod, 1), 0) {
            maps.ct_confirmed.put(&key, &entry).expect("put");
        }
        let incoming = tuple(pod, 2).reversed();
        let (key, entry) = flow(&incoming, &incoming, 0);
        maps.ct_half_open.put(&key, &entry).expect("put");
    }
    let departed = BTreeSet::from([1, 3].map(|pod| Addr::v4([10, 244, 1, pod])));
    assert_eq!(purge(&maps, &departed).expect("purged"), 6);
    assert_eq!(maps.ct_confirmed.count().expect("a count"), 2, "the other pod's flow and its alias");
    assert_eq!(maps.ct_half_open.count().expect("a count"), 1);
}

#[test]
fn expired_flows_go_with_their_aliases_and_live_ones_stay() {
    let bpffs = PrivateBpffs::mount();
    let maps = Maps::create(bpffs.path()).expect("maps");
    let now_ns = 100_000 << 30;
    for (pod, last_seen_ns) in [(1, now_ns), (2, 0)] {
        for (key, entry) in masqueraded(&tuple(pod, 1), last_seen_ns) {
            maps.ct_confirmed.put(&key, &entry).expect("put");
        }
    }
    // An alias is dead as soon as its flow is, which may be looked at later: the next sweep has it at the latest.
    let first = sweep(&maps, now_ns).expect("swept");
    let second = sweep(&maps, now_ns).expect("swept");
    assert_eq!((first.live, first.deleted + second.deleted), (1, 2));
    assert_eq!(sweep(&maps, now_ns).expect("swept"), Swept { live: 1, deleted: 0 });
    assert_eq!(maps.ct_confirmed.count().expect("a count"), 2);
}

#[test]
fn an_alias_goes_when_its_flow_goes_by_another_name() {
    let bpffs = PrivateBpffs::mount();
    let maps = Maps::create(bpffs.path()).expect("maps");
    let (key, entry) = alias(&tuple(1, 1));
    maps.ct_confirmed.put(&key, &entry).expect("put");
    let (key, entry) = flow(&tuple(1, 1), &tuple(1, 1), 0);
    maps.ct_confirmed.put(&key, &entry).expect("put");
    assert_eq!(sweep(&maps, 1).expect("swept"), Swept { live: 1, deleted: 1 });
}

#[test]
fn udp_flows_on_a_backend_that_left_their_service_for_others_go_with_their_aliases() {
    let bpffs = PrivateBpffs::mount();
    let maps = Maps::create(bpffs.path()).expect("maps");
    let now_ns = 100_000 << 30;
    let [here, elsewhere, ending] = [7, 8, 9].map(BackendId);
    for (id, state) in
        [(here, BackendState::Active), (elsewhere, BackendState::Active), (ending, BackendState::Terminating)]
    {
        let addr = Addr::v4([10, 244, 2, id.0 as u8]);
        let backend = Backend { addr, protocol: protocol::UDP, state: state as u8, port: [0, 53] };
        maps.backends.put(&id, &backend).expect("put");
    }
    maps.slots.put(3, &here).expect("put");
    // What a pod asks, what a client outside asks of any own address, and a Service that is gone.
    let frontend = Frontend { first_slot: 3, count: 1, backends: 1, ..Frontend::default() };
    let vip = Addr::v4([10, 96, 0, 1]);
    for (addr, scope) in [(vip, FrontendScope::Internal), (FrontendKey::NODE_V4, FrontendScope::External)] {
        let key = FrontendKey { addr, port: [0, 53], protocol: protocol::UDP, scope: scope as u8 };
        maps.frontends.put(&key, &frontend).expect("put");
    }
    maps.endpoints.put(&Addr::v4([10, 244, 1, 1]), &Endpoint::default()).expect("put");
    for (client, service) in [
        ([10, 244, 1, 1], [10, 96, 0, 1]),
        ([198, 51, 100, 9], [192, 0, 2, 1]),
        ([10, 244, 1, 1], [10, 96, 0, 99]),
    ] {
        for backend in [here, elsewhere, ending] {
            let sent = Tuple {
                src: Addr::v4(client),
                dst: Addr::v4(service),
                src_port: [4, backend.0 as u8],
                dst_port: [0, 53],
                protocol: protocol::UDP,
                ..Tuple::default()
            };
            let at = Addr::v4([10, 244, 2, backend.0 as u8]);
            let direct = Tuple { dst: at, src_port: [service[3], backend.0 as u8], ..sent };
            let (key, is_forward) = FlowKey::of(&sent);
            let orientation = if is_forward { flow_flags::OPENER_IS_KEY_SRC } else { 0 };
            let flags = flow_flags::ALIAS | orientation;
            let alias = CtEntry { other: direct, backend, flags, ..CtEntry::default() };
            maps.ct_confirmed.put(&key, &alias).expect("put");
            let (key, entry) = flow(&direct, &sent, now_ns);
            maps.ct_confirmed.put(&key, &entry).expect("put");
        }
    }
    // Of the Service that is gone both that take new flows, of the others the one that does so elsewhere.
    let first = sweep(&maps, now_ns).expect("swept");
    let second = sweep(&maps, now_ns).expect("swept");
    assert_eq!((second.live, first.deleted + second.deleted), (9, 4), "answers under way find their flows");
}
