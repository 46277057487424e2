//! Forwarding in the node's own stack, for what the programs leave to it: ICMP answers, first packets.
//!
//! Start at [`Sysctls::forward`]; [`Sysctls::restore`] is cleanup's.
//!
//! | What | Why |
//! | --- | --- |
//! | `ipv4/conf/<uplink>/forwarding` = 1 | packets that came from the uplink pass on |
//! | `ipv6/conf/all/forwarding` = 1 | without it most kernels forward nothing, whatever the device's says (`ip6_forward`, `net/ipv6/ip6_output.c`) |
//! | `ipv6/conf/<uplink>/forwarding` = 1 | the device's own word, where somebody took it back |
//! | `ipv4/ip_local_reserved_ports`, and the ports of translated flows | no socket of the node gets one of them by itself |
//! | `ipv6/conf/<device>/accept_ra` = 2, where it was 1 and counted | else forwarding ends the routes a node has from router advertisements (Linux `ip-sysctl.rst`, `accept_ra`) |
//!
//! `rp_filter` stays: programs redirect before it is asked, and what they leave to the stack comes from where the routes
//! lead.
//!
//! **Invariant: the record comes first.** What a value was is on the disk before the value is changed, once: a later
//! agent finds its own changes there and keeps the first answer. Values are given back only where they still are what
//! was set; a record of an earlier boot or another network namespace means nothing.

mod ports;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Why a setting is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// The kernel does not say.
    #[error("reading {path}", path = path.display())]
    Read {
        /// The setting's file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel refuses.
    #[error("setting {path} to {value}", path = path.display())]
    Write {
        /// The setting's file.
        path: PathBuf,
        /// What it should be.
        value: String,
        /// Why not.
        source: io::Error,
    },
    /// What was before cannot be written down, so nothing was changed.
    #[error("recording sysctls in {path}", path = path.display())]
    Record {
        /// The record.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The record makes no sense.
    #[error("understanding the sysctls recorded in {path}", path = path.display())]
    Form {
        /// The record.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
}

/// Below the folder of settings: one folder a device.
const V6_DEVICES: &str = "ipv6/conf";
const V6_ALL: &str = "ipv6/conf/all/forwarding";

/// The settings of the calling thread's network namespace, and the record of what was changed.
#[derive(Clone, Debug)]
pub struct Sysctls {
    /// Where the settings are: `/proc/sys/net`, or where a writable one is mounted.
    folder: PathBuf,
    record: PathBuf,
}

/// What was changed, by path below the folder of settings.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Record {
    /// Boot and network namespace.
    place: String,
    changed: BTreeMap<String, Changed>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Changed {
    before: String,
    set: String,
}

/// Values that are to change together, and values that change along with them.
#[derive(Debug, Default)]
struct Batch {
    wanted: Vec<(String, &'static str)>,
    along: Vec<(String, &'static str)>,
}

impl Sysctls {
    /// The settings are below `folder`, `/proc/sys/net` or a mount of it; the record is kept in `state_dir`, whose lock
    /// its user holds.
    pub fn new(folder: &Path, state_dir: &Path) -> Self {
        Self { folder: folder.to_owned(), record: state_dir.join("sysctls.json") }
    }

    /// Lets the stack forward what comes from these devices, IPv6 only with `v6`; the number of values changed.
    ///
    /// # Errors
    /// The first [`SysctlError`]; what was changed before it stays, recorded.
    pub fn forward<'a>(
        &self,
        uplinks: impl IntoIterator<Item = &'a str> + Clone,
        v6: bool,
    ) -> Result<usize, SysctlError> {
        let all = |family: &str| {
            uplinks.clone().into_iter().map(|uplink| (path(family, uplink, "forwarding"), "1")).collect()
        };
        let mut changed = self.change(Batch { wanted: all("ipv4"), along: Vec::new() })?;
        if v6 && self.folder.join(V6_DEVICES).exists() {
            changed += self.change(self.forward_v6()?)?;
            changed += self.change(Batch { wanted: all("ipv6"), along: Vec::new() })?;
        }
        Ok(changed)
    }

    /// Gives back what was changed, where it still is as it was set; the number of values.
    ///
    /// # Errors
    /// The first [`SysctlError`], after all were tried; the record stays then.
    pub fn restore(&self) -> Result<usize, SysctlError> {
        let mut still_ours = Vec::new();
        for (path, changed) in self.load()?.changed {
            if self.read(&path)?.is_some_and(|value| value == changed.set) {
                still_ours.push((path, changed));
            }
        }
        // "all" first: it changes every device's.
        still_ours.sort_by_key(|(path, _)| path != V6_ALL);
        let wrote =
            still_ours.iter().map(|(path, changed)| self.write(path, &changed.before)).collect::<Vec<_>>();
        wrote.into_iter().collect::<Result<(), _>>()?;
        match fs::remove_file(&self.record) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(SysctlError::Record { path: self.record.clone(), source })
            }
            _ => Ok(still_ours.iter().filter(|(_, changed)| changed.before != changed.set).count()),
        }
    }

    fn change(&self, batch: Batch) -> Result<usize, SysctlError> {
        let mut wanted = Vec::new();
        for (path, value) in batch.wanted {
            // A device without IPv6, or gone meanwhile, has no such file.
            if let Some(before) = self.read(&path)?.filter(|before| before != value) {
                wanted.push((path, before, value));
            }
        }
        if wanted.is_empty() {
            return Ok(0);
        }
        let mut record = self.load()?;
        for (path, value) in batch.along {
            if let Some(before) = self.read(&path)? {
                record.note(path, before, value);
            }
        }
        wanted.iter().for_each(|(path, before, value)| record.note(path.clone(), before.clone(), value));
        self.save(&record)?;
        wanted.iter().try_for_each(|(path, _, value)| self.write(path, value))?;
        Ok(wanted.len())
    }

    /// Forwarding for IPv6 as a whole; nothing when it is on.
    fn forward_v6(&self) -> Result<Batch, SysctlError> {
        let mut batch = Batch { wanted: Vec::new(), along: Vec::new() };
        if self.read(V6_ALL)?.is_none_or(|value| value == "1") {
            return Ok(batch);
        }
        let list = |source| SysctlError::Read { path: self.folder.join(V6_DEVICES), source };
        for entry in fs::read_dir(self.folder.join(V6_DEVICES)).map_err(list)? {
            // "default" is for devices to come.
            let Ok(device) = entry.map_err(list)?.file_name().into_string() else { continue };
            if device == "all" {
                continue;
            }
            let (forwarding, accept_ra) =
                (path("ipv6", &device, "forwarding"), path("ipv6", &device, "accept_ra"));
            if device != "lo"
                && self.read(&accept_ra)?.as_deref() == Some("1")
                && self.read(&forwarding)?.as_deref() == Some("0")
            {
                batch.wanted.push((accept_ra, "2"));
            }
            batch.along.push((forwarding, "1"));
        }
        batch.wanted.push((V6_ALL.to_owned(), "1"));
        Ok(batch)
    }

    /// A value; `None` when there is no such setting.
    fn read(&self, path: &str) -> Result<Option<String>, SysctlError> {
        let path = self.folder.join(path);
        match fs::read_to_string(&path) {
            Ok(value) => Ok(Some(value.trim_ascii().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(SysctlError::Read { path, source }),
        }
    }

    fn write(&self, path: &str, value: &str) -> Result<(), SysctlError> {
        let path = self.folder.join(path);
        match fs::write(&path, value) {
            // The device is gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|source| SysctlError::Write { path, value: value.to_owned(), source }),
        }
    }

    fn load(&self) -> Result<Record, SysctlError> {
        let path = || self.record.clone();
        let place = place()?;
        let record = match fs::read(&self.record) {
            Ok(text) => {
                serde_json::from_slice(&text).map_err(|source| SysctlError::Form { path: path(), source })?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Record::default(),
            Err(source) => return Err(SysctlError::Record { path: path(), source }),
        };
        Ok(if record.place == place { record } else { Record { place, ..Record::default() } })
    }

    /// The record is whole, old or new, whenever the machine stops.
    fn save(&self, record: &Record) -> Result<(), SysctlError> {
        let save = || {
            let folder = self.record.parent().unwrap_or(Path::new("/"));
            fs::create_dir_all(folder)?;
            let temporary = self.record.with_extension("new");
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(record)?)?;
            file.sync_all()?;
            fs::rename(&temporary, &self.record)?;
            File::open(folder)?.sync_all()
        };
        save().map_err(|source| SysctlError::Record { path: self.record.clone(), source })
    }
}

impl Record {
    fn note(&mut self, path: String, before: String, set: &str) {
        self.changed.entry(path).or_insert_with(|| Changed { before, set: set.to_owned() });
    }
}

/// Joined by hand: a device's name may hold dots, and must stay one component.
fn path(family: &str, device: &str, name: &str) -> String {
    format!("{family}/conf/{device}/{name}")
}

/// Where and since when the settings are what they are.
fn place() -> Result<String, SysctlError> {
    const BOOT: &str = "/proc/sys/kernel/random/boot_id";
    const NAMESPACE: &str = "/proc/thread-self/ns/net";
    let boot = fs::read_to_string(BOOT).map_err(|source| SysctlError::Read { path: BOOT.into(), source })?;
    let namespace =
        fs::read_link(NAMESPACE).map_err(|source| SysctlError::Read { path: NAMESPACE.into(), source })?;
    Ok(format!("{} {}", boot.trim_ascii(), namespace.display()))
}
