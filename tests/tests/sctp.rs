//! Real SCTP between pods, under policy and through Services. Needs a kernel that has SCTP: see `WITH_MODULE` in
//! `xtask/src/test/binaries.rs`.

use std::{
    collections::BTreeSet,
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, listen, socket,
};
use serde_json::{Value, json};
use sluice_tests::topology::{Cluster, PATIENCE, Pod, PodSpec, namespace::Netns, objects, traffic::SILENCE};

const SERVICE: [&str; 2] = ["10.96.0.38", "fd00:10:96::38"];
/// What policy lets pass, and what it does not.
const PORTS: [u16; 2] = [3868, 3869];

#[test]
#[ignore = "needs SCTP in the kernel: cargo xtask test boots one that has it"]
fn associations_pass_where_policy_says_so_and_reach_services() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let client = cluster.pod(1, &PodSpec::new("client", "client"))?;
    let backends = ["hss-1", "hss-2"].map(|name| cluster.pod(1, &PodSpec::new(name, "hss")));
    let backends = backends.into_iter().collect::<Result<Vec<_>>>()?;
    cluster.objects.put("policy", &policy())?;
    cluster.objects.put("service", &service(&backends))?;
    cluster.settle()?;
    for pod in &backends {
        for port in PORTS {
            serve(&pod.netns, &pod.name, port)?;
        }
    }
    for pod in &backends {
        for ip in pod.addresses {
            let answer = ask(&client.netns, (ip, PORTS[0]).into(), PATIENCE)?;
            ensure!(answer.as_deref() == Some(&*pod.name), "{ip}: {answer:?}");
            let denied = ask(&client.netns, (ip, PORTS[1]).into(), SILENCE)?;
            ensure!(denied.is_none(), "{ip}: {denied:?} through a port that no rule names");
        }
    }
    let names: BTreeSet<_> = backends.iter().map(|pod| pod.name.clone()).collect();
    for ip in SERVICE.map(|text| text.parse::<IpAddr>().expect("an address")) {
        // One of two is missed by 30 random choices once in 10^9 runs.
        let answers =
            (0..30).map(|_| ask(&client.netns, (ip, PORTS[0]).into(), PATIENCE)?.context("an answer"));
        ensure!(answers.collect::<Result<BTreeSet<_>>>()? == names, "{ip}");
    }
    let drops = cluster.node(1).sluice_json("drops")?.to_string();
    ensure!(drops.contains("SCTP") && drops.contains("default/hss"), "{drops}");
    Ok(())
}

fn policy() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": "default", "name": "hss"},
        "spec": {"podSelector": {"matchLabels": {"app": "hss"}}, "ingress": [{
            "from": [{"podSelector": {"matchLabels": {"app": "client"}}}],
            "ports": [{"protocol": "SCTP", "port": PORTS[0]}, {"protocol": "TCP", "port": PORTS[1]}],
        }]},
    })
}

fn service(pods: &[Pod<'_>]) -> Value {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": "hss"},
        "spec": {"clusterIPs": SERVICE, "ports": [{"protocol": "SCTP", "port": PORTS[0], "targetPort": PORTS[0]}]},
    });
    let ports = json!([{"protocol": "SCTP", "port": PORTS[0]}]);
    let members: Vec<_> = pods.iter().map(Pod::slice_member).collect();
    let Value::Array(slices) = objects::slices("default", "hss", &ports, &members) else { unreachable!() };
    [service].into_iter().chain(slices).collect()
}

/// Says its name to whoever associates, until the test's process ends.
fn serve(netns: &Netns, name: &str, port: u16) -> Result<()> {
    let socket = netns.enter(|| -> io::Result<_> {
        let socket = one_to_one(AddressFamily::Inet6)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::from(([0_u16; 8], port))))?;
        listen(&socket, Backlog::new(64)?)?;
        Ok(TcpListener::from(socket))
    });
    let socket = socket.with_context(|| format!("listening to SCTP port {port}"))?;
    let name = name.to_owned();
    thread::spawn(move || {
        while let Ok((mut association, _)) = socket.accept() {
            // Whoever asked may have gone.
            let _ = association.write_all(name.as_bytes());
        }
    });
    Ok(())
}

/// The name of who answers; none when nobody does in time.
fn ask(from: &Netns, to: SocketAddr, limit: Duration) -> Result<Option<String>> {
    let asked = from.enter(|| -> io::Result<String> {
        let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = one_to_one(family)?;
        // The standard library's streams are sockets of any kind; the time limit of sending is that of connecting.
        let mut stream = TcpStream::from(socket);
        stream.set_write_timeout(Some(limit))?;
        stream.set_read_timeout(Some(limit))?;
        connect(stream.as_raw_fd(), &SockaddrStorage::from(to))?;
        let mut name = [0; 64];
        let len = stream.read(&mut name)?;
        Ok(String::from_utf8_lossy(&name[..len]).into_owned())
    });
    match asked {
        Ok(name) => Ok(Some(name)),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::ConnectionRefused
            ) || error.raw_os_error() == Some(libc::EINPROGRESS) =>
        {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("asking {to}")),
    }
}

fn one_to_one(family: AddressFamily) -> nix::Result<OwnedFd> {
    socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Sctp)
}
