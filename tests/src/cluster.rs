//! A real Kubernetes that somebody has brought up: `cargo xtask cluster`, with Sluice installed.
//!
//! **Invariant: one door.** Everything goes through `cargo xtask cluster kubectl` and `… node`, as a person would go.
use std::{
    env,
    ffi::OsString,
    fmt::Debug,
    io::Write as _,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// The image that test pods run: upstream's, with a shell and clients in it.
pub const IMAGE: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";

/// Longest wait for what a cluster does by itself. It ends waits for what never comes, and measures nothing.
const PATIENCE: Duration = Duration::from_secs(180);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// The cluster that is up.
#[derive(Debug)]
pub struct Cluster {
    door: Vec<OsString>,
}

impl Cluster {
    /// The cluster `SLUICE_CLUSTER` (else the default one); `SLUICE_XTASK` names the program that leads there, `cargo xtask`
    /// when it is not set.
    ///
    /// # Errors
    /// When no cluster answers.
    pub fn connect() -> Result<Self> {
        let mut door = match env::var_os("SLUICE_XTASK") {
            Some(program) => vec![program, "cluster".into()],
            None => ["cargo", "xtask", "cluster"].map(OsString::from).to_vec(),
        };
        if let Some(name) = env::var_os("SLUICE_CLUSTER") {
            door.extend(["--name".into(), name]);
        }
        let cluster = Self { door };
        cluster.kubectl(&["get", "--raw", "/readyz"]).context("is a cluster up? (cargo xtask cluster up)")?;
        Ok(cluster)
    }

    /// A command behind the door.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.door[0]);
        command.args(&self.door[1..]).args(words).stdin(Stdio::null());
        command
    }

    /// Runs `cluster WORDS…`.
    ///
    /// # Errors
    /// When it fails; with what it said.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        output(words, self.command(words).output())
    }

    /// Runs kubectl.
    ///
    /// # Errors
    /// When it fails; with what it said.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.run(&[&["kubectl", "--"], args].concat())
    }

    /// Runs a command in all of a node's namespaces; `number` counts from 1.
    ///
    /// # Errors
    /// When it fails; with what it said.
    pub fn node(&self, number: usize, words: &[&str]) -> Result<String> {
        self.run(&[&["node", &number.to_string(), "--"], words].concat())
    }

    /// Applies objects, as YAML.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn apply(&self, namespace: &str, yaml: &str) -> Result<()> {
        let words = ["kubectl", "--", "apply", "-n", namespace, "-f", "-"];
        let mut child = self
            .command(&words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("a piped input")?.write_all(yaml.as_bytes())?;
        output(&words, child.wait_with_output()).map(drop)
    }

    /// An object, or a list.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, namespace: &str, what: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "-n", namespace, "-o", "json"], what].concat())?;
        serde_json::from_str(&text).context("kubectl's JSON")
    }

    /// Waits until a rollout is through.
    ///
    /// # Errors
    /// When it is not in time.
    pub fn rolled_out(&self, namespace: &str, what: &str) -> Result<()> {
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        self.kubectl(&["rollout", "status", "-n", namespace, what, &timeout]).map(drop)
    }

    /// Waits until a condition of objects holds.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_for(&self, namespace: &str, condition: &str, what: &[&str]) -> Result<()> {
        let (condition, timeout) =
            (format!("--for={condition}"), format!("--timeout={}s", PATIENCE.as_secs()));
        self.kubectl(&[&["wait", "-n", namespace, &condition, &timeout], what].concat()).map(drop)
    }

    /// Runs a shell command in a pod.
    ///
    /// # Errors
    /// When it fails; with what it said.
    pub fn shell(&self, namespace: &str, pod: &str, script: &str) -> Result<String> {
        self.kubectl(&["exec", "-n", namespace, pod, "--", "sh", "-c", script])
    }

    /// Starts a shell command in a pod, with its output to be read at the end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_shell(&self, namespace: &str, pod: &str, script: &str) -> Result<Child> {
        let words = ["kubectl", "--", "exec", "-n", namespace, pod, "--", "sh", "-c", script];
        self.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("starting kubectl")
    }

    /// Makes a namespace that goes with the returned guard.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn namespace(&self, name: &str) -> Result<Namespace<'_>> {
        let name = format!("{name}-{}", std::process::id());
        self.kubectl(&["create", "namespace", &name])?;
        Ok(Namespace { cluster: self, name })
    }
}

/// A namespace of one test.
#[derive(Debug)]
pub struct Namespace<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl Namespace<'_> {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Applies objects in it.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        self.cluster.apply(&self.name, yaml)
    }

    /// Starts a pod that does nothing but be asked for commands, on one node or any, and waits until it runs.
    ///
    /// # Errors
    /// When it does not start in time.
    pub fn client(&self, name: &str, node: Option<&str>) -> Result<()> {
        self.apply(&pod(name, "client", node, &["pause"]))?;
        self.cluster.wait_for(&self.name, "condition=Ready", &[&format!("pod/{name}")])
    }

    /// Runs a shell command in one of its pods.
    ///
    /// # Errors
    /// When it fails; with what it said.
    pub fn shell(&self, pod: &str, script: &str) -> Result<String> {
        self.cluster.shell(&self.name, pod, script)
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.kubectl(&["delete", "namespace", &self.name, "--wait=false"]) {
            eprintln!("namespace {} stays: {error:#}", self.name);
        }
    }
}

/// A pod with the label `app`, as YAML.
pub fn pod(name: &str, app: &str, node: Option<&str>, args: &[&str]) -> String {
    let node = node.map(|node| format!("nodeName: {node}, ")).unwrap_or_default();
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: {app}}}}}, spec: {{{node}\
         terminationGracePeriodSeconds: 0, containers: [{{name: c, image: '{IMAGE}', args: {args:?}}}]}}}}\n---\n"
    )
}

/// Looks until there is an answer.
///
/// # Errors
/// When there is none in time; with what was seen last.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(error) if started.elapsed() > PATIENCE => {
                return Err(error.context(format!("waiting until {what}")));
            }
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

fn output(words: &[&str], output: std::io::Result<Output>) -> Result<String> {
    let Output { status, stdout, stderr } =
        output.with_context(|| format!("starting {}", words.join(" ")))?;
    let text = String::from_utf8_lossy(&stdout).into_owned();
    if !status.success() {
        bail!("{}: {status}\n{text}{}", words.join(" "), String::from_utf8_lossy(&stderr));
    }
    Ok(text)
}

/// Requests that a pod makes all the time: new connections one after the other, and one connection that is kept.
#[derive(Debug)]
pub struct Load<'a> {
    namespace: &'a Namespace<'a>,
    pod: String,
    fresh: Child,
    kept: Child,
}

/// What came of the requests.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// Requests on new connections that were answered.
    pub answered: usize,
    /// Requests on new connections that were not.
    pub failed: usize,
    /// Requests on the kept connection that were answered.
    pub kept: usize,
    /// Requests on the kept connection that were not, or needed another connection.
    pub broken: usize,
}

/// Marks the end of the load, in the pod.
const STOP: &str = "/tmp/stop";

impl<'a> Load<'a> {
    /// Starts asking `fresh` for new connections, and `kept` for one that lasts.
    ///
    /// # Errors
    /// When the pod cannot be entered.
    pub fn start(namespace: &'a Namespace<'a>, pod: &str, fresh: &str, kept: &str) -> Result<Self> {
        // No retry: a request that fails is counted.
        let asks = format!(
            "while [ ! -e {STOP} ]; do curl -s -o /dev/null -m 5 -w '%{{http_code}} %{{errormsg}}\\n' {fresh} || true; done"
        );
        // To standard error, which is not buffered: the program is ended by a signal.
        let keeps = format!(
            "curl -s -o /dev/null --rate 10/s -w '%{{stderr}}%{{http_code}} %{{num_connects}}\\n' '{kept}?n=[1-100000]' 2>&1 & \
             while [ ! -e {STOP} ]; do sleep 0.1; done; kill $!"
        );
        let start = |script: &str| namespace.cluster.start_shell(&namespace.name, pod, script);
        Ok(Self { namespace, pod: pod.to_owned(), fresh: start(&asks)?, kept: start(&keeps)? })
    }

    /// Stops and counts.
    ///
    /// # Errors
    /// When the pod, or its requests, did not live to be counted.
    pub fn stop(self) -> Result<Tally> {
        self.namespace.shell(&self.pod, &format!("touch {STOP}"))?;
        let fresh = output(&["new connections"], self.fresh.wait_with_output())?;
        let kept = output(&["kept connection"], self.kept.wait_with_output())?;
        self.namespace.shell(&self.pod, &format!("rm {STOP}"))?;
        let mut tally = Tally::default();
        for line in fresh.lines() {
            if line.starts_with("200") {
                tally.answered += 1;
            } else {
                eprintln!("a new connection: {line}");
                tally.failed += 1;
            }
        }
        for (index, line) in kept.lines().enumerate() {
            if line == if index == 0 { "200 1" } else { "200 0" } {
                tally.kept += 1;
            } else {
                eprintln!("the kept connection, request {index}: {line}");
                tally.broken += 1;
            }
        }
        eprintln!("{tally:?}");
        Ok(tally)
    }
}

impl Tally {
    /// Nothing was lost, and something was asked.
    ///
    /// # Errors
    /// When a request failed, the kept connection broke, or nothing was asked at all.
    pub fn check(self) -> Result<()> {
        ensure!(self.failed == 0 && self.broken == 0, "requests were lost: {self:?}");
        ensure!(self.answered > 0 && self.kept > 0, "nothing was asked: {self:?}");
        Ok(())
    }
}
