//! A node and its pods as network namespaces, and the real binary.
//!
//! A namespace lives as long as the file that holds it, so nothing can be left behind, however a test ends.

#![allow(dead_code, unreachable_pub, reason = "every test file is a crate and uses another part of this one")]

pub mod agent;

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::MsFlags,
    sched::{CloneFlags, setns, unshare},
};
use serde_json::{Value, json};

/// The node's own addresses: what it reaches its pods from.
pub const NODE_ADDRESSES: [&str; 2] = ["192.0.2.100/32", "fd99::100/128 nodad"];

/// A network namespace.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// Makes one.
    pub fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a namespace: these tests need root");
            File::open("/proc/thread-self/ns/net").expect("its file")
        };
        Self { file: thread::spawn(make).join().expect("a thread") }
    }

    /// A path under which other processes find it.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// Runs `inside` in the namespace, on a thread of its own.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let entered = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET).expect("the namespace");
            inside()
        };
        thread::scope(|scope| scope.spawn(entered).join().expect("what runs inside"))
    }

    /// A command that runs in the namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let file = OwnedFd::from(self.file.try_clone().expect("a copy of the file"));
        // SAFETY: setns is one system call: nothing that a fork of a threaded process must not do.
        unsafe { command.pre_exec(move || Ok(setns(&file, CloneFlags::CLONE_NEWNET)?)) };
        command
    }

    /// Output of `ip ARGS…` in the namespace.
    pub fn ip(&self, args: &str) -> String {
        let output = self.command("ip").args(args.split_whitespace()).output().expect("iproute2");
        assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Everything the plugin could leave here.
    pub fn contents(&self) -> String {
        self.await_local_routes();
        [
            "-o link",
            "-o addr",
            "-4 route show table all",
            "-6 route show table all",
            "neigh show nud permanent",
        ]
        .map(|what| self.ip(what))
        .join("--\n")
        .split(" state UNKNOWN")
        // The kernel moves a device's operational state from unknown to up some time after it is up.
        .flat_map(|part| part.split(" state UP"))
        .collect()
    }

    /// Waits for what the kernel does to IPv6 addresses on a queue of its own, after it has answered.
    fn await_local_routes(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let missing = || {
            let (addrs, routes) = (self.ip("-6 -o addr"), self.ip("-6 route show table local"));
            let addrs = addrs.lines().filter_map(|line| line.split_whitespace().nth(3)?.split('/').next());
            addrs.filter(|addr| !routes.contains(&format!("local {addr} "))).count()
        };
        while missing() > 0 {
            assert!(Instant::now() < deadline, "no local route for an address of\n{}", self.ip("-6 addr"));
        }
    }
}

/// A node: its namespace, its folder of leases, and the configuration of its network.
#[derive(Debug)]
pub struct Node {
    pub netns: Namespace,
    pub folder: tempfile::TempDir,
    pub config: Value,
}

impl Node {
    /// A node that forwards, with a network of both families and no agent.
    pub fn new() -> Self {
        let netns = Namespace::new();
        netns.ip("link set lo up");
        for addr in NODE_ADDRESSES {
            netns.ip(&format!("addr add {addr} dev lo"));
        }
        netns.enter(|| {
            for sysctl in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                fs::write(format!("/proc/sys/net/{sysctl}"), "1").expect("forwarding");
            }
        });
        let folder = tempfile::tempdir().expect("a folder");
        let config = json!({
            "cniVersion": "1.1.0", "name": "pods", "type": "sluice-cni",
            "ipam": {
                "ranges": [["10.244.1.0/24"], [{"subnet": "fd00:10:244:1::/64"}]],
                "dataDir": folder.path().join("leases"), "quarantineSeconds": 60,
            },
        });
        Self { netns, folder, config }
    }

    /// The binary, ready to run with these variables.
    pub fn plugin(&self, verb: &str, container: &str, netns: Option<&str>) -> Command {
        let mut command = self.netns.command(env!("CARGO_BIN_EXE_sluice-cni"));
        command.env_clear().env("CNI_COMMAND", verb).env("CNI_PATH", "/opt/cni/bin");
        if !container.is_empty() {
            command.env("CNI_CONTAINERID", container).env("CNI_IFNAME", "eth0");
        }
        command.env(
            "CNI_ARGS",
            format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME={container};K8S_POD_UID=u"),
        );
        if let Some(path) = netns {
            command.env("CNI_NETNS", path);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Calls the plugin with the node's configuration.
    pub fn call(&self, verb: &str, container: &str, pod: Option<&Namespace>) -> Answer {
        self.call_with(&self.config, verb, container, pod)
    }

    /// Calls the plugin with another configuration.
    pub fn call_with(&self, config: &Value, verb: &str, container: &str, pod: Option<&Namespace>) -> Answer {
        let path = pod.map(|pod| pod.path().display().to_string());
        run(self.plugin(verb, container, path.as_deref()), config)
    }

    /// The configuration with `prevResult`.
    pub fn config_after(&self, result: &Value) -> Value {
        let mut config = self.config.clone();
        config["prevResult"] = result.clone();
        config
    }

    /// Names of the lease files, without their boot: leases and released ones.
    pub fn leases(&self) -> Vec<String> {
        let boots = fs::read_dir(self.folder.path().join("leases/pods")).into_iter().flatten().flatten();
        let files = boots.flat_map(|boot| fs::read_dir(boot.path()).into_iter().flatten().flatten());
        files.map(|file| file.file_name().into_string().expect("a text name")).collect()
    }

    /// Lease files that stand for an address in use.
    pub fn leased(&self) -> Vec<String> {
        self.leases().into_iter().filter(|name| name.contains('@')).collect()
    }
}

/// What the plugin answered.
#[derive(Debug)]
pub struct Answer {
    pub success: bool,
    /// `null` when stdout is empty.
    pub json: Value,
    pub stderr: String,
}

impl Answer {
    /// The result of a call that must succeed.
    pub fn expect_success(self) -> Value {
        assert!(self.success, "{} {}", self.json, self.stderr);
        self.json
    }

    /// The CNI code of a call that must fail.
    pub fn code(&self) -> u64 {
        assert!(!self.success, "success where an error belongs: {}", self.json);
        self.json["code"].as_u64().expect("a code")
    }
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        let stdout = if output.stdout.is_empty() { b"null".as_slice() } else { &output.stdout };
        let json = serde_json::from_slice(stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(stdout)));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Self { success: output.status.success(), json, stderr }
    }
}

/// Runs a prepared call.
pub fn run(mut command: Command, config: &Value) -> Answer {
    let mut child = command.spawn().expect("the plugin");
    let mut stdin = child.stdin.take().expect("a pipe");
    // A plugin that needs no configuration may be gone already.
    let _ = stdin.write_all(config.to_string().as_bytes());
    drop(stdin);
    child.wait_with_output().expect("an answer").into()
}

/// Makes sysctls read-only for the calling process.
pub fn hide_sysctls() -> nix::Result<()> {
    let mount =
        |from: Option<&str>, to: &str, flags| nix::mount::mount(from, to, None::<&str>, flags, None::<&str>);
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None, "/", MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
    mount(Some("/proc/sys"), "/proc/sys", MsFlags::MS_BIND)?;
    mount(None, "/proc/sys", MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY)
}

/// The addresses in a result: IPv4 first, as configured.
pub fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().expect("addresses");
    let text = |ip: &Value| ip["address"].as_str().expect("an address").to_owned();
    ips.iter()
        .map(|ip| text(ip).split('/').next().expect("an address").parse().expect("an address"))
        .collect()
}

/// Whether a TCP connection from one namespace to an address in another carries data both ways.
pub fn echo(from: &Namespace, to: &Namespace, addr: IpAddr) -> std::io::Result<()> {
    let listener = to.enter(|| TcpListener::bind(SocketAddr::new(addr, 0)))?;
    let target = listener.local_addr()?;
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            let (mut stream, _) = listener.accept()?;
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            stream.write_all(&byte)
        });
        let client = from.enter(|| {
            let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(5))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"x")?;
            stream.read_exact(&mut [0])
        });
        if client.is_err() {
            // Lets the server's `accept` end.
            let _ = to.enter(|| TcpStream::connect(target));
        }
        let served = server.join().expect("the server");
        client.and(served)
    })
}
