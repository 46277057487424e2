//! The programs on real devices, by either mechanism: attached, taken over, replaced, removed. Needs root.

use std::{collections::BTreeSet, fs, process::Command};

use aya::programs::{
    SchedClassifier, TcAttachType,
    links::{FdLink, PinnedLink},
};
use futures::TryStreamExt;
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption};
use rtnetlink::{Handle, LinkVeth};
use sluice_abi::maps::MapSpec;
use sluice_agent::datapath::{Datapath, DatapathConfig, Mechanism, remove_filters};
use sluice_maps::testing::PrivateBpffs;

mod netns;

/// A pod's veth and an uplink, and where their programs are pinned.
struct Devices {
    bpffs: PrivateBpffs,
    handle: Handle,
    pod: u32,
    uplink: u32,
}

/// Program ids at `from_pod`, `to_pod`, `from_netdev`, `to_netdev`.
type Attached = [Vec<u32>; 4];

impl Devices {
    /// Must be made inside [`netns::within`].
    async fn new() -> Self {
        let (bpffs, handle) = (PrivateBpffs::mount(), netns::connect());
        let pod = netns::add_veth(&handle, "pod0", &[]).await;
        let uplink = netns::add_veth(&handle, "up0", &[]).await;
        Self { bpffs, handle, pod, uplink }
    }

    /// Starts as an agent does, and attaches what it knows.
    fn start(&self, mechanism: Mechanism, related_icmp: bool) -> Datapath {
        let mut datapath = self.load(mechanism, related_icmp);
        datapath.attach_pod("pod0", self.pod).expect("attached");
        datapath.attach_uplink("up0", self.uplink).expect("attached");
        datapath
    }

    fn load(&self, mechanism: Mechanism, related_icmp: bool) -> Datapath {
        let config = DatapathConfig { related_icmp, ..DatapathConfig::new(self.bpffs.path().to_owned()) };
        Datapath::load_with(&config, mechanism).expect("loaded")
    }

    async fn attached(&self, mechanism: Mechanism) -> Attached {
        let (pod, uplink) = (("pod0", self.pod), ("up0", self.uplink));
        let hooks = [(pod, true), (pod, false), (uplink, true), (uplink, false)];
        let mut all = Attached::default();
        for (found, ((device, ifindex), ingress)) in all.iter_mut().zip(hooks) {
            *found = match mechanism {
                Mechanism::Tcx => by_tcx(device, ingress),
                Mechanism::Clsact => by_clsact(&self.handle, ifindex, ingress).await,
            };
        }
        all
    }

    /// Pins and ids of the links.
    fn links(&self) -> BTreeSet<(String, u32)> {
        let folder = sluice_maps::pin_dir(self.bpffs.path()).join("links");
        let entries = fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry"));
        let id = |pin| {
            let link = FdLink::from(PinnedLink::from_pin(pin).expect("a link"));
            link.info().expect("what it is").id()
        };
        entries.map(|entry| (entry.file_name().into_string().expect("text"), id(entry.path()))).collect()
    }

    /// The pinned program that runs on the uplink.
    fn pinned_program(&self) -> String {
        let folder = sluice_maps::pin_dir(self.bpffs.path()).join("programs");
        let mut objects =
            fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path());
        let object = objects.next().expect("one object");
        assert!(objects.next().is_none(), "older objects are removed");
        object.join("from_netdev").display().to_string()
    }
}

fn by_tcx(device: &str, ingress: bool) -> Vec<u32> {
    let side = if ingress { TcAttachType::Ingress } else { TcAttachType::Egress };
    let (_, programs) = SchedClassifier::query_tcx(device, side).expect("programs");
    programs.iter().map(aya::programs::ProgramInfo::id).collect()
}

async fn by_clsact(handle: &Handle, ifindex: u32, ingress: bool) -> Vec<u32> {
    let request = handle.traffic_filter(ifindex as i32).get();
    let request = if ingress { request.ingress() } else { request.egress() };
    let filters: Vec<TcMessage> = request.execute().try_collect().await.expect("filters");
    let id = |option: &TcOption| {
        if let TcOption::Bpf(TcFilterBpfOption::ProgId(id)) = option { Some(*id) } else { None }
    };
    let options = filters.iter().flat_map(|filter| &filter.attributes).filter_map(|attribute| {
        if let TcAttribute::Options(options) = attribute { Some(options) } else { None }
    });
    options.flatten().filter_map(id).collect()
}

fn tc(arguments: &str) -> String {
    let output = Command::new("tc").args(arguments.split(' ')).output().expect("tc (iproute2)");
    assert!(output.status.success(), "tc {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn programs_outlive_the_agent(mechanism: Mechanism) {
    netns::within(move || async move {
        let devices = Devices::new().await;
        let datapath = devices.start(mechanism, true);
        let (first, links) = (devices.attached(mechanism).await, devices.links());
        assert!(first.iter().all(|programs| programs.len() == 1), "one at each hook: {first:?}");
        assert_eq!(links.len(), if mechanism == Mechanism::Tcx { 4 } else { 0 });
        drop(datapath);
        assert_eq!(devices.attached(mechanism).await, first, "nothing goes with the agent");

        drop(devices.start(mechanism, true));
        assert_eq!(devices.attached(mechanism).await, first, "the same programs are taken over");
        assert_eq!(devices.links(), links);

        let datapath = devices.start(mechanism, false);
        let second = devices.attached(mechanism).await;
        assert!(
            first.iter().zip(&second).all(|(old, new)| new.len() == 1 && old != new),
            "other globals are other programs, in place of the old: {first:?} {second:?}"
        );
        assert_eq!(devices.links(), links, "the links stay");
        devices.pinned_program();
        drop(datapath);
        assert_eq!(devices.attached(mechanism).await, second);
    });
}

#[test]
fn tcx_programs_outlive_the_agent_and_are_replaced_in_place() {
    programs_outlive_the_agent(Mechanism::Tcx);
}

#[test]
fn clsact_programs_outlive_the_agent_and_are_replaced_in_place() {
    programs_outlive_the_agent(Mechanism::Clsact);
}

#[test]
fn a_new_object_replaces_through_the_pins_and_drops_those_of_dead_links() {
    netns::within(|| async {
        let devices = Devices::new().await;
        drop(devices.start(Mechanism::Tcx, true));
        let before = devices.attached(Mechanism::Tcx).await;
        devices.handle.link().del(devices.uplink).execute().await.expect("deleted");
        let datapath = devices.load(Mechanism::Tcx, false);
        assert_eq!(
            datapath.attached().collect::<Vec<_>>(),
            [devices.pod],
            "the living one is known by its pin"
        );
        assert_eq!(devices.links().len(), 2, "the dead links' pins are gone");
        let (from_pod, to_pod) = (by_tcx("pod0", true), by_tcx("pod0", false));
        assert!(from_pod.len() == 1 && from_pod != before[0], "replaced before anything is attached");
        assert!(to_pod.len() == 1 && to_pod != before[1]);
    });
}

#[test]
fn a_device_with_a_dead_ones_index_gets_programs() {
    netns::within(|| async {
        let devices = Devices::new().await;
        drop(devices.start(Mechanism::Tcx, true));
        devices.handle.link().del(devices.pod).execute().await.expect("deleted");
        let mut again = LinkVeth::new("pod0", "pod0p").build();
        again.header.index = devices.pod;
        devices.handle.link().add(again).execute().await.expect("a device of the same index");
        let mut datapath = devices.load(Mechanism::Tcx, true);
        datapath.attach_pod("pod0", devices.pod).expect("attached");
        let attached = devices.attached(Mechanism::Tcx).await;
        assert!(attached.iter().all(|programs| programs.len() == 1), "{attached:?}");
        assert_eq!(devices.links().len(), 4);
        datapath.detach(devices.pod);
        assert_eq!(devices.links().len(), 2, "only the uplink's");
    });
}

/// Another version is this one under another name, with one map that this version does not take over.
fn another_version_is_at_work_until_the_maps_are_filled(mechanism: Mechanism) {
    netns::within(move || async move {
        let devices = Devices::new().await;
        let ours = sluice_maps::pin_dir(devices.bpffs.path());
        let other = ours.with_file_name(format!("v{}", sluice_abi::ABI_VERSION - 1));
        drop(devices.start(mechanism, true));
        let (first, links, maps) = (devices.attached(mechanism).await, devices.links(), map_ids(&ours));
        fs::rename(&ours, &other).expect("renamed");
        fs::remove_file(other.join("SLOTS")).expect("no such map there");

        for attempt in ["first", "and after it was cut short"] {
            let mut datapath = devices.load(mechanism, true);
            assert!(datapath.is_waiting(), "{attempt}");
            datapath.keep_pod("pod0", devices.pod).expect("kept");
            datapath.attach_uplink("up0", devices.uplink).expect("kept");
            assert_eq!(devices.attached(mechanism).await, first, "{attempt}");
        }
        let late = netns::add_veth(&devices.handle, "pod1", &[]).await;
        let mut datapath = devices.load(mechanism, true);
        datapath.keep_pod("pod0", devices.pod).expect("kept");
        datapath.attach_uplink("up0", devices.uplink).expect("kept");
        datapath.attach_pod("pod1", late).expect("attached");
        let new_pod = match mechanism {
            Mechanism::Tcx => by_tcx("pod1", true),
            Mechanism::Clsact => by_clsact(&devices.handle, late, true).await,
        };
        assert_eq!(new_pod.len(), 1, "a pod that is made meanwhile has its programs at once");
        let gone = netns::add_veth(&devices.handle, "pod2", &[]).await;
        datapath.keep_pod("pod2", gone).expect("kept");
        devices.handle.link().del(gone).execute().await.expect("deleted");
        datapath.detach(gone); // or its absence would hold up all others

        datapath.succeed().expect("in place");
        let second = devices.attached(mechanism).await;
        assert!(
            first.iter().zip(&second).all(|(old, new)| new.len() == 1 && old != new),
            "{first:?} {second:?}"
        );
        assert!(devices.links().is_superset(&links), "links stay");
        assert!(!other.exists() && !datapath.is_waiting());
        let fresh: Vec<_> = map_ids(&ours).difference(&maps).map(|(name, _)| *name).collect();
        let is_new = |spec: &&MapSpec| spec.since == sluice_abi::ABI_VERSION || spec.name == "SLOTS";
        let mut new: Vec<_> = sluice_abi::maps::ALL.iter().filter(is_new).map(|spec| spec.name).collect();
        new.sort_unstable();
        assert_eq!(fresh, new, "all others are the same maps");
    });
}

/// Ids of the pinned maps, by name.
fn map_ids(pins: &std::path::Path) -> BTreeSet<(&'static str, u32)> {
    let id = |name| {
        let map = aya::maps::MapData::from_pin(pins.join(name)).expect("a map");
        (name, map.info().expect("what it is").id())
    };
    sluice_abi::maps::ALL.iter().map(|spec| id(spec.name)).collect()
}

#[test]
fn tcx_programs_of_another_version_are_at_work_until_the_maps_are_filled() {
    another_version_is_at_work_until_the_maps_are_filled(Mechanism::Tcx);
}

#[test]
fn clsact_programs_of_another_version_are_at_work_until_the_maps_are_filled() {
    another_version_is_at_work_until_the_maps_are_filled(Mechanism::Clsact);
}

#[test]
fn cleanup_removes_our_filters_and_no_others() {
    netns::within(|| async {
        let devices = Devices::new().await;
        drop(devices.start(Mechanism::Clsact, true));
        // The nearest thing to ours: the same program at the same priority.
        let pin = devices.pinned_program();
        tc(&format!("filter add dev up0 ingress prio 1 handle 1 protocol all bpf da object-pinned {pin}"));
        tc("qdisc add dev up0p clsact");
        let (removed, errors) = remove_filters(&devices.handle).await;
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(removed, 4);
        assert!(!tc("qdisc show dev pod0").contains("clsact"), "nothing was left in it");
        assert!(tc("qdisc show dev up0p").contains("clsact"), "never ours");
        let left = tc("filter show dev up0 ingress");
        assert!(left.contains("handle 0x1 ") && !left.contains("0x51ce"), "{left}");
        assert_eq!(remove_filters(&devices.handle).await.0, 0, "again");
    });
}
