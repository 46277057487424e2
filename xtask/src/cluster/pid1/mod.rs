//! Process 1 of a machine: this program again, inside the machine's namespaces.
//!
//! [`launch`] enters cgroups and the network namespace, makes the other namespaces and starts [`run`] in them, which
//! mounts what the machine sees, starts its components and answers on a socket. Its end ends all that runs in it.

mod control_plane;
mod mounts;
mod node;
mod supervisor;

use std::{
    fs::OpenOptions,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    thread,
};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CloneFlags, unshare},
    unistd::{getpid, setsid},
};
pub(super) use node::ctr_import;
use serde::{Deserialize, Serialize};
pub(super) use supervisor::ComponentStatus;
use supervisor::Supervisor;

use super::{
    cgroups::Hierarchies,
    place::{self, Place},
    plan::{Machine, Options},
    underlay,
};

/// What a machine is asked, as one line of JSON.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Request {
    /// Nothing: only its status.
    Status,
    /// Start a component that was taken down.
    Start(String),
    /// Take a component down, and keep it down.
    Stop(String),
    /// End a component and start it again.
    Restart(String),
}

/// What it answers, as one line of JSON.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Answer {
    /// All components that were started so far.
    pub components: Vec<ComponentStatus>,
    /// Why the request could not be met.
    pub error: Option<String>,
}

/// Starts a machine's process 1, prints its number, and ends.
///
/// Whoever called records the number: in the mount namespace here, process 1 already changes what `/proc` and `/run` are.
///
/// # Errors
/// When a namespace cannot be made or entered.
pub(super) fn launch(place: &Place, machine: Machine) -> Result<()> {
    let logs = place.logs(machine);
    place::make(&logs)?;
    place::make(&place.volatile())?;
    let path = logs.join("init.log");
    let log = OpenOptions::new().append(true).create(true).open(&path);
    let log = log.with_context(|| format!("opening {}", path.display()))?;
    let program = std::env::current_exe().context("finding this program")?;
    let hierarchies = Hierarchies::of_this_machine()?;
    hierarchies.enter(&place.cgroup(), &machine.to_string())?;
    underlay::enter(&place.namespace(machine))?;
    let namespaces = CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS;
    unshare(namespaces).context("making namespaces")?;
    hierarchies.make_room(&place.cgroup(), &machine.to_string())?;
    let child = Command::new(program)
        .args(["cluster", "--name", place.name(), "pid1", &machine.to_string()])
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("copying a handle")?)
        .stderr(log)
        .spawn()
        .context("starting process 1")?;
    println!("{}", child.id());
    Ok(())
}

/// Is process 1, for ever.
///
/// # Errors
/// When the machine cannot be set up.
pub(super) fn run(place: &Place, machine: Machine) -> Result<()> {
    anyhow::ensure!(getpid().as_raw() == 1, "this is no process 1: `cargo xtask cluster up` starts it");
    // Of its own session: what ends a terminal does not end it.
    setsid().context("making a session")?;
    let options: Options = super::read_options(place)?.context("the cluster has no options")?;
    // Made while /run is still this machine's: so it is reached from there.
    let listener = listen(&place.socket(machine))?;
    let hierarchies = Hierarchies::of_this_machine()?;
    mounts::private()?;
    let supervisor = Supervisor::new(place.logs(machine));
    let (place, sequence) = (place.clone(), Arc::clone(&supervisor));
    thread::spawn(move || {
        let started = match machine {
            Machine::ControlPlane => control_plane::start(&sequence, &place, &options),
            Machine::Node(_) => node::start(&sequence, &place, machine, &options, &hierarchies),
        };
        if let Err(error) = started {
            eprintln!("{machine}: {error:#}");
            std::process::exit(1);
        }
    });
    let server = Arc::clone(&supervisor);
    thread::spawn(move || serve(&listener, &server));
    supervisor.reap()
}

fn listen(path: &Path) -> Result<UnixListener> {
    place::remove(path)?;
    UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))
}

fn serve(listener: &UnixListener, supervisor: &Arc<Supervisor>) {
    for stream in listener.incoming().flatten() {
        let supervisor = Arc::clone(supervisor);
        thread::spawn(move || {
            if let Err(error) = answer(&stream, &supervisor) {
                eprintln!("answering: {error:#}");
            }
        });
    }
}

fn answer(mut stream: &UnixStream, supervisor: &Supervisor) -> Result<()> {
    let mut line = String::new();
    if BufReader::new(stream).read_line(&mut line).context("reading a request")? == 0 {
        return Ok(()); // only a look whether somebody is here
    }
    let request = serde_json::from_str(&line).with_context(|| format!("reading the request {line}"))?;
    let done = match request {
        Request::Status => Ok(()),
        Request::Start(name) => supervisor.start(&name),
        Request::Stop(name) => supervisor.stop(&name),
        Request::Restart(name) => supervisor.restart(&name),
    };
    let error = done.err().map(|error| format!("{error:#}"));
    let answer = Answer { components: supervisor.status(), error };
    let line = serde_json::to_string(&answer).context("writing an answer")? + "\n";
    stream.write_all(line.as_bytes()).context("writing an answer")
}

/// A component's program: from our folder, with a `PATH` that has the others and what Debian brings.
fn component(name: &str) -> Command {
    let bin = place::components();
    let mut command = Command::new(bin.join(name));
    command
        .env_clear()
        .env("HOME", "/root")
        .env(
            "PATH",
            format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()),
        )
        .current_dir("/");
    command
}
