//! The handles against the real kernel. Needs root.

use std::fs;

use aya::maps::MapData;
use sluice_abi::{
    Addr, BackendId, Counter, CtEntry, DropReason, Endpoint, EndpointId, FlowKey, Identity, Prefix, Rule,
    RuleId, RuleKey, RuleSetId, RuleVerdict, Tuple,
    maps::{self as specs, Numbers},
    protocol,
};
use sluice_maps::{Maps, MapsError, RuleRange, grace_period, pin_dir, pins, testing::PrivateBpffs};

#[test]
fn what_was_created_opens_again_with_its_content() {
    let bpffs = PrivateBpffs::mount();
    assert!(matches!(Maps::open(bpffs.path()), Err(MapsError::Missing { map: "ENDPOINTS", .. })));
    let first = Maps::create(bpffs.path()).expect("create");
    let addr = Addr::v4([10, 0, 0, 1]);
    let endpoint = Endpoint { id: EndpointId(7), ifindex: 3, ..Endpoint::default() };
    first.endpoints.put(&addr, &endpoint).expect("put");
    drop(first);
    for maps in [Maps::open(bpffs.path()).expect("open"), Maps::create(bpffs.path()).expect("create again")] {
        assert_eq!(maps.endpoints.get(&addr).expect("get"), Some(endpoint));
        assert_eq!(maps.endpoints.entries().expect("entries"), [(addr, endpoint)]);
        for spec in specs::ALL {
            assert!(maps.pin_path(spec).exists(), "{}", spec.name);
        }
    }
}

#[test]
fn a_set_that_was_left_half_made_is_completed() {
    let bpffs = PrivateBpffs::mount();
    let maps = Maps::create(bpffs.path()).expect("create");
    maps.epoch.put(0, &5).expect("put");
    for spec in specs::ALL.iter().filter(|spec| spec.name != "EPOCH") {
        fs::remove_file(maps.pin_path(spec)).expect("unpin");
    }
    let again = Maps::create(bpffs.path()).expect("complete");
    assert_eq!(again.epoch.get(0).expect("get"), 5, "what was there is kept");
}

#[test]
fn a_map_of_another_shape_is_named_with_what_differs() {
    let bpffs = PrivateBpffs::mount();
    fs::create_dir_all(pin_dir(bpffs.path())).expect("mkdir");
    let spec = &specs::IPCACHE;
    let create = |map_type, key, value, entries, flags| {
        let path = pins::pin_path(bpffs.path(), spec);
        let _ = fs::remove_file(&path);
        let shape = aya_obj::Map::new_from_params(map_type, key, value, entries, flags);
        MapData::create(shape, "other", None).expect("create").pin(&path).expect("pin");
        let error = Maps::create(bpffs.path()).expect_err("another shape");
        error.to_string().split_once(" has ").expect("the difference").1.to_owned()
    };
    assert_eq!(create(9, 16, 4, 131_072, 0), "type 9, wanted 1");
    assert_eq!(create(1, 4, 4, 131_072, 1), "key size 4, wanted 16");
    assert_eq!(create(1, 16, 8, 131_072, 1), "value size 8, wanted 4");
    assert_eq!(create(1, 16, 4, 1000, 1), "capacity 1000, wanted 131072");
    assert_eq!(create(1, 16, 4, 131_072, 0), "flags 0, wanted 1");
}

#[test]
fn a_folder_that_is_no_bpf_file_system_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let error = Maps::create(dir.path()).expect_err("not a bpf file system");
    assert!(matches!(error, MapsError::NotBpffs { ref path } if path == dir.path()), "{error}");
    assert!(fs::read_dir(dir.path()).expect("list").next().is_none(), "nothing was made");
}

#[test]
fn entries_of_a_trie_are_found_by_their_longest_prefix() {
    let bpffs = PrivateBpffs::mount();
    let maps = Maps::create(bpffs.path()).expect("create");
    let (wide, narrow) =
        (Prefix::new(Addr::v4([10, 0, 0, 0]), 104), Prefix::new(Addr::v4([10, 1, 0, 0]), 112));
    maps.ipcache_cidrs.put(&wide, &Identity(20)).expect("put");
    maps.ipcache_cidrs.put(&narrow, &Identity(21)).expect("put");
    let ask = |addr| maps.ipcache_cidrs.get(&Prefix::host(addr)).expect("get");
    assert_eq!(ask(Addr::v4([10, 1, 2, 3])), Some(Identity(21)));
    assert_eq!(ask(Addr::v4([10, 2, 2, 3])), Some(Identity(20)));
    assert_eq!(ask(Addr::v4([11, 0, 0, 0])), None);
    assert!(maps.ipcache_cidrs.delete(&narrow).expect("delete"));
    assert!(!maps.ipcache_cidrs.delete(&narrow).expect("delete what is gone"));
    assert_eq!(ask(Addr::v4([10, 1, 2, 3])), Some(Identity(20)));
}

#[test]
fn a_full_map_says_so_with_its_capacity() {
    let bpffs = PrivateBpffs::mount();
    let maps = Maps::create(bpffs.path()).expect("create");
    let capacity = specs::INTERFACES.max_entries;
    for ifindex in 0..capacity {
        maps.interfaces.put(&ifindex, &EndpointId(ifindex)).expect("put");
    }
    let error = maps.interfaces.put(&capacity, &EndpointId(1)).expect_err("one too many");
    assert_eq!(error.to_string(), "putting 4096 into map INTERFACES: map full (capacity 4096)");
    maps.interfaces.put(&0, &EndpointId(9)).expect("replacing needs no room");
    for index in 0..specs::IPCACHE_CIDRS.max_entries {
        let [_, _, high, low] = index.to_be_bytes();
        maps.ipcache_cidrs.put(&Prefix::new(Addr::v4([10, high, low, 0]), 120), &Identity(16)).expect("put");
    }
    let error = maps.ipcache_cidrs.put(&Prefix::new(Addr::v4([11, 0, 0, 0]), 120), &Identity(16));
    assert!(matches!(error, Err(MapsError::Full { capacity: 65_536, .. })), "{error:?}");
}

#[test]
fn a_hundred_thousand_rules_are_read_back_whole() {
    let bpffs = PrivateBpffs::mount();
    let maps = Maps::create(bpffs.path()).expect("create");
    for index in 0..100_000u32 {
        let port = (index as u16).to_be_bytes();
        let (rule_set, identity) = (RuleSetId(1 + index / 1000), Identity(16 + index % 7));
        let key = RuleKey { rule_set, identity, protocol: protocol::TCP, reserved: 0, port };
        let rule = Rule::new(RuleId(16 + index), RuleVerdict::Allow);
        maps.rules.put(&RuleRange { key, bits: RuleKey::BITS }, &rule).expect("put");
    }
    let rules = maps.rules.entries().expect("entries");
    assert_eq!(rules.len(), 100_000);
    let mut ids: Vec<_> = rules.iter().map(|(_, rule)| rule.id.0).collect();
    ids.sort_unstable();
    assert!(ids.iter().copied().eq(16..100_016), "every rule once");
}

#[test]
fn a_full_hash_is_read_once_and_whole() {
    let bpffs = PrivateBpffs::mount();
    let maps = Maps::create(bpffs.path()).expect("create");
    for index in 0..50_000u32 {
        let [a, b, c, d] = index.to_be_bytes();
        let src = Addr::v4([10 + a, b, c, d]);
        let tuple = Tuple { src, dst: Addr::v4([10, 9, 9, 9]), protocol: protocol::TCP, ..Tuple::default() };
        let entry = CtEntry { created_ns: u64::from(index), ..CtEntry::default() };
        maps.ct_confirmed.put(&FlowKey::of(&tuple).0, &entry).expect("put");
    }
    let mut seen: Vec<_> = Vec::new();
    maps.ct_confirmed.for_each(|_, entry| seen.push(entry.created_ns)).expect("walk");
    seen.sort_unstable();
    assert!(seen.iter().copied().eq(0..50_000));
    assert_eq!(maps.ct_half_open.count().expect("count"), 0);
}

#[test]
fn words_are_zero_until_written() {
    let bpffs = PrivateBpffs::mount();
    let maps = Maps::create(bpffs.path()).expect("create");
    maps.slots.put(77_777, &BackendId(5)).expect("put");
    let slots = maps.slots.all().expect("all");
    assert_eq!(slots.len(), specs::SLOTS.max_entries as usize);
    let used: Vec<_> = slots.iter().enumerate().filter(|(_, id)| **id != BackendId::NONE).collect();
    assert_eq!(used, [(77_777, &BackendId(5))]);
    assert!(matches!(maps.slots.put(specs::SLOTS.max_entries, &BackendId(1)), Err(MapsError::Full { .. })));
    assert!(matches!(maps.slots.get(specs::SLOTS.max_entries), Err(MapsError::Get { .. })));
    assert_eq!(maps.number(Numbers::Rule).expect("number"), None);
    maps.set_number(Numbers::Rule, 17).expect("set");
    assert_eq!(maps.number(Numbers::Rule).expect("number"), Some(17));
}

#[test]
fn pins_are_listed_and_filling_is_counted() {
    let bpffs = PrivateBpffs::mount();
    let maps = Maps::create(bpffs.path()).expect("create");
    maps.interfaces.put(&3, &EndpointId(1)).expect("put");
    maps.slots.put(9, &BackendId(1)).expect("put");
    let used: Vec<_> =
        maps.fill().expect("fill").iter().filter_map(|fill| Some((fill.spec.name, fill.used?))).collect();
    assert_eq!(used.len(), specs::ALL.len() - 2, "counters and events are not filled");
    for (name, used) in used {
        assert_eq!(used, u32::from(["INTERFACES", "SLOTS"].contains(&name)), "{name}");
    }
    let mut names: Vec<_> = specs::ALL.iter().map(|spec| spec.name).collect();
    names.sort_unstable();
    let pins = pins::list(bpffs.path()).expect("list");
    assert!(pins.iter().all(|pin| pin.kind == pins::PinKind::Map), "{pins:?}");
    assert_eq!(pins.iter().map(|pin| pin.path.to_str().expect("a name")).collect::<Vec<_>>(), names);
}

#[test]
fn counters_are_the_sum_of_all_cpus() {
    let bpffs = PrivateBpffs::mount();
    let maps = Maps::create(bpffs.path()).expect("create");
    let data = pins::open(bpffs.path(), &specs::COUNTERS).expect("open");
    let mut map =
        aya::maps::PerCpuArray::<_, Counter>::try_from(aya::maps::Map::from_map_data(data).expect("map"))
            .expect("per CPU");
    let cpus = aya::util::nr_cpus().expect("cpus") as u64;
    let values = (1..=cpus).map(|cpu| Counter { packets: cpu, bytes: 100 * cpu }).collect::<Vec<_>>();
    map.set(DropReason::PolicyDenied as u32, aya::maps::PerCpuValues::try_from(values).expect("values"), 0)
        .expect("set");
    let sum = cpus * (cpus + 1) / 2;
    assert_eq!(
        maps.counters.dropped(DropReason::PolicyDenied).expect("get"),
        Counter { packets: sum, bytes: 100 * sum }
    );
    assert_eq!(maps.counters.forwarded().expect("get"), Counter::default());
}

#[test]
fn an_empty_ring_has_no_event() {
    let bpffs = PrivateBpffs::mount();
    let maps = Maps::create(bpffs.path()).expect("create");
    assert_eq!(maps.events().expect("listen").next(), None);
}

#[test]
fn a_grace_period_ends() {
    grace_period().expect("grace");
}
