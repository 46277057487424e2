//! Leases: which attachment has which address.
//!
//! [`Ipam::lease`] and [`Ipam::release`] are all that ADD and DEL need; [`range`] chooses, [`store`] remembers.
//!
//! **Invariant: both or nothing.** An attachment gets one address of every configured family, or none.
//!
//! **Invariant: no leak.** A lease's file name carries its attachment's hash, so whoever comes next (an ADD again,
//! DEL, GC) finds it, wherever the process was killed.

pub mod range;
pub mod store;

use std::{net::IpAddr, path::PathBuf, time::Duration};

use crate::{attachment::Attachment, config};
use range::RangeSet;
use store::{Locked, Record, Store, StoreError};

/// Why no address was leased or released.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    /// Every address of a set is leased.
    #[error("no free address in {ranges} ({leased} leased)")]
    RangeExhausted {
        /// The set.
        ranges: RangeSet,
        /// How many of its addresses are leased.
        leased: usize,
    },
    /// The directory of leases does not serve.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The addresses of one network.
#[derive(Debug)]
pub struct Ipam {
    store: Store,
    ranges: Vec<RangeSet>,
    quarantine: Duration,
}

/// What an attachment got.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lease {
    /// One address of each family, in the order of the configuration.
    pub addresses: Vec<IpAddr>,
    /// Whether some were not leased to this attachment before: a failed ADD gives back only what it took.
    pub fresh: bool,
}

impl Ipam {
    /// The addresses of the network `name`.
    pub fn new(name: &str, config: &config::Ipam) -> Self {
        let folder: PathBuf = config.data_dir.join(name);
        Self { store: Store::new(folder), ranges: config.ranges.clone(), quarantine: config.quarantine }
    }

    /// Leases an address of each family to an attachment; what it holds already (of an ADD that was killed) it keeps
    /// if it is still in range, else returns.
    ///
    /// # Errors
    /// [`IpamError::RangeExhausted`], and then nothing is leased that was not before; [`IpamError::Store`].
    pub fn lease(&self, attachment: &Attachment) -> Result<Lease, IpamError> {
        let mut locked = self.store.lock(self.quarantine)?;
        let owner = attachment.host_ifname();
        let held = locked.held_by(&owner);
        let (kept, stale): (Vec<_>, Vec<_>) =
            held.into_iter().partition(|addr| self.ranges.iter().any(|set| set.contains(*addr)));
        let cursor = locked.cursor();
        let mut addresses = Vec::new();
        for set in &self.ranges {
            let addr = kept.iter().copied().find(|addr| set.contains(*addr)).map_or_else(
                || {
                    let after = cursor.iter().copied().find(|addr| addr.is_ipv6() == set.is_v6());
                    choose(&locked, set, after)
                },
                Ok,
            )?;
            addresses.push(addr);
        }
        let new: Vec<_> = addresses.iter().copied().filter(|addr| !kept.contains(addr)).collect();
        let surplus = kept.into_iter().filter(|addr| !addresses.contains(addr));
        for addr in stale.into_iter().chain(surplus) {
            locked.release(addr)?;
        }
        let written =
            addresses.iter().try_for_each(|addr| locked.put(*addr, &owner, &Record::of(attachment)));
        if let Err(error) = written {
            // The first error is the one to report; what cannot be given back now, DEL gives back.
            for addr in &new {
                let _ = locked.release(*addr);
            }
            return Err(error.into());
        }
        if !new.is_empty() {
            locked.set_cursor(&addresses)?;
        }
        Ok(Lease { addresses, fresh: !new.is_empty() })
    }

    /// Returns every address leased to an attachment to the pool.
    ///
    /// Releasing what is not leased succeeds: DEL may arrive twice, or after an ADD that failed
    /// (CNI specification 1.1.0, section 2, "DEL").
    ///
    /// # Errors
    /// [`IpamError::Store`].
    pub fn release(&self, attachment: &Attachment) -> Result<Vec<IpAddr>, IpamError> {
        let mut locked = self.store.lock(self.quarantine)?;
        let held = locked.held_by(&attachment.host_ifname());
        held.iter().try_for_each(|addr| locked.release(*addr))?;
        Ok(held)
    }

    /// Releases the leases of all attachments that are not valid, and returns whose they were; a lease whose record
    /// cannot be read is released too, but has no name to return.
    ///
    /// # Errors
    /// [`IpamError::Store`].
    pub fn retain(&self, valid: impl Fn(&str) -> bool) -> Result<Vec<Attachment>, IpamError> {
        let mut locked = self.store.lock(self.quarantine)?;
        let mut gone: Vec<Attachment> = Vec::new();
        for (addr, owner) in locked.leases() {
            if valid(&owner) {
                continue;
            }
            let attachment = locked.record(addr).ok().and_then(|record| record.attachment());
            locked.release(addr)?;
            if let Some(attachment) = attachment.filter(|attachment| !gone.contains(attachment)) {
                gone.push(attachment);
            }
        }
        Ok(gone)
    }

    /// The addresses an attachment holds.
    ///
    /// # Errors
    /// [`IpamError::Store`].
    pub fn held(&self, attachment: &Attachment) -> Result<Vec<IpAddr>, IpamError> {
        Ok(self.store.lock(self.quarantine)?.held_by(&attachment.host_ifname()))
    }

    /// Finds out whether one more attachment could get its addresses.
    ///
    /// # Errors
    /// [`IpamError`] that an ADD would meet now.
    pub fn check_room(&self) -> Result<(), IpamError> {
        let locked = self.store.lock(self.quarantine)?;
        self.ranges.iter().try_for_each(|set| choose(&locked, set, None).map(drop))
    }
}

fn choose(locked: &Locked, set: &RangeSet, cursor: Option<IpAddr>) -> Result<IpAddr, IpamError> {
    locked.choose(set, cursor).ok_or_else(|| IpamError::RangeExhausted {
        ranges: set.clone(),
        leased: locked.leases().iter().filter(|(addr, _)| set.contains(*addr)).count(),
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, fs, thread};

    use super::*;

    struct Lab {
        folder: tempfile::TempDir,
        config: config::Ipam,
    }

    impl Lab {
        fn new(ranges: &[&str], quarantine: Duration) -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let json = serde_json::json!({"name": "n", "ipam": {"ranges": ranges.iter().map(|r| [r]).collect::<Vec<_>>()}});
            let network = config::Network::parse(&json).expect("a configuration");
            let config = config::Ipam { data_dir: folder.path().to_owned(), quarantine, ..network.ipam };
            Self { folder, config }
        }

        fn ipam(&self) -> Ipam {
            Ipam::new("n", &self.config)
        }

        fn lease(&self, id: &str) -> Vec<String> {
            let lease = self.ipam().lease(&attachment(id)).expect("a lease");
            lease.addresses.iter().map(ToString::to_string).collect()
        }

        fn release(&self, id: &str) {
            self.ipam().release(&attachment(id)).expect("a release");
        }

        /// The folder of this boot.
        fn boot(&self) -> PathBuf {
            let entries = fs::read_dir(self.folder.path().join("n")).expect("a folder").flatten();
            entries.map(|entry| entry.path()).find(|path| path.is_dir()).expect("a boot")
        }
    }

    const LONG: Duration = Duration::from_secs(3600);

    fn attachment(id: &str) -> Attachment {
        Attachment::new(id, "eth0").expect("good names")
    }

    #[test]
    fn addresses_go_round_and_the_longest_released_comes_back_first() {
        let lab = Lab::new(&["10.0.0.0/29"], LONG);
        assert_eq!(lab.lease("a"), ["10.0.0.1"]);
        assert_eq!(lab.lease("b"), ["10.0.0.2"]);
        lab.release("b");
        lab.release("a");
        for (id, addr) in [("c", "10.0.0.3"), ("d", "10.0.0.4"), ("e", "10.0.0.5"), ("f", "10.0.0.6")] {
            assert_eq!(lab.lease(id), [addr], "others are free: nothing that rests is given");
        }
        assert_eq!(lab.lease("g"), ["10.0.0.2"], "released first");
        assert_eq!(lab.lease("h"), ["10.0.0.1"]);
        let error = lab.ipam().lease(&attachment("i")).expect_err("an exhausted range");
        assert_eq!(error.to_string(), "no free address in 10.0.0.0/29 (6 leased)");
    }

    #[test]
    fn without_quarantine_the_round_still_goes_on() {
        let lab = Lab::new(&["10.0.0.0/29"], Duration::ZERO);
        for addr in ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.1"] {
            assert_eq!(lab.lease("a"), [addr]);
            lab.release("a");
        }
        drop(lab.ipam().lease(&attachment("b")));
        let names = fs::read_dir(lab.boot()).expect("a folder").flatten();
        let resting = names.filter(|entry| entry.file_name().to_string_lossy().contains('~')).count();
        assert_eq!(resting, 0, "what has rested is forgotten");
    }

    #[test]
    fn the_same_attachment_keeps_its_lease_and_gets_what_it_lacks() {
        let lab = Lab::new(&["10.0.0.0/29", "fd00::/120"], LONG);
        let first = lab.ipam().lease(&attachment("a")).expect("a lease");
        assert!(first.fresh);
        let again = lab.ipam().lease(&attachment("a")).expect("a lease");
        assert_eq!((again.addresses, again.fresh), (first.addresses.clone(), false));
        // As if killed between the families.
        let owner = attachment("a").host_ifname();
        fs::remove_file(lab.boot().join(format!("{}@{owner}", first.addresses[1]))).expect("a lease");
        let completed = lab.ipam().lease(&attachment("a")).expect("a lease");
        assert_eq!(completed.addresses[0], first.addresses[0]);
        assert!(completed.fresh);
        assert_eq!(lab.ipam().held(&attachment("a")).expect("leases").len(), 2);
    }

    #[test]
    fn a_lease_out_of_a_changed_range_is_replaced() {
        let mut lab = Lab::new(&["10.0.0.0/29"], LONG);
        lab.lease("a");
        lab.config.ranges = Lab::new(&["10.9.0.0/29"], LONG).config.ranges;
        assert_eq!(lab.lease("a"), ["10.9.0.1"]);
        assert_eq!(lab.ipam().held(&attachment("a")).expect("leases").len(), 1);
    }

    #[test]
    fn one_family_exhausted_leases_nothing_of_the_other() {
        let lab = Lab::new(&["fd00::/120", "10.0.0.0/31"], LONG);
        lab.lease("a");
        lab.lease("b");
        let before = lab.ipam().store.lock(LONG).expect("the lock").leases().len();
        lab.ipam().lease(&attachment("c")).expect_err("an exhausted range");
        assert_eq!(lab.ipam().store.lock(LONG).expect("the lock").leases().len(), before);
        lab.ipam().check_room().expect_err("an exhausted range");
    }

    #[test]
    fn leases_of_an_earlier_boot_are_void() {
        let lab = Lab::new(&["10.0.0.0/30"], LONG);
        lab.lease("a");
        lab.lease("b");
        let earlier = lab.folder.path().join("n/0d9ff2a2-0000-4000-8000-000000000000");
        fs::rename(lab.boot(), &earlier).expect("another boot");
        assert_eq!(lab.lease("c"), ["10.0.0.1"]);
        assert!(!earlier.exists(), "and forgotten");
        assert!(lab.ipam().held(&attachment("a")).expect("leases").is_empty());
    }

    #[test]
    fn half_written_files_neither_lease_nor_disturb() {
        let lab = Lab::new(&["10.0.0.0/29"], LONG);
        lab.lease("a");
        let boot = lab.boot();
        fs::write(boot.join(".new"), "{\"contai").expect("a file");
        fs::write(boot.join("cursor"), "10.0.").expect("a file");
        fs::write(boot.join("10.0.0.2@slunreadable00"), "").expect("a file");
        assert_eq!(lab.lease("b"), ["10.0.0.3"]);
        let gone = lab.ipam().retain(|owner| owner == attachment("b").host_ifname()).expect("a collection");
        assert_eq!(gone, [attachment("a")]);
        assert_eq!(lab.ipam().store.lock(LONG).expect("the lock").leases().len(), 1);
    }

    #[test]
    fn a_lease_says_whose_it_is() {
        let lab = Lab::new(&["10.0.0.0/29"], LONG);
        let mut pod = attachment("a");
        pod.pod.name = Some("web-0".to_owned());
        lab.ipam().lease(&pod).expect("a lease");
        let path = lab.boot().join(format!("10.0.0.1@{}", pod.host_ifname()));
        let record: Record = serde_json::from_slice(&fs::read(path).expect("a lease")).expect("a record");
        assert_eq!((record.container.as_str(), record.ifname.as_str()), ("a", "eth0"));
        assert_eq!(record.pod_name.as_deref(), Some("web-0"));
    }

    #[test]
    fn threads_that_wait_for_the_lock_share_no_address() {
        let lab = Lab::new(&["10.0.0.0/24"], LONG);
        let lab = &lab;
        let leases: Vec<_> = thread::scope(|scope| {
            let start = |worker| {
                scope.spawn(move || {
                    (0..20).flat_map(|n| lab.lease(&format!("w{worker}n{n}"))).collect::<Vec<_>>()
                })
            };
            let workers: Vec<_> = (0..8).map(start).collect();
            workers.into_iter().flat_map(|worker| worker.join().expect("a worker")).collect()
        });
        assert_eq!(leases.iter().collect::<HashSet<_>>().len(), 160);
    }
}
