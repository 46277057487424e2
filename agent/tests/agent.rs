//! The agent's binary in a network namespace and on a bpf file system of its own: started, killed, upgraded, stopped,
//! cleaned up. Needs root.

use std::{
    cell::RefCell,
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use aya::programs::{SchedClassifier, TcAttachType};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rtnetlink::RouteMessageBuilder;
use serde_json::Value;
use sluice_api::{
    client::{Client, ClientError},
    endpoint::Registration,
};
use sluice_cni::{
    attachment::{self, Attachment},
    config,
    ipam::{
        Ipam,
        range::{Range, RangeSet},
    },
};
use sluice_maps::testing::PrivateBpffs;
use tempfile::TempDir;

mod netns;

/// Longest wait for a line of the log.
const PATIENCE: Duration = Duration::from_secs(60);

const NODES: &str = "
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [10.244.1.0/24]}
status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
spec: {podCIDRs: [10.244.2.0/24]}
status: {addresses: [{type: InternalIP, address: 10.0.0.2}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
";

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: db-0, namespace: shop, uid: b7c1, labels: {app: db}}
spec: {nodeName: n1, containers: []}
status: {phase: Pending}
";

/// A node of a test's own.
struct Node {
    dir: TempDir,
    bpffs: PrivateBpffs,
}

/// A running agent and what it says.
struct Agent {
    child: Child,
    lines: Receiver<Value>,
    heard: RefCell<Vec<Value>>,
}

impl Node {
    /// Must be made inside [`netns::within`].
    async fn new() -> Self {
        let bpffs = PrivateBpffs::mount();
        let handle = netns::connect();
        netns::add_veth(&handle, "up0", &[("10.0.0.1", 24)]).await;
        let route =
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().gateway("10.0.0.254".parse().expect("v4"));
        handle.route().add(route.build()).execute().await.expect("a default route");
        let node = Self { dir: tempfile::tempdir().expect("a folder"), bpffs };
        fs::create_dir(node.path("objects")).expect("a folder");
        fs::create_dir(node.path("net.d")).expect("a folder");
        fs::write(node.path("objects/nodes.yaml"), NODES).expect("a file");
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, task: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice-agent"));
        command.args([task, "--node-name", "n1", "--log-format", "json"]);
        command.args(["--source", &format!("dir:{}", self.path("objects").display())]);
        command.arg("--bpffs").arg(self.bpffs.path());
        command.arg("--socket").arg(self.path("agent.sock"));
        command.arg("--state-dir").arg(self.path("state"));
        command.arg("--cni-conf-dir").arg(self.path("net.d"));
        command.args(["--cgroup-root", "none"]); // the machine's is not ours
        command.arg("--cni-bin-dir").arg(self.path("bin"));
        command.arg("--lease-dir").arg(self.path("leases"));
        command
    }

    fn start(&self) -> Agent {
        let mut child = self.command("run").stderr(Stdio::piped()).spawn().expect("the agent");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                // What is not JSON (a panic) is passed on as text.
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Agent { child, lines, heard: RefCell::default() }
    }

    fn cleanup(&self) -> ExitStatus {
        self.command("cleanup").output().expect("the agent").status
    }

    async fn client(&self) -> Client {
        Client::connect(&self.path("agent.sock")).await.expect("the agent's socket")
    }

    fn conflist(&self) -> PathBuf {
        self.path("net.d/10-sluice.conflist")
    }

    /// Leases an address to a pod's interface as the CNI plugin does; the name of its host-side veth.
    fn lease(&self, attachment: &Attachment) -> String {
        let range = Range::new("10.244.1.0/24".parse().expect("a range"), None, None).expect("a good range");
        let ranges = vec![RangeSet::new(vec![range]).expect("a good set")];
        let config = config::Ipam { ranges, data_dir: self.path("leases"), quarantine: Duration::ZERO };
        Ipam::new("sluice", &config).lease(attachment).expect("a lease");
        attachment.host_ifname()
    }

    fn pins(&self) -> PathBuf {
        sluice_maps::pin_dir(self.bpffs.path())
    }
}

impl Agent {
    /// Waits for a log message, unless it was said before.
    fn says(&self, message: &str) -> Value {
        self.hears(message, |_| true)
    }

    /// The same with a field of that value.
    fn says_with(&self, message: &str, field: &str, value: &Value) -> Value {
        self.hears(message, |fields| fields[field] == *value)
    }

    fn hears(&self, message: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let is_it = |line: &&Value| line["fields"]["message"] == message && fits(&line["fields"]);
        let mut heard = self.heard.borrow_mut();
        if let Some(line) = heard.iter().find(is_it) {
            return line.clone();
        }
        loop {
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
                panic!("{message:?} was not said, but: {heard:#?}");
            };
            heard.push(line.clone());
            if is_it(&&line) {
                return line;
            }
        }
    }

    /// Waits until pods can be made.
    fn started(&self) {
        self.says("CNI configuration written");
    }

    fn stop(mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("a running agent");
        self.child.wait().expect("its end")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // After a failed test only.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip (iproute2)");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn our_routes() -> Vec<String> {
    ip("route show proto 83").lines().map(|line| line.trim().to_owned()).collect()
}

async fn register(client: &mut Client, device: &str, ifindex: u32) -> Registration {
    let registration = Registration {
        container: "5f3c".to_owned(),
        ifname: "eth0".to_owned(),
        host_ifname: device.to_owned(),
        host_ifindex: ifindex,
        mac: "02:00:00:00:00:0a".to_owned(),
        addresses: vec!["10.244.1.7".parse().expect("an address")],
        pod_namespace: "shop".to_owned(),
        pod_name: "db-0".to_owned(),
        pod_uid: Some("b7c1".to_owned()),
    };
    client.register(&registration).await.expect("registered");
    registration
}

/// An answer of the agent's socket, headers and all.
fn get(socket: &Path, path: &str) -> String {
    let mut stream = UnixStream::connect(socket).expect("a connection");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

#[test]
fn the_configuration_comes_last_and_a_clean_stop_leaves_the_datapath() {
    netns::within(|| async {
        let node = Node::new().await;
        let agent = node.start();
        agent.says("first plan in force");
        agent.started();
        node.client().await.ready().await.expect("ready before pods can be made");
        let conflist: Value = serde_json::from_slice(&fs::read(node.conflist()).expect("it")).expect("JSON");
        assert_eq!(conflist["plugins"][0]["ipam"]["ranges"][0][0]["subnet"], "10.244.1.0/24");
        let metrics = get(&node.path("agent.sock"), "/metrics");
        assert!(
            metrics.contains("sluice_ready 1\n") && metrics.contains("sluice_dropped_packets_total{reason="),
            "{metrics}"
        );
        assert!(agent.stop(Signal::SIGTERM).success());
        assert!(!exists(&node.path("agent.sock")), "the socket goes");
        assert!(exists(&node.pins().join("RULES")) && exists(&node.conflist()), "the datapath stays");
    });
}

#[test]
fn a_pod_is_in_force_when_its_object_is_known_and_outlives_a_killed_agent() {
    netns::within(|| async {
        let node = Node::new().await;
        let agent = node.start();
        agent.started();
        let mut client = node.client().await;
        let ifindex = netns::add_veth(&netns::connect(), "sl5f3c", &[]).await;
        let registration = register(&mut client, "sl5f3c", ifindex).await;
        let refused =
            client.await_in_force("5f3c", "eth0", Duration::from_millis(50)).await.expect_err("too early");
        assert!(
            matches!(&refused, ClientError::Refused { message, .. } if message.contains("pod shop/db-0 is not known"))
        );
        fs::write(node.path("objects/pod.yaml"), POD).expect("a file");
        client.await_in_force("5f3c", "eth0", PATIENCE).await.expect("in force");
        agent.stop(Signal::SIGKILL);

        let agent = node.start();
        agent.says("endpoints recovered");
        agent.says("first plan in force");
        let mut client = node.client().await;
        let endpoints = client.endpoints().await.expect("a list");
        assert_eq!(endpoints.len(), 1);
        assert_eq!((&endpoints[0].registration, endpoints[0].in_force), (&registration, true));
        client.remove("5f3c", "eth0").await.expect("removed");
        client.remove("5f3c", "eth0").await.expect("removed twice");
        assert!(client.endpoints().await.expect("a list").is_empty());
        assert!(agent.stop(Signal::SIGINT).success());
    });
}

#[test]
fn pods_whose_pins_are_lost_get_their_programs_again() {
    netns::within(|| async {
        let node = Node::new().await;
        fs::write(node.path("objects/pod.yaml"), POD).expect("a file");
        let attachment = Attachment {
            container: "5f3c".to_owned(),
            ifname: "eth0".to_owned(),
            pod: attachment::Pod {
                namespace: Some("shop".to_owned()),
                name: Some("db-0".to_owned()),
                uid: Some("b7c1".to_owned()),
            },
        };
        let device = node.lease(&attachment);
        netns::add_veth(&netns::connect(), &device, &[]).await;
        netns::add_veth(&netns::connect(), "slunknown", &[]).await;
        for device in [&device, "slunknown"] {
            ip(&format!("link set {device} alias sluice:sluice"));
        }
        let agent = node.start();
        agent.says_with("pod's programs were gone: attached again", "device", &Value::from(device.as_str()));
        agent.says_with("pod without programs or lease: shut", "device", &Value::from("slunknown"));
        agent.says("agent started");
        let mut client = node.client().await;
        client.await_in_force("5f3c", "eth0", PATIENCE).await.expect("in force");
        let endpoints = client.endpoints().await.expect("a list");
        assert_eq!(endpoints.len(), 1);
        let mac = attachment.pod_mac().map(|byte| format!("{byte:02x}")).join(":");
        let registration = &endpoints[0].registration;
        assert_eq!((&registration.pod_name, &registration.mac), (&"db-0".to_owned(), &mac));
        for device in [&device, "slunknown"] {
            let (_, programs) = SchedClassifier::query_tcx(device, TcAttachType::Ingress).expect("programs");
            assert_eq!(programs.len(), 1, "{device}");
        }

        // Taken away under the running agent, which starts over.
        fs::remove_dir_all(node.bpffs.path().join("sluice")).expect("removed");
        agent.says("pinned maps and programs are gone, pods are without policy: starting over");
        let mut agent = agent;
        assert!(!agent.child.wait().expect("its end").success());
        let agent = node.start();
        agent.says("pod's programs were gone: attached again");
        agent.says("agent started");
        node.client().await.await_in_force("5f3c", "eth0", PATIENCE).await.expect("in force");
    });
}

#[test]
fn what_the_node_lacks_is_said_before_anything_is_loaded() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice-agent"));
    command.args(["run", "--node-name", "n1", "--source", "dir:/none"]).arg("--bpffs").arg(folder.path());
    let output = command.output().expect("the agent");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && words.contains("no bpf file system is mounted at"), "{words}");
    assert!(words.contains("install --mount-bpffs"), "{words}");
}

#[test]
fn health_has_an_address_of_its_own_without_metrics() {
    netns::within(|| async {
        ip("link set lo up");
        let node = Node::new().await;
        let mut command = node.command("run");
        command.args(["--health-address", "127.0.0.1:9961"]).stderr(Stdio::null());
        let mut agent = command.spawn().expect("the agent");
        let ask = |path: &str| {
            let mut stream = std::net::TcpStream::connect("127.0.0.1:9961").ok()?;
            write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            Some(answer.lines().next()?.to_owned())
        };
        let begun = std::time::Instant::now();
        while ask("/readyz").is_none_or(|answer| !answer.contains("200")) {
            assert!(begun.elapsed() < PATIENCE, "{:?}", ask("/readyz"));
        }
        assert!(ask("/healthz").is_some_and(|answer| answer.contains("200")));
        assert!(ask("/metrics").is_some_and(|answer| answer.contains("404")));
        agent.kill().expect("it runs");
        agent.wait().expect("its end");
    });
}

#[test]
fn an_endpoint_goes_with_its_link_also_while_no_agent_runs() {
    netns::within(|| async {
        let node = Node::new().await;
        fs::write(node.path("objects/pod.yaml"), POD).expect("a file");
        let handle = netns::connect();
        let agent = node.start();
        agent.started();
        let ifindex = netns::add_veth(&handle, "sl5f3c", &[]).await;
        register(&mut node.client().await, "sl5f3c", ifindex).await;
        handle.link().del(ifindex).execute().await.expect("deleted");
        agent.says("endpoint removed");
        assert!(node.client().await.endpoints().await.expect("a list").is_empty());

        let ifindex = netns::add_veth(&handle, "sl5f3c", &[]).await;
        register(&mut node.client().await, "sl5f3c", ifindex).await;
        agent.stop(Signal::SIGKILL);
        handle.link().del(ifindex).execute().await.expect("deleted");
        let agent = node.start();
        agent.says("endpoint's interface is gone");
        agent.says("first plan in force");
        assert!(node.client().await.endpoints().await.expect("a list").is_empty());
        let maps = sluice_maps::Maps::open(node.bpffs.path()).expect("the maps");
        assert_eq!(maps.endpoint_meta.count().expect("a count"), 0, "its name is forgotten");
        assert_eq!(maps.interfaces.count().expect("a count"), 0);
    });
}

#[test]
fn a_restart_in_an_unchanged_cluster_writes_nothing() {
    netns::within(|| async {
        let node = Node::new().await;
        fs::write(node.path("objects/pod.yaml"), POD).expect("a file");
        let agent = node.start();
        agent.started();
        let ifindex = netns::add_veth(&netns::connect(), "sl5f3c", &[]).await;
        let mut client = node.client().await;
        register(&mut client, "sl5f3c", ifindex).await;
        client.await_in_force("5f3c", "eth0", PATIENCE).await.expect("in force");
        agent.stop(Signal::SIGKILL);
        let agent = node.start();
        assert_eq!(agent.says("first plan in force")["fields"]["steps"], 0);
        agent.says("CNI configuration is as it should be");
    });
}

#[test]
fn cleanup_removes_what_the_agent_made_and_nothing_else() {
    netns::within(|| async {
        let node = Node::new().await;
        fs::write(node.path("net.d/20-other.conflist"), "{}").expect("another's");
        let agent = node.start();
        agent.started();
        agent.says("routes changed");
        assert_eq!(our_routes().len(), 2);
        assert!(!node.cleanup().success(), "not under a running agent");
        agent.stop(Signal::SIGKILL);
        for _ in 0..2 {
            assert!(node.cleanup().success());
            assert!(our_routes().is_empty());
            assert!(!exists(&node.bpffs.path().join("sluice")) && !exists(&node.path("agent.sock")));
            assert!(!exists(&node.path("state")), "nothing is in it any more");
            assert!(!exists(&node.conflist()) && exists(&node.path("net.d/20-other.conflist")));
        }
    });
}

#[test]
fn cleanup_takes_the_plugin_along_when_no_pod_needs_it_any_more() {
    netns::within(|| async {
        let node = Node::new().await;
        let plugin = node.path("bin/sluice-cni");
        fs::create_dir(node.path("bin")).expect("a folder");
        fs::write(&plugin, "a plugin").expect("a file");
        let attachment = Attachment::new("5f3c", "eth0").expect("good names");
        let device = node.lease(&attachment);
        let ifindex = netns::add_veth(&netns::connect(), &device, &[]).await;
        let agent = node.start();
        agent.started();
        agent.stop(Signal::SIGKILL);
        assert!(node.cleanup().success());
        assert!(!exists(&node.bpffs.path().join("sluice")), "what holds it goes all the same");
        assert!(exists(&node.conflist()) && exists(&plugin), "a pod is left, whose end needs them");
        netns::connect().link().del(ifindex).execute().await.expect("its end");
        assert!(node.cleanup().success());
        assert!(!exists(&node.conflist()) && !exists(&plugin) && !exists(&node.path("leases")));
    });
}

#[test]
fn a_new_uplink_gets_its_program_and_a_refused_one_is_tried_again() {
    netns::within(|| async {
        let node = Node::new().await;
        let agent = node.start();
        agent.started();
        let mut client = node.client().await;
        client.ready().await.expect("ready with its first uplink");
        let ifindex = netns::add_veth(&netns::connect(), "up1", &[("10.0.1.1", 24)]).await;
        let obstacle = node.pins().join(format!("links/{ifindex}-from_netdev"));
        fs::create_dir(&obstacle).expect("something where the link's pin goes");
        ip("route replace default via 10.0.1.254 dev up1");
        let up1 = Value::from("up1");
        agent.says_with("uplink has no program: trying again", "device", &up1);
        let refused = client.ready().await.expect_err("an uplink is missing");
        assert!(refused.to_string().contains("uplink up1 has no program yet"), "{refused}");
        fs::remove_dir(&obstacle).expect("removed");
        agent.says_with("programs attached to uplink", "device", &up1);
        client.ready().await.expect("ready again");
        let (_, programs) = SchedClassifier::query_tcx("up1", TcAttachType::Ingress).expect("programs");
        assert_eq!(programs.len(), 1);
    });
}

#[test]
fn the_nodes_stack_forwards_for_uplinks_until_cleanup() {
    netns::within(|| async {
        let node = Node::new().await;
        let settings = ["ipv4/conf/up0/forwarding", "ipv6/conf/up0/forwarding", "ipv6/conf/all/forwarding"];
        let read =
            || settings.map(|path| fs::read_to_string(format!("/proc/sys/net/{path}")).expect("a setting"));
        for path in settings {
            fs::write(format!("/proc/sys/net/{path}"), "0").expect("a setting");
        }
        let agent = node.start();
        agent.says("sysctls set");
        agent.started();
        assert_eq!(read(), ["1\n", "0\n", "0\n"], "no pod has an IPv6 address");
        let nodes = NODES.replace("[10.244.1.0/24]", "[10.244.1.0/24, 'fd00:10:244:1::/64']");
        fs::write(node.path("objects/nodes.yaml"), nodes).expect("a file");
        agent.hears("sysctls set", |fields| fields["count"] != 1);
        assert_eq!(read(), ["1\n"; 3]);
        agent.stop(Signal::SIGKILL);
        let agent = node.start();
        agent.says("first plan in force");
        agent.stop(Signal::SIGTERM);
        assert!(node.cleanup().success());
        assert_eq!(read(), ["0\n"; 3]);
        assert!(!exists(&node.path("state")), "the record goes too");
    });
}

#[test]
fn a_second_agent_on_a_node_is_refused() {
    netns::within(|| async {
        let node = Node::new().await;
        let agent = node.start();
        agent.started();
        let second = node.command("run").output().expect("the agent");
        assert!(!second.status.success());
        let words = String::from_utf8_lossy(&second.stderr);
        assert!(words.contains("another sluice-agent holds it"), "{words}");
        node.client().await.ready().await.expect("the first goes on");
    });
}
