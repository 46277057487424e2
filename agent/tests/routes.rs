//! Routes in a real kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Command,
};

use rtnetlink::RouteMessageBuilder;
use sluice_agent::routes::{RouteError, Routes, Wanted};

mod netns;

fn wanted(remote: &[(&str, &str)], own: &[&str]) -> Wanted {
    let remote: BTreeMap<_, _> = remote
        .iter()
        .map(|(range, via)| (range.parse().expect("a range"), via.parse::<IpAddr>().expect("an address")))
        .collect();
    Wanted { remote, own: own.iter().map(|range| range.parse().expect("a range")).collect::<BTreeSet<_>>() }
}

/// The kernel's routes as `ip` says them, in this thread's namespace.
fn ip_route(family: &str) -> Vec<String> {
    let output = Command::new("ip").args([family, "route", "show"]).output().expect("ip (iproute2)");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn ours(family: &str) -> Vec<String> {
    ip_route(family).into_iter().filter(|line| line.contains("proto 83")).collect()
}

async fn two_links(handle: &rtnetlink::Handle) {
    netns::add_veth(handle, "v0", &[("10.0.0.1", 24), ("fd00::1", 64)]).await;
}

#[test]
fn pod_ranges_of_other_nodes_lead_there_and_own_ones_end_here() {
    netns::within(|| async {
        let handle = netns::connect();
        two_links(&handle).await;
        let routes = Routes::new(handle);
        let wanted = wanted(
            &[("10.244.2.0/24", "10.0.0.2"), ("fd00:10:244:2::/64", "fd00::2")],
            &["10.244.1.0/24", "fd00:10:244:1::/64"],
        );
        let report = routes.sync(&wanted).await.expect("routes");
        assert_eq!((report.written, report.deleted), (4, 0), "{report:?}");
        let v4 = ours("-4");
        assert!(v4.iter().any(|line| line.starts_with("10.244.2.0/24 via 10.0.0.2 dev v0")), "{v4:?}");
        assert!(v4.iter().any(|line| line.starts_with("unreachable 10.244.1.0/24")), "{v4:?}");
        let v6 = ours("-6");
        assert!(v6.iter().any(|line| line.starts_with("fd00:10:244:2::/64 via fd00::2 dev v0")), "{v6:?}");
        assert!(v6.iter().any(|line| line.starts_with("unreachable fd00:10:244:1::/64")), "{v6:?}");
        let again = routes.sync(&wanted).await.expect("routes");
        assert_eq!((again.written, again.deleted), (0, 0), "what is there is left alone: {again:?}");
    });
}

#[test]
fn a_route_follows_its_node_and_goes_with_it() {
    netns::within(|| async {
        let handle = netns::connect();
        two_links(&handle).await;
        let routes = Routes::new(handle);
        let range = |via4, via6| wanted(&[("10.244.2.0/24", via4), ("fd00:2::/64", via6)], &[]);
        routes.sync(&range("10.0.0.2", "fd00::2")).await.expect("routes");
        let report = routes.sync(&range("10.0.0.3", "fd00::3")).await.expect("routes");
        assert!(report.skipped.is_empty(), "{report:?}");
        let (v4, v6) = (ours("-4"), ours("-6"));
        assert!(v4.len() == 1 && v4[0].contains("via 10.0.0.3"), "{v4:?}");
        assert!(v6.len() == 1 && v6[0].contains("via fd00::3"), "{v6:?}");
        // A range that becomes this node's own.
        let report = routes.sync(&wanted(&[], &["10.244.2.0/24", "fd00:2::/64"])).await.expect("routes");
        assert!(report.skipped.is_empty(), "{report:?}");
        assert_eq!((ours("-4").len(), ours("-6").len()), (1, 1));
        assert!(ours("-4")[0].starts_with("unreachable") && ours("-6")[0].starts_with("unreachable"));
        routes.sync(&Wanted::default()).await.expect("routes");
        assert!(ours("-4").is_empty() && ours("-6").is_empty());
    });
}

#[test]
fn a_node_that_is_not_on_link_gets_no_route_and_is_told() {
    netns::within(|| async {
        let handle = netns::connect();
        two_links(&handle).await;
        let gateway =
            RouteMessageBuilder::<Ipv4Addr>::new().gateway("10.0.0.254".parse().expect("an address"));
        handle.route().add(gateway.build()).execute().await.expect("a default route");
        let routes = Routes::new(handle);
        let wanted = wanted(
            &[("10.244.2.0/24", "192.0.2.7"), ("10.244.3.0/24", "10.0.0.3"), ("fd00:2::/64", "2001:db8::7")],
            &[],
        );
        let report = routes.sync(&wanted).await.expect("routes");
        assert_eq!(report.written, 1);
        assert!(
            matches!(report.skipped[..], [RouteError::NotOnLink { .. }, RouteError::Lookup { .. }]),
            "one behind a router, one with no way at all: {report:?}"
        );
    });
}

#[test]
fn routes_of_others_are_left_alone_by_cleanup() {
    netns::within(|| async {
        let handle = netns::connect();
        two_links(&handle).await;
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(Ipv4Addr::new(10, 9, 0, 0), 24)
            .gateway(Ipv4Addr::new(10, 0, 0, 9));
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix("fd00:9::".parse().expect("an address"), 64)
            .gateway("fd00::9".parse().expect("an address"));
        handle.route().add(v4.build()).execute().await.expect("another's route");
        handle.route().add(v6.build()).execute().await.expect("another's route");
        let routes = Routes::new(handle);
        let before = (ip_route("-4"), ip_route("-6"));
        let wanted = wanted(&[("10.244.2.0/24", "10.0.0.2")], &["10.244.1.0/24", "fd00:1::/64"]);
        routes.sync(&wanted).await.expect("routes");
        assert_eq!(routes.remove_all().await.expect("cleanup"), 3);
        assert_eq!((ip_route("-4"), ip_route("-6")), before);
    });
}
