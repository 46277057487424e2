//! The programs in the kernel: loaded or taken over, attached to devices, kept alive by pins.
//!
//! [`loader`] loads and pins, [`attach`] attaches, [`succession`] takes over from another version, [`clsact`] removes filters,
//! [`sweep`] forgets flows that have expired or are led where `members` says they should not be; [`xdp`] does it for the program that uplinks may run before tc's; [`socket`] does
//! all of it for the programs that see the node's own processes, in the cgroup that [`cgroup`] finds.
//!
//! **Invariant: the agent's death changes nothing.** Maps, programs and links are pinned under the ABI's folder; an
//! agent that starts with the same object and the same globals finds its programs there and loads none.
//!
//! **Invariant: no moment without a program.** Another object replaces the programs through the pinned links, each
//! link in one step.

mod attach;
mod cgroup;
mod clsact;
mod loader;
mod members;
mod socket;
mod succession;
mod sweep;
mod xdp;

use std::{
    collections::BTreeSet,
    fs, io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use aya::programs::{ProgramError, SchedClassifier};
use sluice_abi::{Hook, maps};
use sluice_maps::{Maps, MapsError};
use succession::Waiting;

pub use attach::{AttachError, Mechanism};
pub use cgroup::{CgroupError, CgroupRoot};
pub use clsact::{ClsactError, remove_filters};
pub use socket::{Served, SocketError, Sockets};
pub use succession::SuccessionError;
pub use sweep::{Swept, purge, sweep};
pub use xdp::{XdpConfig, XdpError, XdpMode};

/// How the programs are to be loaded.
#[derive(Clone, Debug)]
pub struct DatapathConfig {
    /// Where the BPF file system is mounted.
    pub bpffs: PathBuf,
    /// Whether ICMP errors related to known flows pass policy; off only to show what breaks without.
    pub related_icmp: bool,
    /// Ports that translated sources get; the agent keeps the node's own sockets off them.
    pub snat_ports: RangeInclusive<u16>,
}

impl DatapathConfig {
    /// Ports that translated sources get when nothing else is configured: behind Linux's own default range, 32768–60999.
    pub const SNAT_PORTS: RangeInclusive<u16> = 61000..=65535;

    /// The defaults, with the BPF file system mounted at `bpffs`.
    pub fn new(bpffs: PathBuf) -> Self {
        Self { bpffs, related_icmp: true, snat_ports: Self::SNAT_PORTS }
    }
}

/// Why the datapath could not be loaded. Nothing that ran before was changed, unless it says "replacing".
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The maps could not be opened or made.
    #[error("opening the maps")]
    Maps(#[from] MapsError),
    /// The object or a program in it was refused.
    #[error("loading the eBPF object")]
    Object(#[source] Box<aya::EbpfError>),
    /// The object lacks a program.
    #[error("the eBPF object has no tc program {}", hook.name())]
    Missing {
        /// The program.
        hook: Hook,
    },
    /// The verifier refused a program, or it could not be pinned.
    #[error("loading the program {}", hook.name())]
    Program {
        /// The program.
        hook: Hook,
        /// Why.
        source: Box<ProgramError>,
    },
    /// A pin could not be made.
    #[error("pinning {path}", path = path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// Why.
        source: Box<aya::pin::PinError>,
    },
    /// A folder of pins could not be made, read or removed.
    #[error("preparing {path}", path = path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program could not be replaced where it is attached.
    #[error("replacing an attached program")]
    Replace(#[source] AttachError),
}

/// The loaded programs.
#[derive(Debug)]
pub struct Datapath {
    maps: Maps,
    links: PathBuf,
    mechanism: Mechanism,
    from_pod: SchedClassifier,
    to_pod: SchedClassifier,
    from_netdev: SchedClassifier,
    to_netdev: SchedClassifier,
    attached: BTreeSet<u32>,
    sockets: Option<Sockets>,
    /// While programs of another version are at work.
    waiting: Option<Waiting>,
    xdp: Option<xdp::Loaded>,
}

impl Datapath {
    /// Opens the maps, loads the programs or takes them over, and puts them in place of their predecessors; in place of
    /// another version's only with [`Datapath::succeed`].
    ///
    /// # Errors
    /// Any [`LoadError`].
    pub fn load(config: &DatapathConfig) -> Result<Self, LoadError> {
        Self::load_with(config, Mechanism::best())
    }

    /// The same with a given way to attach.
    ///
    /// # Errors
    /// Any [`LoadError`].
    pub fn load_with(config: &DatapathConfig, mechanism: Mechanism) -> Result<Self, LoadError> {
        let maps = Maps::create(&config.bpffs)?;
        let pins = sluice_maps::pin_dir(&config.bpffs);
        let loaded = loader::load(config, &maps, &pins.join("programs"))?;
        let links = pins.join("links");
        make_folder(&links)?;
        let waiting = succession::move_links(&maps)?;
        let [from_pod, to_pod, from_netdev, to_netdev] = loaded.programs;
        let mut datapath = Self {
            maps,
            links,
            mechanism,
            from_pod,
            to_pod,
            from_netdev,
            to_netdev,
            attached: BTreeSet::new(),
            sockets: None,
            waiting,
            xdp: None,
        };
        datapath.learn_attached().map_err(LoadError::Replace)?;
        if !datapath.is_waiting() {
            datapath.take_over().map_err(LoadError::Replace)?;
        }
        loader::remove_others(&pins.join("programs"), &loaded.digest)?;
        Ok(datapath)
    }

    /// The maps.
    pub fn maps(&mut self) -> &mut Maps {
        &mut self.maps
    }

    /// Whether the pins that keep everything alive are there.
    pub fn is_pinned(&self) -> bool {
        maps::ALL.iter().all(|spec| self.maps.pin_path(spec).exists()) && self.links.exists()
    }

    /// Interface indexes of the devices that programs are attached to, as far as pins or this process know.
    pub fn attached(&self) -> impl Iterator<Item = u32> {
        self.attached.iter().copied()
    }

    /// Lets the node's own processes, and pods if they are `served` too, reach Services by their sockets (`None`: no longer),
    /// also as an earlier agent did. Gives the cgroup of those processes.
    ///
    /// # Errors
    /// [`SocketError`]; what was in force stays, and so does everything else.
    pub fn serve_sockets(
        &mut self,
        root: Option<&CgroupRoot>,
        served: Served,
    ) -> Result<Option<&Path>, SocketError> {
        self.sockets = root.map(|root| Sockets::start(&self.maps, root, served)).transpose()?;
        if self.sockets.is_none() {
            Sockets::stop(&self.maps)?;
        }
        Ok(self.sockets.as_ref().map(Sockets::cgroup))
    }

    /// Says that a plan has changed backends or frontends, which connected sockets may have to hear of.
    pub fn tell_sockets(&self) {
        if let Some(sockets) = &self.sockets {
            sockets.changed();
        }
    }

    fn program(&mut self, hook: Hook) -> &mut SchedClassifier {
        match hook {
            Hook::FromPod => &mut self.from_pod,
            Hook::ToPod => &mut self.to_pod,
            Hook::FromNetdev => &mut self.from_netdev,
            Hook::ToNetdev => &mut self.to_netdev,
        }
    }
}

fn make_folder(path: &Path) -> Result<(), LoadError> {
    fs::create_dir_all(path).map_err(|source| LoadError::Folder { path: path.to_owned(), source })
}
