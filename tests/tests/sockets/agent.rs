//! The agent's coming and going.

use std::{
    collections::BTreeMap,
    env, fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
};

use aya::programs::{
    CgroupSockAddr, CgroupSockAddrAttachType,
    links::{FdLink, PinnedLink},
};
use sluice_abi::protocol::{TCP, UDP};
use sluice_agent::datapath::{CgroupError, CgroupRoot, Served, SocketError, Sockets};
use sluice_maps::pin_dir;
use sluice_tests::cgroup::OwnCgroup;

use crate::world::{BACKENDS, Family, SERVICES, World, answer, connected_datagram, tcp};

#[test]
fn a_restarted_agent_finds_its_programs_and_changes_nothing() {
    let (world, sockets) = World::new();
    let named = Family::V4.at(SERVICES, 10, 80);
    world.service(named, TCP, &[1]);
    world.service(named, UDP, &[1]);
    let before = links(&world);
    assert_eq!(before.len(), 9);
    let mut stream = TcpStream::connect(named).expect("connect");
    drop(sockets);
    assert_eq!(tcp(named).expect("without an agent").0, Family::V4.plain(BACKENDS, 1));
    let _sockets = world.start();
    assert_eq!(links(&world), before, "links and their programs");
    assert_eq!(answer(&mut stream).expect("an answer"), Family::V4.plain(BACKENDS, 1));
}

#[test]
fn an_upgrade_replaces_the_programs_where_they_are() {
    let (world, sockets) = World::new();
    let named = Family::V4.at(SERVICES, 10, 80);
    world.service(named, TCP, &[1]);
    world.service(named, UDP, &[1]);
    let before = links(&world);
    let mut stream = TcpStream::connect(named).expect("connect");
    let socket = Family::V4.udp();
    socket.connect(named).expect("connect");
    drop(sockets);
    // What an agent with another object finds: programs of another name.
    let programs = folder(&world).join("programs");
    let of_now = fs::read_dir(&programs).expect("programs").next().expect("one").expect("a folder").path();
    fs::rename(&of_now, programs.join("0123456789abcdef")).expect("another name");
    let _sockets = world.start();
    let after = links(&world);
    for (name, (link, program)) in &before {
        assert_eq!(after[name].0, *link, "{name}: the link stays");
        assert_ne!(after[name].1, *program, "{name}: its program does not");
    }
    assert!(!programs.join("0123456789abcdef").exists(), "the old programs are gone");
    assert_eq!(answer(&mut stream).expect("an answer"), Family::V4.plain(BACKENDS, 1));
    assert_eq!(stream.peer_addr().expect("a peer"), named);
    assert_eq!(connected_datagram(&socket).expect("an answer"), Family::V4.plain(BACKENDS, 1));
    assert_eq!(tcp(named).expect("an answer"), (Family::V4.plain(BACKENDS, 1), named));
}

#[test]
fn backends_that_left_while_no_agent_ran_are_noticed() {
    let (world, sockets) = World::new();
    let named = Family::V4.at(SERVICES, 10, 53);
    world.service(named, UDP, &[1]);
    let socket = Family::V4.udp();
    socket.connect(named).expect("connect");
    drop(sockets);
    world.remove_backend(Family::V4, UDP, 1);
    let _sockets = world.start();
    let error = socket.recv(&mut [0; 16]).expect_err("an answer of nobody");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
}

#[test]
fn links_follow_the_cgroup_that_is_asked_for() {
    let (world, sockets) = World::new();
    let named = Family::V4.at(SERVICES, 10, 80);
    world.service(named, TCP, &[1]);
    let before = links(&world);
    drop(sockets);
    let nearer = world.cgroup.processes();
    let sockets = Sockets::start(&world.maps, &CgroupRoot::At(nearer.clone()), Served::Node)
        .expect("programs in force");
    assert_eq!(sockets.cgroup(), nearer);
    let after = links(&world);
    assert!(after.iter().all(|(name, link)| before[name].0 != link.0), "{before:?}, then {after:?}");
    assert_eq!(tcp(named).expect("an answer"), (Family::V4.plain(BACKENDS, 1), named));
}

#[test]
fn what_is_stopped_leaves_connections_and_no_pins() {
    let (world, sockets) = World::new();
    let named = Family::V4.at(SERVICES, 10, 80);
    world.service(named, TCP, &[1]);
    let mut stream = TcpStream::connect(named).expect("connect");
    drop(sockets);
    Sockets::stop(&world.maps).expect("pins removed");
    assert!(!folder(&world).exists());
    assert_eq!(answer(&mut stream).expect("an answer"), Family::V4.plain(BACKENDS, 1));
    tcp(named).expect_err("no route to the Service");
    Sockets::stop(&world.maps).expect("nothing to remove");
}

#[test]
fn without_cgroup2_the_reason_is_told() {
    let world = World::without_programs();
    let root = CgroupRoot::At(world.bpffs.path().to_owned());
    let error = Sockets::start(&world.maps, &root, Served::Node).expect_err("another file system");
    assert!(matches!(error, SocketError::Cgroup(CgroupError::NotCgroup2 { .. })), "{error:?}");
}

/// A node that is a container: process 1, the mounts and the cgroup namespace are its own.
#[test]
fn the_root_of_process_1_is_found() {
    const INSIDE: &str = "SLUICE_TEST_INSIDE";
    const MOUNTS: &str = "awk '$3 ~ /^cgroup/ {print $2}' /proc/self/mounts | sort -r | xargs -r umount -l &&
        mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"";
    if env::var_os(INSIDE).is_some() {
        let world = World::without_programs();
        let service = Family::V6.at(SERVICES, 10, 80);
        world.service(service, TCP, &[1]);
        let sockets =
            Sockets::start(&world.maps, &CgroupRoot::OfInit, Served::Node).expect("programs in force");
        assert_eq!(sockets.cgroup(), Path::new("/proc/1/root/sys/fs/cgroup"));
        assert_eq!(tcp(service).expect("an answer"), (Family::V6.plain(BACKENDS, 1), service));
        return;
    }
    let _cgroup = OwnCgroup::enter().expect("a cgroup");
    let mut node = Command::new("unshare");
    node.args(["--cgroup", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-ec", MOUNTS, "node"]);
    node.arg(env::current_exe().expect("this program"));
    node.args(["--exact", "agent::the_root_of_process_1_is_found", "--nocapture"]).env(INSIDE, "1");
    let output = node.output().expect("starting unshare (util-linux)");
    let words = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&words));
}

#[test]
fn every_program_passes_the_verifier_within_its_budget() {
    /// Instructions the verifier may walk through for one program (DESIGN, section 4).
    const BUDGET: u32 = 100_000;
    let (world, _sockets) = World::new();
    let folders = fs::read_dir(folder(&world).join("programs")).expect("programs");
    let pins = folders.flat_map(|folder| fs::read_dir(folder.expect("a folder").path()).expect("programs"));
    let pins: Vec<_> = pins.map(|pin| pin.expect("a program").path()).collect();
    assert_eq!(pins.len(), 9);
    for pin in pins {
        // Only what is attached by hand needs the right type.
        let program = CgroupSockAddr::from_pin(&pin, CgroupSockAddrAttachType::Connect4).expect("a program");
        let info = program.info().expect("the program's description");
        // The kernel tells the number since 5.16.
        if let Some(verified) = info.verified_instruction_count().filter(|count| *count != 0) {
            eprintln!("{}: {verified} instructions verified", pin.display());
            assert!(verified <= BUDGET, "{}: {verified} > {BUDGET}", pin.display());
        }
    }
}

fn folder(world: &World) -> PathBuf {
    pin_dir(world.bpffs.path()).join("sockets")
}

/// By name of the pin: the numbers of the link and of its program.
fn links(world: &World) -> BTreeMap<String, (u32, u32)> {
    let entries = fs::read_dir(folder(world).join("links")).expect("links");
    let links = entries.map(|entry| {
        let entry = entry.expect("a link");
        let link: FdLink = PinnedLink::from_pin(entry.path()).expect("a pinned link").into();
        let info = link.info().expect("the link's description");
        (entry.file_name().into_string().expect("a name"), (info.id(), info.program_id()))
    });
    links.collect()
}
