//! What load balancers are told, over real sockets of the loopback.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use sluice_agent::health_checks::{HealthChecks, Servers};
use sluice_core::{desired::HealthCheck, object::NamespacedName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A port that nobody listens on.
async fn free_port() -> u16 {
    TcpListener::bind((HERE, 0)).await.expect("a port").local_addr().expect("bound").port()
}

fn checks(services: &[(&str, u16, usize)]) -> HealthChecks {
    let services: BTreeMap<_, _> = services
        .iter()
        .map(|(name, port, local_endpoints)| {
            let check = HealthCheck { port: *port, local_endpoints: *local_endpoints };
            (NamespacedName::new("shop", *name), check)
        })
        .collect();
    HealthChecks { services: Arc::new(services), addresses: Some(BTreeSet::from([HERE])) }
}

/// The status line, and the body as far as it is JSON.
async fn ask(port: u16) -> Option<(String, String, serde_json::Value)> {
    let mut stream = TcpStream::connect((HERE, port)).await.ok()?;
    let request = b"GET /anything HTTP/1.1\r\nHost: lb\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.lines().next().expect("a status").to_owned();
    Some((status, head.to_lowercase(), serde_json::from_str(body).expect("JSON")))
}

#[tokio::test]
async fn a_node_with_endpoints_says_so_and_one_without_does_not() {
    let port = free_port().await;
    let mut servers = Servers::default();
    for (endpoints, want) in
        [(2, "HTTP/1.1 200 OK"), (0, "HTTP/1.1 503 Service Unavailable"), (1, "HTTP/1.1 200 OK")]
    {
        assert!(servers.keep(&checks(&[("web", port, endpoints)])).await);
        let (status, head, body) = ask(port).await.expect("listens");
        assert_eq!(status, want);
        assert!(head.contains(&format!("x-load-balancing-endpoint-weight: {endpoints}")), "{head}");
        let want = serde_json::json!({"service": {"namespace": "shop", "name": "web"},
            "localEndpoints": endpoints, "serviceProxyHealthy": true});
        assert_eq!(body, want);
    }
    assert!(servers.keep(&checks(&[])).await);
    assert!(ask(port).await.is_none(), "nobody is asked about");
}

#[tokio::test]
async fn a_port_that_somebody_has_is_tried_again() {
    let taken = TcpListener::bind((HERE, 0)).await.expect("a port");
    let at: SocketAddr = taken.local_addr().expect("bound");
    let mut servers = Servers::default();
    let wanted = checks(&[("web", at.port(), 1)]);
    assert!(!servers.keep(&wanted).await);
    drop(taken);
    assert!(servers.keep(&wanted).await);
    assert!(ask(at.port()).await.is_some());
}

#[tokio::test]
async fn of_two_services_with_one_port_the_first_by_name_has_it() {
    let port = free_port().await;
    let mut servers = Servers::default();
    assert!(servers.keep(&checks(&[("b", port, 0), ("a", port, 1)])).await);
    assert_eq!(ask(port).await.expect("listens").2["service"]["name"], "a");
    assert!(servers.keep(&checks(&[("b", port, 3)])).await);
    assert_eq!(ask(port).await.expect("listens").2["service"]["name"], "b");
}
