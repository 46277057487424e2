//! What a real kernel announces.

use std::{net::Ipv4Addr, time::Duration};

use rtnetlink::RouteMessageBuilder;
use sluice_agent::netlink::{Event, Monitor};
use tokio::sync::mpsc;

mod netns;

async fn next(events: &mut mpsc::Receiver<Event>, is_it: impl Fn(&Event) -> bool) -> Event {
    let search = async {
        loop {
            let event = events.recv().await.expect("the monitor");
            if is_it(&event) {
                return event;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), search).await.expect("an announcement")
}

#[test]
fn addresses_links_and_uplinks_are_told_as_they_come_and_go() {
    netns::within(|| async {
        let handle = netns::connect();
        let first = netns::add_veth(&handle, "v0", &[("10.0.0.1", 24)]).await;
        let (monitor, seen) = Monitor::start(Vec::new()).await.expect("a monitor");
        assert_eq!(seen.links[&first].name, "v0");
        let addresses: Vec<_> = seen.addresses[&first].iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.0.0.1"], "neither loopback nor link-local");
        assert!(seen.uplinks.is_empty(), "no default route");
        let (sender, mut events) = mpsc::channel(64);
        tokio::spawn(monitor.run(sender));

        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(Ipv4Addr::new(10, 0, 0, 254)).build();
        handle.route().add(route).execute().await.expect("a default route");
        let Event::Uplinks(uplinks) = next(&mut events, |event| matches!(event, Event::Uplinks(_))).await
        else {
            unreachable!()
        };
        assert_eq!(uplinks.iter().map(|uplink| uplink.name.as_str()).collect::<Vec<_>>(), ["v0"]);

        let second = netns::add_veth(&handle, "v1", &[("fd00::1", 64)]).await;
        let with_second = |event: &Event| matches!(event, Event::Addresses(all) if all.contains_key(&second));
        next(&mut events, with_second).await;

        handle.link().del(second).execute().await.expect("deleted");
        next(&mut events, |event| *event == Event::LinkGone(second)).await;
        handle.link().del(first).execute().await.expect("deleted");
        next(&mut events, |event| matches!(event, Event::Uplinks(uplinks) if uplinks.is_empty())).await;
    });
}

#[test]
fn a_named_uplink_is_found_when_it_appears() {
    netns::within(|| async {
        let handle = netns::connect();
        let (monitor, seen) = Monitor::start(vec!["up0".to_owned()]).await.expect("a monitor");
        assert!(seen.uplinks.is_empty());
        let (sender, mut events) = mpsc::channel(64);
        tokio::spawn(monitor.run(sender));
        netns::add_veth(&handle, "up0", &[]).await;
        next(&mut events, |event| matches!(event, Event::Uplinks(uplinks) if uplinks[0].name == "up0")).await;
    });
}
