//! A folder of ordinary Kubernetes YAML or JSON, watched.
//!
//! Start at [`run`]. Files are `*.yaml`, `*.yml` and `*.json` right in the folder, names that begin with a dot apart;
//! each holds any number of documents, `List`s among them. Symbolic links are followed, so a mounted ConfigMap works.
//!
//! **Invariant: a file's objects change whole.** A file is read when its writer has closed it or renamed it into place,
//! never at every write. One that then cannot be read or understood, or is empty, keeps the objects it had; a file that
//! is gone takes its objects along. (To say "nothing" a file holds a comment.) At the beginning there are no objects to
//! keep but those in the kernel's maps: while a file makes no sense, nobody is told that all was told, and the maps stay
//! as they are. So a typing mistake never takes a policy away, not even across a restart.
//!
//! **Invariant: the last file in name order wins** when two hold the same object.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{FutureExt, StreamExt};
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchMask};
use sluice_core::{
    cluster::Change,
    object::{Object, ObjectError, ObjectKey, flatten},
};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::Event;
use crate::causes::Causes;

/// Why the folder cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// The folder is not there or may not be watched.
    #[error("watching folder {folder}", folder = folder.display())]
    Watch {
        /// The folder.
        folder: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The folder may not be listed.
    #[error("listing folder {folder}", folder = folder.display())]
    List {
        /// The folder.
        folder: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Why a file keeps the objects it had.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("reading the file")]
    Read(#[source] io::Error),
    #[error("the file is empty")]
    Empty,
    #[error("parsing the file")]
    Parse(#[source] Box<serde_saphyr::Error>),
    #[error("understanding document {number}")]
    Object { number: usize, source: ObjectError },
}

type Objects = BTreeMap<ObjectKey, Object>;

/// How long until a folder that is gone is looked for again.
const RETRY: Duration = Duration::from_secs(1);

/// Bytes of one read of announcements.
const BUFFER: usize = 4096;

/// Sends what the folder's files say until nobody listens.
///
/// # Errors
/// Any [`DirError`] when the folder is not there at the beginning.
pub async fn run(path: PathBuf, events: &mpsc::Sender<Event>) -> Result<(), DirError> {
    // Watched before it is read: what changes meanwhile is read again.
    let mut announcements = watch(&path)?;
    let mut folder = Folder { path, files: BTreeMap::new(), complaints: BTreeMap::new() };
    let names = folder.names()?;
    let mut changes = folder.read_all(names).await;
    info!(folder = %folder.path.display(), files = folder.files.len(), "folder read");
    let mut synced = false;
    loop {
        for change in changes {
            if events.send(Event::Change(change)).await.is_err() {
                return Ok(());
            }
        }
        if !synced && folder.complaints.is_empty() {
            synced = true;
            if events.send(Event::Synced).await.is_err() {
                return Ok(());
            }
        }
        let touched = tokio::select! {
            touched = next_touched(&mut announcements, &folder.path) => touched,
            () = events.closed() => return Ok(()),
        };
        changes = match touched {
            Touched::Files(names) => folder.read_all(names).await,
            Touched::Everything => folder.read_everything().await,
            Touched::FolderGone => {
                warn!(folder = %folder.path.display(), "folder is gone; its last objects stay in force");
                announcements = rewatch(&folder.path).await;
                info!(folder = %folder.path.display(), "folder is back");
                folder.read_everything().await
            }
        };
    }
}

/// What a batch of announcements asks for.
enum Touched {
    /// To read these files again.
    Files(BTreeSet<OsString>),
    /// To read every file again.
    Everything,
    /// To wait for the folder.
    FolderGone,
}

fn watch(folder: &Path) -> Result<EventStream<[u8; BUFFER]>, DirError> {
    let open = || {
        let inotify = Inotify::init()?;
        let mask = WatchMask::CLOSE_WRITE | WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVE;
        inotify
            .watches()
            .add(folder, mask | WatchMask::DELETE_SELF | WatchMask::MOVE_SELF | WatchMask::ONLYDIR)?;
        inotify.into_event_stream([0; BUFFER])
    };
    open().map_err(|source| DirError::Watch { folder: folder.to_owned(), source })
}

async fn rewatch(folder: &Path) -> EventStream<[u8; BUFFER]> {
    loop {
        // Nothing announces a path that does not exist.
        tokio::time::sleep(RETRY).await;
        if let Ok(announcements) = watch(folder) {
            return announcements;
        }
    }
}

/// Waits for an announcement and takes in those that are there too: one save makes several.
async fn next_touched(announcements: &mut EventStream<[u8; BUFFER]>, folder: &Path) -> Touched {
    let mut names = BTreeSet::new();
    loop {
        let mut next = announcements.next().await;
        while let Some(event) = next {
            match event {
                Ok(event) => match touched(event, folder) {
                    Some(Touched::Files(more)) => names.extend(more),
                    Some(other) => return other,
                    None => {}
                },
                Err(_) => return Touched::FolderGone,
            }
            next = announcements.next().now_or_never().flatten();
        }
        if !names.is_empty() {
            return Touched::Files(names);
        }
    }
}

fn touched(event: EventOwned, folder: &Path) -> Option<Touched> {
    if event.mask.intersects(EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED) {
        return Some(Touched::FolderGone);
    }
    if event.mask.contains(EventMask::Q_OVERFLOW) {
        return Some(Touched::Everything);
    }
    let name = event.name?;
    if !is_ours(&name) {
        // A mounted ConfigMap switches its files by moving the link `..data`.
        return (event.mask.contains(EventMask::MOVED_TO) && name.as_bytes().starts_with(b".."))
            .then_some(Touched::Everything);
    }
    if event.mask.contains(EventMask::CREATE) {
        // A new file will be closed by its writer; a new link is whole at once.
        let is_link = fs::symlink_metadata(folder.join(&name))
            .is_ok_and(|found| found.is_symlink() || found.nlink() > 1);
        return is_link.then(|| Touched::Files(BTreeSet::from([name])));
    }
    Some(Touched::Files(BTreeSet::from([name])))
}

fn is_ours(name: &OsStr) -> bool {
    let is_hidden = name.as_bytes().starts_with(b".");
    let extension = Path::new(name).extension().and_then(OsStr::to_str);
    !is_hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    files: BTreeMap<OsString, Objects>,
    /// What was last said about a file, so that it is said once.
    complaints: BTreeMap<OsString, String>,
}

impl Folder {
    /// The files that are there and those that were.
    fn names(&self) -> Result<BTreeSet<OsString>, DirError> {
        let list =
            || fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
        let found = list().map_err(|source| DirError::List { folder: self.path.clone(), source })?;
        Ok(found.into_iter().filter(|name| is_ours(name)).chain(self.files.keys().cloned()).collect())
    }

    async fn read_everything(&mut self) -> Vec<Change> {
        match self.names() {
            Ok(names) => self.read_all(names).await,
            Err(error) => {
                warn!(folder = %self.path.display(), error = %Causes(&error), "folder not listed");
                Vec::new()
            }
        }
    }

    async fn read_all(&mut self, names: BTreeSet<OsString>) -> Vec<Change> {
        let mut changes = Vec::new();
        for name in names {
            let path = self.path.join(&name);
            // Parsing a big file takes a second; calls on the socket do not wait for it.
            let reading = tokio::task::spawn_blocking(move || read_objects(&path));
            changes.extend(self.take(name, reading.await.expect("reading files does not panic")));
        }
        changes
    }

    /// Takes in what a file says now; what changes by it.
    fn take(&mut self, name: OsString, objects: Result<Objects, FileError>) -> Vec<Change> {
        let path = self.path.join(&name);
        let objects = match objects {
            Err(FileError::Read(error)) if error.kind() == io::ErrorKind::NotFound => {
                self.complaints.remove(&name);
                return self.replace(name, None);
            }
            Err(error) => {
                self.complain(name, &path, &error);
                return Vec::new();
            }
            Ok(objects) => objects,
        };
        self.complaints.remove(&name);
        debug!(file = %path.display(), objects = objects.len(), "file read");
        self.replace(name, Some(objects))
    }

    fn complain(&mut self, name: OsString, path: &Path, error: &FileError) {
        let complaint = Causes(error).to_string();
        if self.complaints.get(&name) != Some(&complaint) {
            warn!(file = %path.display(), error = %complaint, "file not understood; its last good objects stay in force");
            self.complaints.insert(name, complaint);
        }
    }

    fn replace(&mut self, name: OsString, objects: Option<Objects>) -> Vec<Change> {
        let new_keys: Vec<_> = objects.iter().flat_map(|objects| objects.keys().cloned()).collect();
        let old = match objects {
            Some(objects) => self.files.insert(name.clone(), objects),
            None => self.files.remove(&name),
        };
        let old = old.unwrap_or_default();
        let keys: BTreeSet<_> = old.keys().cloned().chain(new_keys).collect();
        keys.into_iter().filter_map(|key| self.effect(&name, &old, key)).collect()
    }

    /// What the new contents of file `name` mean for one object that it holds, or held.
    fn effect(&self, name: &OsString, old: &Objects, key: ObjectKey) -> Option<Change> {
        let mut holders = self.files.iter().rev().filter(|(_, objects)| objects.contains_key(&key));
        let Some((winner, objects)) = holders.next() else {
            return Some(Change::Delete(key));
        };
        let is_new =
            !old.contains_key(&key) && self.files.get(name).is_some_and(|file| file.contains_key(&key));
        if is_new && let Some((other, _)) = holders.next() {
            warn!(object = %key, used = %winner.display(), ignored = %other.display(), "object in two files");
        }
        let now = &objects[&key];
        let is_as_before = winner > name || (winner == name && old.get(&key) == Some(now));
        (!is_as_before).then(|| Change::Upsert(now.clone()))
    }
}

fn read_objects(path: &Path) -> Result<Objects, FileError> {
    let text = fs::read(path).map_err(FileError::Read)?;
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err(FileError::Empty);
    }
    // The folder is its owner's; only size in memory bounds it.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_documents: usize::MAX, max_nodes: usize::MAX, max_events: usize::MAX },
        with_snippet: false,
    };
    let mut objects = Objects::new();
    let mut reader = text.as_slice();
    for (index, document) in serde_saphyr::read_with_options(&mut reader, options).enumerate() {
        let document: serde_json::Value = document.map_err(|error| FileError::Parse(Box::new(error)))?;
        for item in flatten(document) {
            let object =
                Object::from_value(item).map_err(|source| FileError::Object { number: index + 1, source })?;
            objects.extend(object.map(|object| (object.key(), object)));
        }
    }
    Ok(objects)
}
