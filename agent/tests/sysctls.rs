//! Settings of a real kernel's stack, in a namespace of their own. Needs root.

use std::{fs, net::Ipv6Addr, os::fd::AsRawFd, process::Command, time::Duration};

use nix::{
    net::if_::if_nametoindex,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, setsockopt, socket,
        sockopt,
    },
};
use sluice_agent::{
    netlink::{Event, Monitor},
    sysctls::Sysctls,
};
use tokio::sync::mpsc;

mod netns;

const SETTINGS: &str = "/proc/sys/net";

fn get(path: &str) -> String {
    let value = fs::read_to_string(format!("/proc/sys/net/{path}")).expect(path);
    value.trim_ascii().to_owned()
}

fn set(path: &str, value: &str) {
    fs::write(format!("/proc/sys/net/{path}"), value).expect(path);
}

/// Everything that may change, for comparing.
fn settings(devices: &[&str]) -> Vec<String> {
    let names = [
        "ipv4/conf/*/forwarding",
        "ipv4/conf/*/rp_filter",
        "ipv6/conf/*/forwarding",
        "ipv6/conf/*/accept_ra",
    ];
    let of = |device: &&str| {
        names.map(|name| name.replace('*', device)).map(|path| format!("{path}={}", get(&path)))
    };
    devices.iter().chain(&["all", "default", "lo"]).flat_map(of).collect()
}

fn default_routes() -> String {
    let output =
        Command::new("ip").args("-6 route show default proto ra".split(' ')).output().expect("iproute2");
    String::from_utf8(output.stdout).expect("text")
}

/// Announces a router on the link of `device` (RFC 4861, section 4.2).
fn advertise_router(device: &str) {
    let icmp = SockProtocol::IcmpV6;
    let socket =
        socket(AddressFamily::Inet6, SockType::Raw, SockFlag::SOCK_CLOEXEC, icmp).expect("a raw socket");
    let ifindex = if_nametoindex(device).expect("the device");
    setsockopt(&socket, sockopt::Ipv6MulticastHops, &255).expect("hops");
    const LIFETIME_S: u16 = 1800;
    let mut message = [0_u8; 16];
    message[0] = 134;
    message[4] = 64;
    message[6..8].copy_from_slice(&LIFETIME_S.to_be_bytes());
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let to = SockaddrIn6::from(std::net::SocketAddrV6::new(all_nodes, 0, 0, ifindex));
    sendto(socket.as_raw_fd(), &message, &to, MsgFlags::empty()).expect("sent");
}

#[test]
fn a_node_keeps_its_routes_from_router_advertisements_when_it_forwards() {
    netns::within(|| async {
        for (path, value) in [("accept_dad", "0"), ("accept_ra", "1"), ("forwarding", "0")] {
            set(&format!("ipv6/conf/default/{path}"), value);
        }
        let handle = netns::connect();
        netns::add_veth(&handle, "v0", &[("fe80::1", 64)]).await;
        // Both ends are in one namespace.
        set("ipv6/conf/v0p/accept_ra_from_local", "1");
        let (monitor, _) = Monitor::start(Vec::new()).await.expect("a monitor");
        let (sender, mut events) = mpsc::channel(64);
        tokio::spawn(monitor.run(sender));
        // Again and again, as routers do: the first may come before the link is up.
        let mut interval = tokio::time::interval(Duration::from_millis(20));
        let route = async {
            loop {
                tokio::select! {
                    _ = interval.tick() => advertise_router("v0"),
                    event = events.recv() => {
                        let event = event.expect("goes on");
                        if matches!(event, Event::Uplinks(uplinks) if !uplinks.is_empty()) {
                            return;
                        }
                    }
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), route).await.expect("a route");
        let has_route = || default_routes().contains("dev v0p");
        assert!(has_route(), "{}", default_routes());

        let before = settings(&["v0", "v0p"]);
        let state = tempfile::tempdir().expect("a folder");
        let sysctls = Sysctls::new(SETTINGS.as_ref(), state.path());
        sysctls.forward(["v0p"], true).expect("set");
        assert_eq!(get("ipv6/conf/all/forwarding"), "1");
        assert_eq!(get("ipv6/conf/v0p/accept_ra"), "2");
        assert!(has_route(), "forwarding took the route");
        sysctls.restore().expect("restored");
        assert_eq!(settings(&["v0", "v0p"]), before);
        assert!(has_route(), "cleanup took the route");
    });
}

#[test]
fn what_was_before_is_kept_once_and_given_back() {
    netns::within(|| async {
        let handle = netns::connect();
        netns::add_veth(&handle, "v0", &[]).await;
        netns::add_veth(&handle, "v.1", &[]).await;
        set("ipv4/conf/v0/forwarding", "0");
        set("ipv4/conf/v.1/forwarding", "1");
        set("ipv6/conf/v.1/forwarding", "1");
        set("ipv6/conf/v0p/accept_ra", "0");
        let devices = ["v0", "v0p", "v.1", "v.1p"];
        let before = settings(&devices);
        let state = tempfile::tempdir().expect("a folder");
        assert_eq!(Sysctls::new(SETTINGS.as_ref(), state.path()).forward(["v0"], false).expect("set"), 1);
        assert_eq!(get("ipv6/conf/all/forwarding"), "0", "IPv6 was not asked for");
        // Other agents, later: they find changed values, and must not take them for the first ones.
        for _ in 0..2 {
            Sysctls::new(SETTINGS.as_ref(), state.path()).forward(["v0", "v.1"], true).expect("set");
            assert_eq!(get("ipv6/conf/v0p/forwarding"), "1", "the kernel changed it along");
            assert_eq!(get("ipv6/conf/v0p/accept_ra"), "0", "advertisements were not taken there");
            assert_eq!(get("ipv6/conf/v.1/accept_ra"), "1", "nor there, as a router");
        }
        assert_eq!(
            Sysctls::new(SETTINGS.as_ref(), state.path()).forward(["v0", "v.1"], true).expect("as they are"),
            0
        );
        Sysctls::new(SETTINGS.as_ref(), state.path()).restore().expect("restored");
        assert_eq!(settings(&devices), before);
        assert_eq!(fs::read_dir(state.path()).expect("a folder").count(), 0, "the record goes");
        assert_eq!(Sysctls::new(SETTINGS.as_ref(), state.path()).restore().expect("nothing to do"), 0);
    });
}

#[test]
fn what_others_changed_since_and_what_is_gone_is_left_alone() {
    netns::within(|| async {
        let handle = netns::connect();
        for device in ["v0", "v1"] {
            netns::add_veth(&handle, device, &[]).await;
            set(&format!("ipv4/conf/{device}/forwarding"), "0");
        }
        let state = tempfile::tempdir().expect("a folder");
        let sysctls = Sysctls::new(SETTINGS.as_ref(), state.path());
        sysctls.forward(["v0", "v1"], true).expect("set");
        set("ipv6/conf/v0/accept_ra", "0");
        handle.link().del(if_nametoindex("v1").expect("v1")).execute().await.expect("deleted");
        sysctls.restore().expect("restored");
        assert_eq!(get("ipv6/conf/v0/accept_ra"), "0");
        assert_eq!(get("ipv4/conf/v0/forwarding"), "0");
    });
}

#[test]
fn a_record_of_another_namespace_means_nothing() {
    let state = tempfile::tempdir().expect("a folder");
    let folder = state.path().to_owned();
    netns::within(|| async move {
        netns::add_veth(&netns::connect(), "v0", &[]).await;
        set("ipv4/conf/v0/forwarding", "0");
        Sysctls::new(SETTINGS.as_ref(), &folder).forward(["v0"], false).expect("set");
        // The namespace lives on, so that its number is not given to the next.
        let folder = folder.clone();
        netns::within(|| async move {
            netns::add_veth(&netns::connect(), "v0", &[]).await;
            set("ipv4/conf/v0/forwarding", "1");
            assert_eq!(Sysctls::new(SETTINGS.as_ref(), &folder).restore().expect("nothing to do"), 0);
            assert_eq!(get("ipv4/conf/v0/forwarding"), "1");
        });
    });
}

#[test]
fn ports_of_translated_flows_are_reserved_beside_others_and_given_back() {
    const RESERVED: &str = "ipv4/ip_local_reserved_ports";
    netns::within(|| async {
        set(RESERVED, "30000-32767,8080");
        let before = get(RESERVED);
        let state = tempfile::tempdir().expect("a folder");
        let reserve =
            |ports| Sysctls::new(SETTINGS.as_ref(), state.path()).reserve_ports(&ports).expect("reserved");
        assert!(reserve(61_000..=65_535));
        assert_eq!(get(RESERVED), "8080,30000-32767,61000-65535");
        assert!(!reserve(61_000..=65_535), "they are already");
        assert!(reserve(50_000..=50_999), "another range is configured");
        assert_eq!(get(RESERVED), "8080,30000-32767,50000-50999", "the old one is given back");
        Sysctls::new(SETTINGS.as_ref(), state.path()).restore().expect("restored");
        assert_eq!(get(RESERVED), before);
    });
}
