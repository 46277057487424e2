//! Forgetting flows in real tables. Needs root.

use std::collections::BTreeSet;

use sluice_abi::{Addr, CtEntry, CtState, FlowKey, Tuple, flow_flags, protocol};
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
