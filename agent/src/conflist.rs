//! The CNI configuration: its presence tells the runtime that pods can be made here, so it is written last.
//!
//! **Invariant.** The file is whole or absent: a temporary file in the same folder is renamed over it (containerd
//! misses files moved in from another folder). An equal file is not touched, so the runtime does not reload.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

/// `type` of our plugin: the name of its binary.
pub const PLUGIN: &str = "sluice-cni";

/// Newest CNI specification the plugin speaks.
const CNI_VERSION: &str = "1.1.0";

/// Seconds ADD waits for the pod's rules (`DESIGN.md` section 5).
const AGENT_TIMEOUT_S: u32 = 10;

/// Why the configuration was not written or removed.
#[derive(Debug, thiserror::Error)]
pub enum ConflistError {
    /// The old file is there but cannot be read.
    #[error("reading CNI configuration {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The new file could not be put in place; the old one stands.
    #[error("writing CNI configuration {path}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file could not be removed.
    #[error("removing CNI configuration {path}", path = path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What the configuration says.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    /// Name of the network.
    pub network: &'a str,
    /// This node's ranges: pods get one address of each family in them.
    pub ranges: &'a [IpNetwork],
    /// MTU of pods' interfaces, bytes; `None` is the default route's device's.
    pub mtu: Option<u32>,
    /// The agent's socket.
    pub socket: &'a Path,
    /// Folder of leases.
    pub lease_dir: &'a Path,
    /// Whether the reference plugin `portmap` comes behind ours, for `hostPort`.
    pub portmap: bool,
}

/// Name of the reference plugin that serves `hostPort`.
pub const PORTMAP: &str = "portmap";

/// The text of the configuration.
pub fn render(content: &Content<'_>) -> String {
    let Content { network, ranges, mtu, socket, lease_dir, portmap } = *content;
    let of_family = |v4: bool| -> Vec<Value> {
        ranges.iter().filter(|range| range.is_ipv4() == v4).map(|range| json!({"subnet": range})).collect()
    };
    let families: Vec<_> =
        [of_family(true), of_family(false)].into_iter().filter(|list| !list.is_empty()).collect();
    let mut plugins = vec![json!({
        "type": PLUGIN,
        "mtu": mtu.unwrap_or(0),
        "ipam": {"ranges": families, "dataDir": lease_dir.display().to_string()},
        "agent": {"socket": socket.display().to_string(), "timeoutSeconds": AGENT_TIMEOUT_S},
    })];
    if portmap {
        // Source translation is for the node's own processes, which reach a host port through 127.0.0.1.
        plugins.push(json!({"type": PORTMAP, "capabilities": {"portMappings": true}, "snat": true}));
    }
    let conflist = json!({"cniVersion": CNI_VERSION, "name": network, "plugins": plugins});
    format!("{conflist:#}\n")
}

/// Puts `text` at `path` unless it is there already; whether it was written.
///
/// # Errors
/// [`ConflistError::Read`] or [`ConflistError::Write`]; an older file still stands whole.
pub fn write(path: &Path, text: &str) -> Result<bool, ConflistError> {
    match fs::read(path) {
        Ok(found) if found == text.as_bytes() => return Ok(false),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(ConflistError::Read { path: path.to_owned(), source }),
    }
    replace(path, text)
        .map(|()| true)
        .map_err(|source| ConflistError::Write { path: path.to_owned(), source })
}

/// Removes `path` if it is the configuration of our plugin for `network`; whether it was there and ours.
///
/// # Errors
/// [`ConflistError::Read`] or [`ConflistError::Remove`].
pub fn remove(path: &Path, network: &str) -> Result<bool, ConflistError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(ConflistError::Read { path: path.to_owned(), source }),
    };
    let conflist: Value = serde_json::from_slice(&text).unwrap_or_default();
    if conflist["name"] != network || conflist["plugins"][0]["type"] != PLUGIN {
        return Ok(false);
    }
    fs::remove_file(path)
        .map(|()| true)
        .map_err(|source| ConflistError::Remove { path: path.to_owned(), source })
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    // The runtime reads *.conf, *.conflist and *.json: it never sees the temporary file.
    let temporary = path.with_extension("conflist.tmp");
    let written = (|| {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // Best effort: the error to report is the first one.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(of: &[&str]) -> Vec<IpNetwork> {
        of.iter().map(|range| range.parse().expect("a range")).collect()
    }

    fn content(ranges: &[IpNetwork]) -> Content<'_> {
        let (socket, lease_dir) = (Path::new("/run/a.sock"), Path::new("/var/lib/cni/sluice"));
        Content { network: "sluice", ranges, mtu: None, socket, lease_dir, portmap: false }
    }

    #[test]
    fn ranges_are_listed_by_family() {
        let ranges = ranges(&["fd00:1::/64", "10.1.0.0/24"]);
        let text = render(&Content { mtu: Some(1450), ..content(&ranges) });
        let conflist: Value = serde_json::from_str(&text).expect("JSON");
        let plugin = &conflist["plugins"][0];
        let want = json!({"dataDir": "/var/lib/cni/sluice",
            "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]});
        assert_eq!(plugin["ipam"], want);
        assert_eq!(plugin["agent"], json!({"socket": "/run/a.sock", "timeoutSeconds": 10}));
        assert_eq!((&plugin["mtu"], &plugin["type"]), (&json!(1450), &json!("sluice-cni")));
    }

    #[test]
    fn portmap_comes_behind_our_plugin_and_is_told_the_ports() {
        let conflist: Value =
            serde_json::from_str(&render(&Content { portmap: true, ..content(&[]) })).expect("JSON");
        let types: Vec<_> =
            conflist["plugins"].as_array().expect("a list").iter().map(|p| &p["type"]).collect();
        assert_eq!(types, ["sluice-cni", "portmap"]);
        assert_eq!(conflist["plugins"][1]["capabilities"]["portMappings"], true);
    }

    #[test]
    fn the_file_is_replaced_whole_and_only_when_it_changes() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("10-sluice.conflist");
        assert!(write(&path, "one").expect("written"));
        let mut old = File::open(&path).expect("the first file");
        assert!(!write(&path, "one").expect("equal"), "an equal file is left alone");
        assert!(write(&path, "two").expect("written"));
        // Who has the old file open still reads the old file, whole: it was replaced, not rewritten.
        let mut text = String::new();
        io::Read::read_to_string(&mut old, &mut text).expect("the old file");
        assert_eq!(
            (text.as_str(), fs::read_to_string(&path).expect("the new file").as_str()),
            ("one", "two")
        );
        assert_eq!(fs::read_dir(&folder).expect("the folder").count(), 1, "no temporary file stays");
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("10-sluice.conflist");
        fs::create_dir(&path).expect("something in the way");
        fs::write(path.join("x"), "x").expect("not empty");
        assert!(replace(&path, "one").is_err());
        assert_eq!(fs::read_dir(&folder).expect("the folder").count(), 1);
    }

    #[test]
    fn only_our_own_file_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("10-sluice.conflist");
        assert!(!remove(&path, "sluice").expect("absent"));
        for other in ["{", r#"{"name":"sluice","plugins":[{"type":"bridge"}]}"#] {
            fs::write(&path, other).expect("written");
            assert!(!remove(&path, "sluice").expect("another's"), "{other}");
        }
        write(&path, &render(&content(&[]))).expect("written");
        assert!(!remove(&path, "other").expect("another network's"));
        assert!(remove(&path, "sluice").expect("ours") && !path.exists());
    }
}
