//! The program that uplinks run before anything else, where it is asked for: loaded, or found loaded, and attached by pinned
//! links.
//!
//! A link's pin has the mode in its name, because the kernel does not tell it of a link and a device has one mode at a time.
//!
//! **Invariant: optional.** What XDP does `from_netdev` does too. Where the kernel or a driver refuses, nothing else fails.

use std::{
    ffi::CStr,
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    programs::{
        ProgramError, Xdp, XdpMode as AyaMode,
        links::{FdLink, LinkError, PinnedLink},
        xdp::XdpLink,
    },
    util::KernelVersion,
};
use aya_obj::programs::XdpAttachType;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use sluice_maps::pin_dir;

use super::{Datapath, DatapathConfig, LoadError, attach::is_defunct, loader};

/// How XDP is run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum XdpMode {
    /// By the device's driver.
    Native,
    /// By the kernel, for drivers that cannot: slower than without.
    Generic,
}

impl XdpMode {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Native, Self::Generic];

    /// `native` or `generic`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    const fn flag(self) -> AyaMode {
        match self {
            Self::Native => AyaMode::Driver,
            Self::Generic => AyaMode::Skb,
        }
    }
}

/// Why packets from outside go through tc alone, everywhere or on a device.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// The object.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The object lacks the program.
    #[error("the eBPF object has no program {name}")]
    Missing {
        /// The program.
        name: &'static str,
    },
    /// The program was refused.
    #[error("loading the program {name}")]
    Program {
        /// The program.
        name: &'static str,
        /// Why.
        source: Box<ProgramError>,
    },
    /// A pinned link could not be read, replaced or removed.
    #[error("replacing the program of the pinned link {path}", path = path.display())]
    Link {
        /// The pin.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What a veth sends back is lost unless its peer runs XDP too, and checksums that its peer left open are never filled in.
    #[error(
        "{device} is a veth, which loses what XDP sends back unless its peer is prepared (--xdp-on-veth)"
    )]
    Veth {
        /// The device.
        device: String,
    },
    /// The driver, or the device as it is set up, refuses.
    #[error("attaching XDP ({}) to {device}", mode.name())]
    Attach {
        /// The device.
        device: String,
        /// How.
        mode: XdpMode,
        /// Why not.
        source: Box<ProgramError>,
    },
    /// The link could not be pinned.
    #[error("pinning the link {path}", path = path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What uplinks are to run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct XdpConfig {
    /// How.
    pub mode: XdpMode,
    /// Whether a veth may be an uplink with XDP.
    pub on_veth: bool,
}

/// The loaded program.
#[derive(Debug)]
pub(super) struct Loaded {
    program: Xdp,
    config: XdpConfig,
}

/// Name of the program's pin.
const PIN: &str = "xdp_netdev";

/// The program for this kernel: packets in several buffers came with Linux 5.18.
fn program_name() -> &'static str {
    let has_frags = KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(5, 18, 0));
    if has_frags { "xdp_netdev" } else { "xdp_netdev_one" }
}

impl Datapath {
    /// Lets uplinks run XDP from now on (`None`: no longer), also those of an earlier agent.
    ///
    /// # Errors
    /// [`XdpError`]: no uplink runs it then, unless it says "replacing".
    pub fn use_xdp(&mut self, config: &DatapathConfig, xdp: Option<XdpConfig>) -> Result<(), XdpError> {
        self.xdp = None;
        let program = xdp.map(|xdp| Ok::<_, XdpError>((self.load_xdp(config)?, xdp))).transpose();
        let (mut program, refused) = match program {
            Ok(program) => (program, None),
            Err(error) => (None, Some(error)),
        };
        for (path, mode) in pins(&self.links)? {
            match program.as_mut().filter(|(_, xdp)| xdp.mode == mode) {
                Some((program, _)) => keep(program, &path)?,
                None => unpin(&path)?,
            }
        }
        self.xdp = program.map(|(program, config)| Loaded { program, config });
        refused.map_or(Ok(()), Err)
    }

    /// Attaches the program to an uplink, if uplinks run it; whether they do.
    ///
    /// # Errors
    /// [`XdpError`]: the uplink goes without.
    pub fn attach_xdp(&mut self, ifname: &str, ifindex: u32) -> Result<Option<XdpMode>, XdpError> {
        let Some(Loaded { program, config: XdpConfig { mode, on_veth } }) = &mut self.xdp else {
            return Ok(None);
        };
        let pin = self.links.join(pin_name(ifindex, *mode));
        if pin.exists() {
            keep(program, &pin)?;
        }
        if !pin.exists() {
            if !*on_veth && is_veth(ifname) {
                return Err(XdpError::Veth { device: ifname.to_owned() });
            }
            let failed = |source| XdpError::Attach {
                device: ifname.to_owned(),
                mode: *mode,
                source: Box::new(source),
            };
            let id = program.attach_to_if_index(ifindex, mode.flag()).map_err(failed)?;
            let link = program.take_link(id).map_err(failed)?;
            let pinned = |source| XdpError::Pin { path: pin.clone(), source };
            // A kernel with global functions has such links (Linux 5.9).
            let link: FdLink = link.try_into().map_err(|error: LinkError| pinned(error.into()))?;
            link.pin(&pin).map_err(|error| pinned(error.into()))?;
        }
        Ok(Some(*mode))
    }

    /// Removes what keeps a gone device's link alive.
    pub(super) fn detach_xdp(&self, ifindex: u32) {
        for mode in XdpMode::ALL {
            // Absent in most cases.
            let _ = fs::remove_file(self.links.join(pin_name(ifindex, mode)));
        }
    }

    fn load_xdp(&self, config: &DatapathConfig) -> Result<Xdp, XdpError> {
        let (globals, name) = (loader::Globals::new(config), program_name());
        let failed = |source| XdpError::Program { name, source: Box::new(source) };
        let pin = pin_dir(&config.bpffs).join("programs").join(globals.digest()).join(PIN);
        let open = || Xdp::from_pin(&pin, XdpAttachType::Interface);
        if let Ok(program) = open() {
            return Ok(program);
        }
        let mut object = loader::object(&globals, &self.maps)?;
        let program: &mut Xdp =
            object.program_mut(name).ok_or(XdpError::Missing { name })?.try_into().map_err(failed)?;
        loader::undisturbed(|| program.load()).map_err(failed)?;
        loader::remove_if_there(&pin)?;
        program.pin(&pin).map_err(|error| LoadError::Pin { path: pin.clone(), source: Box::new(error) })?;
        open().map_err(failed)
    }
}

fn pin_name(ifindex: u32, mode: XdpMode) -> String {
    format!("{ifindex}-xdp-{}", mode.name())
}

/// The pinned links and their modes.
fn pins(links: &Path) -> Result<Vec<(PathBuf, XdpMode)>, LoadError> {
    let failed = |source| LoadError::Folder { path: links.to_owned(), source };
    let mut pins = Vec::new();
    for entry in fs::read_dir(links).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let mode = XdpMode::ALL.into_iter().find(|mode| name.ends_with(&format!("-xdp-{}", mode.name())));
        pins.extend(mode.map(|mode| (path, mode)));
    }
    Ok(pins)
}

/// Puts the program in place of the link's; a link whose device is gone goes too.
fn keep(program: &mut Xdp, pin: &Path) -> Result<(), XdpError> {
    let failed = |source| XdpError::Link { path: pin.to_owned(), source };
    let link = PinnedLink::from_pin(pin).map_err(|error| failed(error.into()))?;
    let link: XdpLink = FdLink::from(link).try_into().map_err(|error: LinkError| failed(error.into()))?;
    match program.attach_to_link(link) {
        Ok(id) => drop(program.take_link(id).map_err(|error| failed(error.into()))?),
        Err(error) if is_defunct(&error) => unpin(pin)?,
        Err(error) => return Err(failed(error.into())),
    }
    Ok(())
}

fn unpin(pin: &Path) -> Result<(), XdpError> {
    fs::remove_file(pin).map_err(|source| XdpError::Link { path: pin.to_owned(), source: source.into() })
}

/// Whether the device is one of a pair of virtual ones; no when the kernel does not tell.
fn is_veth(ifname: &str) -> bool {
    driver(ifname).is_ok_and(|driver| driver == "veth")
}

/// Name of a device's driver (`ETHTOOL_GDRVINFO`, `linux/ethtool.h`).
fn driver(ifname: &str) -> io::Result<String> {
    /// `struct ethtool_drvinfo`: the command, then the driver's name among other texts.
    #[repr(C)]
    struct DriverInfo {
        cmd: u32,
        driver: [u8; 32],
        rest: [u8; 160],
    }
    const ETHTOOL_GDRVINFO: u32 = 3;
    let mut info = DriverInfo { cmd: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    // SAFETY: integers and a pointer: zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if ifname.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(ifname.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: the request and what it points to outlive the call, and are as long as the command has them.
    let result = unsafe {
        libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), libc::SIOCETHTOOL as _, &raw mut request)
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let name = CStr::from_bytes_until_nul(&info.driver).map_err(io::Error::other)?;
    Ok(name.to_string_lossy().into_owned())
}
