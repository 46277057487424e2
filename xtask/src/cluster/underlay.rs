//! The network between machines: a bridge in a namespace of its own, and a namespace for every machine.
//!
//! Nothing of it is in this machine's own network namespace, so pods' and Services' ranges meet nothing here.

use std::{fs, io::Write as _, net::IpAddr, path::Path, process::Stdio, thread};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};

use super::{
    place::{self, Place},
    plan::{Families, Machine, UNDERLAY},
};
use crate::command;

/// Settings of every namespace: addresses are there at once, and packets for others are passed on.
const SYSCTLS: &[(&str, &str)] = &[
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/default/forwarding", "1"),
];

/// Frames that the bridge passes on are not shown to netfilter; absent without `br_netfilter`.
const BRIDGE_SYSCTLS: &[(&str, &str)] =
    &[("bridge/bridge-nf-call-iptables", "0"), ("bridge/bridge-nf-call-ip6tables", "0")];

/// Makes the bridge when it is missing. True when it was.
///
/// # Errors
/// When the namespace or the bridge cannot be made.
pub(super) fn ensure(place: &Place, families: Families) -> Result<bool> {
    let name = place.underlay();
    if exists(&name) {
        return Ok(false);
    }
    let mut lines = vec!["link add ul0 type bridge".to_owned()];
    lines.extend(address_lines("ul0", &UNDERLAY.hosts(families, 1), families));
    lines.push("link set ul0 up".to_owned());
    create(&name, &lines).and_then(|()| sysctls(&name, BRIDGE_SYSCTLS)).inspect_err(|_| {
        let _ = delete(&name); // half made: the first error tells more
    })?;
    Ok(true)
}

/// Makes a machine's namespace, connected, when it is missing. True when it was.
///
/// # Errors
/// When it cannot be made.
pub(super) fn ensure_machine(place: &Place, machine: Machine, families: Families) -> Result<bool> {
    let (name, underlay) = (place.namespace(machine), place.underlay());
    if exists(&name) {
        return Ok(false);
    }
    let port = format!("p-{machine}");
    let mut lines = vec![format!("link add eth0 type veth peer name {port} netns {underlay}")];
    lines.extend(address_lines("eth0", &machine.addresses(families), families));
    lines.push("link set eth0 up".to_owned());
    lines.extend(
        UNDERLAY.hosts(families, 1).iter().map(|gateway| format!("route add default via {gateway} dev eth0")),
    );
    remove_port(&underlay, &port);
    let connect = || {
        create(&name, &lines)?;
        batch(&underlay, &[format!("link set {port} master ul0 up")])
    };
    connect().inspect_err(|_| {
        let _ = delete(&name); // half made: the first error tells more
    })?;
    Ok(true)
}

/// Removes the port of the machine's namespace of before, which the kernel does only some time after that one's end.
fn remove_port(underlay: &str, port: &str) {
    // There is none, mostly.
    let _ = command::capture(ip().args(["-n", underlay, "link", "delete", port]));
}

/// A route to a range through a machine; replaces one that is there.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn route(namespace: &str, range: &str, gateway: IpAddr) -> Result<()> {
    batch(namespace, &[format!("route replace {range} via {gateway} dev eth0")])
}

/// Removes a namespace and all that is in it. True when it was there.
///
/// # Errors
/// When it is there and cannot be removed.
pub(super) fn delete(name: &str) -> Result<bool> {
    if !exists(name) {
        return Ok(false);
    }
    command::capture(ip().args(["netns", "delete", name]))?;
    Ok(true)
}

/// Enters a network namespace, with this thread.
///
/// # Errors
/// When it is not there or cannot be entered.
pub(super) fn enter(name: &str) -> Result<()> {
    let path = place::namespace_file(name);
    let file = fs::File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering network namespace {name}"))
}

/// The names of a cluster's namespaces that are there.
pub(super) fn namespaces(place: &Place) -> Vec<String> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let is_ours = |name: &String| {
        name.strip_prefix(place.name())
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|rest| rest == "underlay" || Machine::called(rest).is_some())
    };
    names.filter(is_ours).collect()
}

/// True when there is a namespace of this name.
pub(super) fn exists(name: &str) -> bool {
    place::namespace_file(name).exists()
}

fn create(name: &str, lines: &[String]) -> Result<()> {
    command::capture(ip().args(["netns", "add", name]))?;
    sysctls(name, SYSCTLS)?;
    let mut all = vec!["link set lo up".to_owned()];
    all.extend_from_slice(lines);
    batch(name, &all)
}

fn address_lines(device: &str, addresses: &[IpAddr], families: Families) -> Vec<String> {
    let lines = addresses.iter().zip(UNDERLAY.prefixes(families));
    let no_wait = |address: &IpAddr| if address.is_ipv6() { " nodad" } else { "" };
    lines
        .map(|(address, length)| format!("address add {address}/{length} dev {device}{}", no_wait(address)))
        .collect()
}

/// Settings are those of the namespace that the writing thread is in.
fn sysctls(name: &str, settings: &[(&str, &str)]) -> Result<()> {
    let write = || {
        enter(name)?;
        for (setting, value) in settings {
            let path = Path::new("/proc/sys/net").join(setting);
            if setting.starts_with("bridge/") && !path.exists() {
                continue;
            }
            fs::write(&path, value).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    };
    thread::scope(|scope| scope.spawn(write).join().expect("writing settings does not panic"))
}

fn ip() -> std::process::Command {
    command::command(command::find("ip").unwrap_or_else(|| "ip".into()))
}

/// Runs lines of `ip` in a namespace.
fn batch(namespace: &str, lines: &[String]) -> Result<()> {
    let mut ip = ip();
    ip.args(["-n", namespace, "-batch", "-"]);
    let mut child = ip
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting ip")?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin.write_all(lines.join("\n").as_bytes()).context("writing to ip")?;
    drop(stdin);
    let output = child.wait_with_output().context("waiting for ip")?;
    if !output.status.success() {
        bail!(
            "ip in {namespace}: {}\n{}",
            lines.join("; "),
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(())
}
