//! A node: its namespaces, its agent, its runtime's calls of the plugin.

use std::{
    fs::{self, File},
    io::Write as _,
    net::IpAddr,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use sluice_api::client::Client;
use sluice_maps::Maps;

use super::{
    FORWARDING, OBJECTS, binary, eventually,
    namespace::{Mounts, Netns, mount_new, words_of},
};
use crate::cgroup::OwnCgroup;

const CONFLIST: &str = "/run/cni/10-sluice.conflist";
const SOCKET: &str = "/run/sluice/agent.sock";

/// How an agent is started.
#[derive(Clone, Debug, Default)]
pub struct AgentOptions {
    /// More arguments.
    pub args: Vec<String>,
    /// What runs the agent, as `strace`, with its own arguments.
    pub under: Vec<String>,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Name of its Node object.
    pub name: String,
    /// 1, 2, …
    pub number: u8,
    /// Its network.
    pub netns: Netns,
    /// Its mounts: `/run/sluice`, `/run/cni`, `/var/lib` and `/sys/fs/bpf` are its own.
    pub mounts: Mounts,
    /// The cgroup of its processes.
    cgroup: PathBuf,
    agent: Mutex<Option<Child>>,
}

/// Why the plugin said no.
#[derive(Debug, thiserror::Error)]
#[error("CNI {verb} of {container}: code {code}: {message}")]
pub struct CniError {
    /// `ADD`, `DEL`, …
    pub verb: &'static str,
    /// Which container.
    pub container: String,
    /// CNI error code.
    pub code: u64,
    /// Its words.
    pub message: String,
}

/// What a runtime tells the plugin about a container.
#[derive(Clone, Copy, Debug)]
pub struct Container<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its network namespace.
    pub netns: &'a Netns,
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod's name.
    pub pod: &'a str,
    /// The pod's uid.
    pub uid: &'a str,
}

impl Node {
    pub(super) fn new(number: u8, shared: &Mounts, router: &Netns, cgroup: &OwnCgroup) -> Result<Self> {
        let mounts = Mounts::new(Some(shared), || {
            for folder in ["/run/sluice", "/run/cni", "/var/lib"] {
                mount_new("tmpfs", folder)?;
            }
            mount_new("bpf", "/sys/fs/bpf")
        })?;
        let netns = Netns::new()?;
        netns.sysctls(FORWARDING)?;
        router.ip_batch(&format!(
            "link add node{number} type veth peer name eth0 netns {}
             link set node{number} master br0 up
             route add 10.244.{number}.0/24 via 192.0.2.1{number}
             route add fd00:10:244:{number}::/64 via 2001:db8:2::1{number}\n",
            netns.path().display(),
        ))?;
        netns.ip_batch(&format!(
            "link set lo up
             addr add 192.0.2.1{number}/24 dev eth0
             addr add 2001:db8:2::1{number}/64 dev eth0 nodad
             link set eth0 up
             route add default via 192.0.2.1
             route add default via 2001:db8:2::1\n"
        ))?;
        let (name, cgroup) = (format!("node-{number}"), cgroup.path());
        Ok(Self { name, number, netns, mounts, cgroup, agent: Mutex::default() })
    }

    /// The node's own addresses.
    pub fn addresses(&self) -> [IpAddr; 2] {
        let last = 10 + self.number;
        let v6 = format!("2001:db8:2::{last}");
        [IpAddr::from([192, 0, 2, last]), v6.parse().expect("an address")]
    }

    /// Its Node object.
    pub fn object(&self) -> Value {
        let number = self.number;
        let addresses = self.addresses().map(|address| json!({"type": "InternalIP", "address": address}));
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name},
            "spec": {"podCIDRs": [format!("10.244.{number}.0/24"), format!("fd00:10:244:{number}::/64")]},
            "status": {"addresses": addresses},
        })
    }

    /// A command that runs in the node. It dies with the calling thread.
    ///
    /// # Errors
    /// When the namespaces' files cannot be duplicated.
    pub fn command(&self, program: impl AsRef<std::path::Path>) -> Result<Command> {
        self.netns.command(Some(&self.mounts), program)
    }

    /// The answer of `sluice ARGS…`, run in the node.
    ///
    /// # Errors
    /// When it fails.
    pub fn sluice(&self, args: &str) -> Result<String> {
        let output = self.command(binary("sluice")?)?.args(args.split_whitespace()).output();
        words_of(&output.context("starting sluice")?)
            .with_context(|| format!("sluice {args} on {}", self.name))
    }

    /// The answer of `sluice ARGS… -o json`.
    ///
    /// # Errors
    /// When it fails or answers something else.
    pub fn sluice_json(&self, args: &str) -> Result<Value> {
        let text = self.sluice(&format!("{args} -o json"))?;
        serde_json::from_str(&text).with_context(|| format!("reading the answer of sluice {args}"))
    }

    /// The node's maps.
    ///
    /// # Errors
    /// When they are not there.
    pub fn maps(&self) -> Result<Maps> {
        Maps::open(&self.bpffs()).with_context(|| format!("opening the maps of {}", self.name))
    }

    /// The node's BPF file system, for processes outside.
    pub fn bpffs(&self) -> PathBuf {
        self.mounts.path("/sys/fs/bpf")
    }

    /// Starts the agent and does not wait for it. It dies with the calling thread.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_agent(&self, options: &AgentOptions) -> Result<()> {
        let log = self.mounts.path(self.log_path());
        let log = File::options().create(true).append(true).open(&log).context("opening the agent's log")?;
        let agent = binary("sluice-agent")?;
        let mut words = options.under.iter().map(PathBuf::from).chain([agent]);
        let mut command = self.command(words.next().expect("the agent at least"))?;
        command.args(words).args(["--node-name", &self.name, "--source", &format!("dir:{OBJECTS}")]);
        command.args(["--cni-conf-dir", "/run/cni"]).arg("--cgroup-root").arg(&self.cgroup);
        command.args(&options.args);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        *self.agent() = Some(child.context("starting sluice-agent")?);
        Ok(())
    }

    /// Waits until pods can be made: the agent is ready and its CNI configuration is there.
    ///
    /// # Errors
    /// When the agent ends or takes too long; the error carries its log.
    pub fn await_ready(&self) -> Result<()> {
        let ask = || {
            let mut agent = self.agent();
            let child = agent.as_mut().context("no agent was started")?;
            if let Some(status) = child.try_wait().context("waiting for the agent")? {
                bail!("the agent has ended: {status}");
            }
            Ok(self.mounts.path(CONFLIST).exists() && self.is_ready()?)
        };
        eventually("the agent is ready", ask).with_context(|| format!("{}\n{}", self.name, self.log()))
    }

    fn is_ready(&self) -> Result<bool> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
        let socket = self.mounts.path(SOCKET);
        Ok(runtime.block_on(async { Client::connect(&socket).await?.ready().await }).is_ok())
    }

    /// Whether an agent was started and not stopped.
    pub fn has_agent(&self) -> bool {
        self.agent().is_some()
    }

    /// Process id of the agent, or of what runs it.
    pub fn agent_pid(&self) -> Option<u32> {
        self.agent().as_ref().map(Child::id)
    }

    /// Ends the agent and waits for its end.
    ///
    /// # Errors
    /// When there is none.
    pub fn stop_agent(&self, signal: Signal) -> Result<ExitStatus> {
        let mut child = self.agent().take().context("no agent was started")?;
        kill(Pid::from_raw(child.id().try_into()?), signal).context("sending the agent a signal")?;
        child.wait().context("waiting for the agent")
    }

    /// Everything the agents of this node have said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.mounts.path(self.log_path())).unwrap_or_default()
    }

    fn log_path(&self) -> String {
        format!("/run/log/{}.log", self.name)
    }

    fn agent(&self) -> MutexGuard<'_, Option<Child>> {
        // A child is whole whatever panicked beside it.
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls the plugin as a runtime does: the conflist's entry on stdin, the rest in the environment.
    ///
    /// # Errors
    /// [`CniError`] when the plugin says no; others when it cannot be called.
    pub fn cni(&self, verb: &'static str, container: &Container<'_>) -> Result<Value> {
        self.cni_with(verb, container, |_| {})
    }

    /// The same with a change to the configuration.
    ///
    /// # Errors
    /// As [`Node::cni`].
    pub fn cni_with(
        &self,
        verb: &'static str,
        container: &Container<'_>,
        change: impl FnOnce(&mut Value),
    ) -> Result<Value> {
        let conflist = fs::read(self.mounts.path(CONFLIST)).context("reading the CNI configuration")?;
        let conflist: Value = serde_json::from_slice(&conflist).context("reading the CNI configuration")?;
        let mut config = conflist["plugins"][0].clone();
        for field in ["cniVersion", "name"] {
            config[field] = conflist[field].clone();
        }
        change(&mut config);
        let mut child = self.plugin(verb, container)?.spawn().context("starting sluice-cni")?;
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin.write_all(config.to_string().as_bytes()).context("writing to sluice-cni")?;
        drop(stdin);
        let output = child.wait_with_output().context("waiting for sluice-cni")?;
        let answer = if output.stdout.is_empty() { b"null".as_slice() } else { &output.stdout };
        let answer: Value = serde_json::from_slice(answer).context("reading sluice-cni's answer")?;
        if output.status.success() {
            return Ok(answer);
        }
        let (text, details) = (answer["msg"].as_str(), answer["details"].as_str());
        let message = format!("{}: {}", text.unwrap_or_default(), details.unwrap_or_default());
        let code = answer["code"].as_u64().unwrap_or_default();
        Err(CniError { verb, container: container.id.to_owned(), code, message }.into())
    }

    /// The plugin, ready to run.
    fn plugin(&self, verb: &str, container: &Container<'_>) -> Result<Command> {
        let Container { id, netns, namespace, pod, uid } = container;
        let mut command = self.command(binary("sluice-cni")?)?;
        command.env_clear().envs([("CNI_COMMAND", verb), ("CNI_CONTAINERID", id), ("CNI_IFNAME", "eth0")]);
        command.env("CNI_NETNS", netns.path()).env("CNI_PATH", "/opt/cni/bin");
        command.env(
            "CNI_ARGS",
            format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod};K8S_POD_UID={uid}"),
        );
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.agent().take() {
            // It may be gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
