//! `cluster status`: machines, their components, and what Kubernetes says of its nodes.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{
    kubectl, machine,
    pid1::{ComponentStatus, Request},
    place::Place,
    plan::{Machine, Options},
    read_options,
};

/// How a status is shown.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub(super) enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// A cluster.
#[derive(Debug, Serialize)]
struct Status {
    name: String,
    /// What was asked for; none when the cluster is down.
    options: Option<Options>,
    /// The administrator's access, inside the control plane's network namespace.
    kubeconfig: PathBuf,
    /// Where logs are: `MACHINE/log/COMPONENT.log`.
    folder: PathBuf,
    machines: Vec<MachineStatus>,
}

#[derive(Debug, Serialize)]
struct MachineStatus {
    name: String,
    up: bool,
    /// The `Ready` condition of a node (`True`, `False`, `Unknown`), when the API server answers.
    ready: Option<String>,
    /// Why it is not ready.
    reason: Option<String>,
    components: Vec<ComponentStatus>,
}

/// Prints it.
///
/// # Errors
/// When the cluster's options cannot be read.
pub(super) fn run(place: &Place, output: Output) -> Result<()> {
    let status = collect(place)?;
    match output {
        Output::Json => {
            println!("{}", serde_json::to_string_pretty(&status).context("writing the status")?);
        }
        Output::Table => print!("{}", table(&status)),
    }
    Ok(())
}

fn collect(place: &Place) -> Result<Status> {
    let options = read_options(place)?;
    let nodes = kubectl::nodes(place).unwrap_or_default(); // the API server may be what is down
    let machines = options.iter().flat_map(|options| Machine::all(options.nodes));
    let machines = machines.map(|machine| {
        let name = machine.to_string();
        let node = nodes.iter().find(|node| node.name == name);
        let answer = machine::ask(place, machine, &Request::Status);
        MachineStatus {
            up: machine::is_alive(place, machine),
            ready: node.and_then(|node| node.ready.clone()),
            reason: node.filter(|node| node.ready.as_deref() != Some("True")).map(|node| node.reason.clone()),
            components: answer.map(|answer| answer.components).unwrap_or_default(),
            name,
        }
    });
    Ok(Status {
        name: place.name().to_owned(),
        machines: machines.collect(),
        options,
        kubeconfig: place.kubeconfig(),
        folder: place.folder(),
    })
}

fn table(status: &Status) -> String {
    let Some(options) = &status.options else {
        return format!("cluster {} is down\n", status.name);
    };
    let mut text = format!("cluster {}: {options}\n", status.name);
    for machine in &status.machines {
        let ready = match machine.ready.as_deref() {
            Some("True") => "Ready",
            Some(_) => "NotReady",
            None => "",
        };
        let state = if machine.up { "up" } else { "down" };
        text += &format!("{:<14} {state:<5} {ready:<9}", machine.name);
        text += &machine.components.iter().map(component).collect::<Vec<_>>().join(", ");
        text += "\n";
        if let Some(reason) = machine.reason.as_deref().filter(|reason| !reason.is_empty()) {
            text += &format!("{:<20} {reason}\n", "");
        }
    }
    text + &format!("logs: {}/*/log, kubeconfig: {}\n", status.folder.display(), status.kubeconfig.display())
}

fn component(component: &ComponentStatus) -> String {
    let mut text = component.name.clone();
    if !component.running {
        text += " (down)";
    }
    if component.failures > 0 {
        text += &format!(" (failed {} times)", component.failures);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shows_what_is_not_as_it_should_be() {
        let component = |name: &str, running, failures| ComponentStatus {
            name: name.to_owned(),
            running,
            starts: failures + 1,
            failures,
            last_end: None,
        };
        let status = Status {
            name: "sluice".to_owned(),
            options: Some(Options::default()),
            kubeconfig: "/k".into(),
            folder: "/f".into(),
            machines: vec![MachineStatus {
                name: "n1".to_owned(),
                up: true,
                ready: Some("False".to_owned()),
                reason: Some("no network".to_owned()),
                components: vec![component("containerd", true, 0), component("kubelet", false, 2)],
            }],
        };
        let table = table(&status);
        assert!(
            table.contains("n1             up    NotReady containerd, kubelet (down) (failed 2 times)"),
            "{table}"
        );
        assert!(table.contains("no network"), "{table}");
    }
}
