//! Keeping the node's own sockets off the ports of translated flows.

use std::ops::RangeInclusive;

use super::{Changed, SysctlError, Sysctls};

/// Ports that the kernel gives to no socket by itself (Linux `ip-sysctl.rst`).
const RESERVED: &str = "ipv4/ip_local_reserved_ports";

impl Sysctls {
    /// Adds `ports` to those that the kernel gives to no socket by itself; whether it had to.
    ///
    /// # Errors
    /// The first [`SysctlError`].
    pub fn reserve_ports(&self, ports: &RangeInclusive<u16>) -> Result<bool, SysctlError> {
        let Some(found) = self.read(RESERVED)? else { return Ok(false) };
        let mut record = self.load()?;
        // What an earlier agent added need not stay.
        let ours = record.changed.get(RESERVED).filter(|changed| changed.set == found);
        let before = ours.map_or(&found, |changed| &changed.before).clone();
        let set = with(&before, ports);
        if set == found {
            return Ok(false);
        }
        record.changed.insert(RESERVED.to_owned(), Changed { before, set: set.clone() });
        self.save(&record)?;
        self.write(RESERVED, &set)?;
        Ok(true)
    }
}

/// A list of ports with others added, as the kernel writes it: in order, neighbours as one range.
fn with(list: &str, ports: &RangeInclusive<u16>) -> String {
    let known = list.split(',').filter_map(|item| {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        Some((first.trim().parse::<u32>().ok()?, last.trim().parse::<u32>().ok()?))
    });
    let mut ranges: Vec<(u32, u32)> = known.collect();
    ranges.push((u32::from(*ports.start()), u32::from(*ports.end())));
    ranges.sort_unstable();
    ranges.dedup_by(|next, range| {
        let joins = next.0 <= range.1 + 1;
        if joins {
            range.1 = range.1.max(next.1);
        }
        joins
    });
    let words = |(first, last): &(u32, u32)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(words).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_listed_as_the_kernel_does() {
        let ports = 61_000..=65_535;
        for (list, want) in [
            ("", "61000-65535"),
            ("8080", "8080,61000-65535"),
            ("30000-32767,8080", "8080,30000-32767,61000-65535"),
            ("60990-60999", "60990-65535"),
            ("61000-65535", "61000-65535"),
            ("60000-62000,65535", "60000-65535"),
        ] {
            assert_eq!(with(list, &ports), want, "{list}");
        }
    }
}
