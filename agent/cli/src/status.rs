//! `sluice status`: is a datapath in place, and how is it.

use std::{
    ffi::CStr,
    fmt::Write,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use serde::Serialize;
use sluice_maps::{
    Maps, MapsError, pin_dir,
    pins::{self, PinKind},
};

use crate::{
    drops::{self, Total},
    output::{self, Answer},
};

/// The state of the datapath and of the agent.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    abi_version: u32,
    /// The folder of the pins.
    pins: PathBuf,
    agent: Agent,
    /// None when there is none, or not a whole one; `problem` says why.
    datapath: Option<Datapath>,
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Agent {
    socket: PathBuf,
    /// Whether somebody listens there. The datapath does not need it.
    reachable: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Datapath {
    /// Plans that changed a verdict.
    epoch: u32,
    endpoints: u32,
    /// Paths of pinned programs under `pins`.
    programs: Vec<PathBuf>,
    /// Paths of pinned links under `pins`.
    links: Vec<PathBuf>,
    /// Whether programs lead sockets, the node's own at least, to Services.
    leads_sockets: bool,
    /// Uplinks whose packets meet XDP before tc.
    xdp: Vec<XdpUplink>,
    forwarded: Total,
    dropped: Total,
    maps: Vec<Fill>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct XdpUplink {
    interface_index: u32,
    /// Its name, where the device is in this network namespace.
    device: Option<String>,
    /// `native` or `generic`.
    mode: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Fill {
    name: &'static str,
    used: u32,
    capacity: u32,
}

/// What it means that no program sees the sockets of the node's own processes.
const NOT_LED: &str = "not led (the node's own processes reach no Service by Sluice)";

/// Looks at the kernel and at the agent's socket.
pub(crate) fn answer(bpffs: &Path, socket: &Path) -> Status {
    let (datapath, problem) = match datapath(bpffs) {
        Ok(datapath) => (Some(datapath), None),
        Err(problem) => (None, Some(problem.to_string())),
    };
    Status {
        abi_version: sluice_abi::ABI_VERSION,
        pins: pin_dir(bpffs),
        agent: Agent { socket: socket.to_owned(), reachable: UnixStream::connect(socket).is_ok() },
        datapath,
        problem,
    }
}

fn datapath(bpffs: &Path) -> Result<Datapath, MapsError> {
    let maps = Maps::open(bpffs)?;
    let pins = pins::list(bpffs)?;
    let of_kind = |kind| pins.iter().filter(|pin| pin.kind == kind).map(|pin| pin.path.clone()).collect();
    let (forwarded, dropped) = drops::counters(&maps)?.totals();
    let fill = maps.fill()?;
    let fill = fill.iter().filter_map(|fill| {
        Some(Fill { name: fill.spec.name, used: fill.used?, capacity: fill.spec.max_entries })
    });
    Ok(Datapath {
        epoch: maps.epoch.get(0)?,
        endpoints: maps.endpoint_meta.count()?,
        programs: of_kind(PinKind::Program),
        leads_sockets: pins.iter().any(|pin| pin.kind == PinKind::Link && pin.path.starts_with("sockets")),
        xdp: pins.iter().filter_map(|pin| xdp_uplink(&pin.path)).collect(),
        links: of_kind(PinKind::Link),
        forwarded,
        dropped,
        maps: fill.collect(),
    })
}

/// The uplink of a pinned link, which has its interface index and the mode in its name.
fn xdp_uplink(link: &Path) -> Option<XdpUplink> {
    let (index, mode) = link.file_name()?.to_str()?.split_once("-xdp-")?;
    let interface_index = index.parse().ok()?;
    Some(XdpUplink { interface_index, device: device(interface_index), mode: mode.to_owned() })
}

fn device(interface_index: u32) -> Option<String> {
    let mut name = [0_u8; libc::IF_NAMESIZE];
    // SAFETY: room for the longest name.
    let found = unsafe { libc::if_indextoname(interface_index, name.as_mut_ptr().cast()) };
    let name = CStr::from_bytes_until_nul(&name).ok().filter(|_| !found.is_null())?;
    Some(name.to_string_lossy().into_owned())
}

impl XdpUplink {
    fn text(&self) -> String {
        let device = self.device.clone().unwrap_or_else(|| format!("interface {}", self.interface_index));
        format!("{device} ({})", self.mode)
    }
}

impl Status {
    /// Whether a datapath is in place.
    pub(crate) fn has_datapath(&self) -> bool {
        self.datapath.is_some()
    }
}

impl Answer for Status {
    fn text(&self) -> String {
        let agent = if self.agent.reachable { "reachable" } else { "not reachable" };
        let mut lines = vec![
            ("ABI", self.abi_version.to_string()),
            ("Pins", self.pins.display().to_string()),
            ("Agent", format!("{agent} at {}", self.agent.socket.display())),
        ];
        if let Some(problem) = &self.problem {
            lines.push(("Datapath", problem.clone()));
        }
        if let Some(datapath) = &self.datapath {
            lines.extend([
                ("Epoch", datapath.epoch.to_string()),
                ("Endpoints", datapath.endpoints.to_string()),
                ("Programs", datapath.programs.len().to_string()),
                ("Links", datapath.links.len().to_string()),
                ("Sockets", if datapath.leads_sockets { "led" } else { NOT_LED }.to_owned()),
                ("XDP", output::list(&datapath.xdp.iter().map(XdpUplink::text).collect::<Vec<_>>())),
                ("Forwarded", datapath.forwarded.to_string()),
                ("Dropped", datapath.dropped.to_string()),
            ]);
        }
        let mut text = String::new();
        for (name, value) in lines {
            // Writing to a string cannot go wrong.
            let _ = writeln!(text, "{:<11}{value}", format!("{name}:"));
        }
        if let Some(datapath) = &self.datapath {
            let rows = datapath.maps.iter().map(|fill| {
                let percent = u64::from(fill.used) * 100 / u64::from(fill.capacity.max(1));
                [
                    fill.name.to_owned(),
                    fill.used.to_string(),
                    fill.capacity.to_string(),
                    format!("{percent}%"),
                ]
            });
            text.push('\n');
            text.push_str(&output::table(["MAP", "USED", "CAPACITY", "FULL"], rows));
        }
        text
    }
}
