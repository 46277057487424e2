//! The directory of leases: `<dataDir>/<network>/`.
//!
//! ```text
//! lock                                locked (flock) by whoever reads or changes
//! <boot id>/10.244.1.5@sl0123456789a  leased to the attachment of that host-side veth; holds a Record as JSON
//! <boot id>/10.244.1.6~86400123456    released at that time (CLOCK_BOOTTIME, ns); empty of meaning but for its name
//! <boot id>/cursor                    the addresses leased last
//! <boot id>/.new                      a file being written
//! ```
//!
//! **Invariant: one directory listing tells all.** Names carry address, owner and time of release, so no operation
//! opens the other leases' files: it costs one listing, whatever the number of leases.
//!
//! **Invariant: whole files.** A lease appears by `rename` under the lock and turns into a released one by `rename`:
//! a process killed anywhere leaves either state. Nothing is synced to disk, on purpose: only a power failure could
//! tell, and after it the boot id is another one and every lease of the earlier boot is void anyway (its pods are).

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write as _},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::{
    fcntl::{Flock, FlockArg},
    time::{ClockId, clock_gettime},
};
use serde::{Deserialize, Serialize};

use super::range::RangeSet;
use crate::attachment::Attachment;

/// How long another process may hold the lock before we give up. Holders need a millisecond or less.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const TEMPORARY: &str = ".new";
const CURSOR: &str = "cursor";

/// Why the directory of leases does not serve.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation.
    #[error("{act} {path}", path = path.display())]
    File {
        /// What was tried.
        act: FileAct,
        /// On which file.
        path: PathBuf,
        /// Why it did not work.
        source: io::Error,
    },
    /// Another process holds the lock.
    #[error("waiting {limit:?} for the lock {path}", path = path.display())]
    LockTimeout {
        /// The lock.
        path: PathBuf,
        /// How long it was waited.
        limit: Duration,
    },
    /// A lease is there but its record is not what this version writes.
    #[error("decoding lease {path}", path = path.display())]
    Record {
        /// The lease.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
}

/// An operation on a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FileAct {
    /// Making a directory.
    MakeDirectory,
    /// Listing a directory.
    List,
    /// Reading a file.
    Read,
    /// Writing a file.
    Write,
    /// Renaming a file.
    Rename,
    /// Removing a file.
    Remove,
    /// Opening or taking the lock.
    Lock,
}

impl std::fmt::Display for FileAct {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::MakeDirectory => "making directory",
            Self::List => "listing",
            Self::Read => "reading",
            Self::Write => "writing",
            Self::Rename => "renaming",
            Self::Remove => "removing",
            Self::Lock => "locking",
        })
    }
}

impl FileAct {
    fn on(self, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        move |source| StoreError::File { act: self, path: path.to_owned(), source }
    }
}

/// What a lease's file says; for people, the agent's sysdump, and GC.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `K8S_POD_NAMESPACE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_namespace: Option<String>,
    /// `K8S_POD_NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
    /// `K8S_POD_UID`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// When it was leased, seconds since 1970 (wall clock; nothing is decided by it).
    pub leased_at_unix_s: u64,
}

impl Record {
    pub(super) fn of(attachment: &Attachment) -> Self {
        Self {
            container: attachment.container.clone(),
            ifname: attachment.ifname.clone(),
            pod_namespace: attachment.pod.namespace.clone(),
            pod_name: attachment.pod.name.clone(),
            pod_uid: attachment.pod.uid.clone(),
            leased_at_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        }
    }

    /// The attachment that holds the lease, if the names are good ones.
    pub(super) fn attachment(&self) -> Option<Attachment> {
        Attachment::new(&self.container, &self.ifname)
    }
}

/// A lease as somebody else sees it who only reads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Held {
    /// The address.
    pub addr: IpAddr,
    /// The host-side veth it is leased to.
    pub host_ifname: String,
    /// For whom.
    pub record: Record,
}

/// Lists this boot's leases in the directory of one network; nothing is locked or made. A lease that goes meanwhile, or
/// whose record cannot be read, is left out.
///
/// # Errors
/// [`StoreError::File`] when there is a directory that cannot be listed.
pub fn held(folder: &Path) -> Result<Vec<Held>, StoreError> {
    let boot_id = fs::read_to_string(BOOT_ID).map_err(FileAct::Read.on(Path::new(BOOT_ID)))?;
    let folder = folder.join(boot_id.trim());
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(FileAct::List.on(&folder)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(FileAct::List.on(&folder))?;
        let name = entry.file_name();
        let Some((addr, owner)) = name.to_str().and_then(|name| split(name, '@')) else { continue };
        let record = fs::read(entry.path()).ok().and_then(|json| serde_json::from_slice(&json).ok());
        found.extend(record.map(|record| Held { addr, host_ifname: owner.to_owned(), record }));
    }
    found.sort_by_key(|held| held.addr);
    Ok(found)
}

/// The directory of one network's leases.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Takes the lock and lists the leases of this boot; forgets releases that are older than `quarantine`.
    pub(super) fn lock(&self, quarantine: Duration) -> Result<Locked, StoreError> {
        fs::create_dir_all(&self.folder).map_err(FileAct::MakeDirectory.on(&self.folder))?;
        let lock = take_lock(&self.folder.join("lock"))?;
        let boot_id = fs::read_to_string(BOOT_ID).map_err(FileAct::Read.on(Path::new(BOOT_ID)))?;
        let folder = self.folder.join(boot_id.trim());
        match fs::create_dir(&folder) {
            Ok(()) => self.forget_earlier_boots(&folder)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(FileAct::MakeDirectory.on(&folder)(error)),
        }
        let mut locked = Locked { folder, leased: HashMap::new(), resting: HashMap::new(), _lock: lock };
        locked.list(quarantine)?;
        Ok(locked)
    }

    fn forget_earlier_boots(&self, current: &Path) -> Result<(), StoreError> {
        for entry in fs::read_dir(&self.folder).map_err(FileAct::List.on(&self.folder))? {
            let path = entry.map_err(FileAct::List.on(&self.folder))?.path();
            if path != current && path.is_dir() {
                fs::remove_dir_all(&path).map_err(FileAct::Remove.on(&path))?;
            }
        }
        Ok(())
    }
}

/// The locked directory and what it holds.
#[derive(Debug)]
pub struct Locked {
    folder: PathBuf,
    leased: HashMap<IpAddr, String>,
    resting: HashMap<IpAddr, u64>,
    _lock: Flock<File>,
}

impl Locked {
    fn list(&mut self, quarantine: Duration) -> Result<(), StoreError> {
        let now_ns = boottime_ns();
        let quarantine_ns = u64::try_from(quarantine.as_nanos()).unwrap_or(u64::MAX);
        for entry in fs::read_dir(&self.folder).map_err(FileAct::List.on(&self.folder))? {
            let name = entry.map_err(FileAct::List.on(&self.folder))?.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some((addr, owner)) = split(name, '@') {
                self.leased.insert(addr, owner.to_owned());
            } else if let Some((addr, released)) = split(name, '~') {
                let released_ns = released.parse().unwrap_or(0);
                if now_ns.saturating_sub(released_ns) < quarantine_ns {
                    self.resting.insert(addr, released_ns);
                } else {
                    remove(&self.folder.join(name))?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn choose(&self, set: &RangeSet, cursor: Option<IpAddr>) -> Option<IpAddr> {
        set.choose(cursor, |addr| self.leased.contains_key(addr), &self.resting)
    }

    pub(super) fn leases(&self) -> Vec<(IpAddr, String)> {
        self.leased.iter().map(|(addr, owner)| (*addr, owner.clone())).collect()
    }

    pub(super) fn held_by(&self, owner: &str) -> Vec<IpAddr> {
        self.leased.iter().filter(|(_, other)| *other == owner).map(|(addr, _)| *addr).collect()
    }

    /// Leases `addr`, free or resting or already its own, to `owner`.
    pub(super) fn put(&mut self, addr: IpAddr, owner: &str, record: &Record) -> Result<(), StoreError> {
        let temporary = self.folder.join(TEMPORARY);
        let json = serde_json::to_vec(record).expect("a record of strings and numbers");
        let write = || File::create(&temporary)?.write_all(&json);
        write().map_err(FileAct::Write.on(&temporary))?;
        fs::rename(&temporary, self.lease_path(addr, owner)).map_err(FileAct::Rename.on(&temporary))?;
        self.leased.insert(addr, owner.to_owned());
        match self.resting.remove(&addr) {
            Some(released_ns) => remove(&self.folder.join(format!("{addr}~{released_ns}"))),
            None => Ok(()),
        }
    }

    /// Returns `addr` to the pool; it rests from now on.
    pub(super) fn release(&mut self, addr: IpAddr) -> Result<(), StoreError> {
        let Some(owner) = self.leased.remove(&addr) else { return Ok(()) };
        let path = self.lease_path(addr, &owner);
        let released_ns = boottime_ns();
        let resting = self.folder.join(format!("{addr}~{released_ns}"));
        fs::rename(&path, resting).map_err(FileAct::Rename.on(&path))?;
        self.resting.insert(addr, released_ns);
        Ok(())
    }

    pub(super) fn record(&self, addr: IpAddr) -> Result<Record, StoreError> {
        let path = self.lease_path(addr, self.leased.get(&addr).map_or("", String::as_str));
        let json = fs::read(&path).map_err(FileAct::Read.on(&path))?;
        serde_json::from_slice(&json).map_err(|source| StoreError::Record { path, source })
    }

    /// The addresses leased last; none when the file is absent or half written, since it is only a hint.
    pub(super) fn cursor(&self) -> Vec<IpAddr> {
        let text = fs::read_to_string(self.folder.join(CURSOR)).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    pub(super) fn set_cursor(&self, addresses: &[IpAddr]) -> Result<(), StoreError> {
        let path = self.folder.join(CURSOR);
        let text: String = addresses.iter().map(|addr| format!("{addr}\n")).collect();
        fs::write(&path, text).map_err(FileAct::Write.on(&path))
    }

    fn lease_path(&self, addr: IpAddr, owner: &str) -> PathBuf {
        self.folder.join(format!("{addr}@{owner}"))
    }
}

fn split(name: &str, separator: char) -> Option<(IpAddr, &str)> {
    let (addr, rest) = name.split_once(separator)?;
    Some((addr.parse().ok()?, rest))
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileAct::Remove.on(path)(error)),
        _ => Ok(()),
    }
}

/// Takes the lock: at once if it is free, else in a thread that blocks in the kernel's first-come queue, so that we
/// neither poll nor wait for ever.
fn take_lock(path: &Path) -> Result<Flock<File>, StoreError> {
    let open = File::options().create(true).truncate(false).write(true).open(path);
    let file = open.map_err(FileAct::Lock.on(path))?;
    let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => return Ok(lock),
        Err((file, nix::Error::EWOULDBLOCK)) => file,
        Err((_, errno)) => return Err(FileAct::Lock.on(path)(errno.into())),
    };
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(Flock::lock(file, FlockArg::LockExclusive)));
    match receiver.recv_timeout(LOCK_TIMEOUT) {
        Ok(Ok(lock)) => Ok(lock),
        Ok(Err((_, errno))) => Err(FileAct::Lock.on(path)(errno.into())),
        Err(_) => Err(StoreError::LockTimeout { path: path.to_owned(), limit: LOCK_TIMEOUT }),
    }
}

/// Nanoseconds since boot, sleep included: no wall-clock step can lengthen or shorten a quarantine.
fn boottime_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME is there since Linux 2.6.39");
    u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX)
}
