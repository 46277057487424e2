//! A folder of ordinary Kubernetes YAML or JSON, watched.
//!
//! Start at [`run`]. Files are `*.yaml`, `*.yml` and `*.json` right in the folder, names that begin with a dot apart;
//! each holds any number of documents, `List`s among them. Symbolic links are followed, so a mounted ConfigMap works.
//!
//! **Invariant: a file's objects change whole.** A file is read when its writer has closed it or renamed it into place,
//! never at every write. One that then cannot be read or understood, or is empty, keeps the objects it had; a file that
//! is gone, and still is after [`ABSENCE`], takes its objects along. (To say "nothing" a file holds a comment.) At the beginning there are no objects to
//! keep but those in the kernel's maps: while a file makes no sense, nobody is told that all was told, and the maps stay
//! as they are. So a typing mistake never takes a policy away, not even across a restart.
//!
//! **Invariant: nothing is gone in between.** Editors, `git checkout` and mounted ConfigMaps take files away and put
//! others in their place, and objects move from one file to another: all that is read at once is told at once, one change
//! for each object, what is new before what is gone.
//!
//! **Invariant: the last file in name order wins** when two hold the same object.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, StreamExt};
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchMask};
use sluice_core::{
    cluster::Change,
    object::{Object, ObjectError, ObjectKey, flatten},
};
use tokio::{sync::mpsc, time::Instant};
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

type Objects = BTreeMap<ObjectKey, Arc<Object>>;

/// How long until a folder that is gone is looked for again.
const RETRY: Duration = Duration::from_secs(1);

/// How long a file has to be away until it counts as gone: much more than between the two renames of an editor.
const ABSENCE: Duration = Duration::from_millis(500);

/// Bytes of one read of announcements.
const BUFFER: usize = 4096;

/// Sends what the folder's files say until nobody listens.
///
/// # Errors
/// Any [`DirError`] when the folder is not there at the beginning.
pub async fn run(path: PathBuf, events: &mpsc::Sender<Event>) -> Result<(), DirError> {
    // Watched before it is read: what changes meanwhile is read again.
    let mut announcements = watch(&path)?;
    let mut folder = Folder::new(path);
    let names = folder.names()?;
    folder.read_all(names).await;
    info!(folder = %folder.path.display(), files = folder.files.len(), "folder read");
    let mut synced = false;
    loop {
        let changes = folder.changes();
        if !changes.is_empty() && events.send(Event::Changes(changes)).await.is_err() {
            return Ok(());
        }
        if !synced && folder.is_understood() {
            synced = true;
            if events.send(Event::Synced).await.is_err() {
                return Ok(());
            }
        }
        let touched = tokio::select! {
            touched = next_touched(&mut announcements, &folder.path) => touched,
            () = until(folder.next_look()) => Touched::Nothing,
            () = events.closed() => return Ok(()),
        };
        match touched {
            Touched::Nothing => folder.look_for_absent().await,
            Touched::Files(files) => folder.follow(files).await,
            Touched::Everything => folder.read_everything().await,
            Touched::FolderGone => {
                warn!(folder = %folder.path.display(), "folder is gone; its last objects stay in force");
                announcements = rewatch(&folder.path).await;
                info!(folder = %folder.path.display(), "folder is back");
                folder.read_everything().await;
            }
        }
    }
}

/// What a batch of announcements asks for.
enum Touched {
    /// To look whether absent files are back.
    Nothing,
    /// To take note of what became of these files.
    Files(BTreeMap<OsString, Fate>),
    /// To read every file again.
    Everything,
    /// To wait for the folder.
    FolderGone,
}

/// What became of a file at last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    /// It is whole and to be read.
    Written,
    /// It is away. What is in its place since then is only being written, else it were announced.
    Away,
}

/// Waits until a moment, for ever without one.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
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
    let mut files = BTreeMap::new();
    loop {
        let mut next = announcements.next().await;
        while let Some(event) = next {
            match event {
                Ok(event) => match touched(event, folder) {
                    Some(Touched::Files(more)) => files.extend(more),
                    Some(other) => return other,
                    None => {}
                },
                Err(_) => return Touched::FolderGone,
            }
            next = announcements.next().now_or_never().flatten();
        }
        if !files.is_empty() {
            return Touched::Files(files);
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
        return is_link.then(|| Touched::Files(BTreeMap::from([(name, Fate::Written)])));
    }
    let is_away = event.mask.intersects(EventMask::DELETE | EventMask::MOVED_FROM);
    let fate = if is_away { Fate::Away } else { Fate::Written };
    Some(Touched::Files(BTreeMap::from([(name, fate)])))
}

fn is_ours(name: &OsStr) -> bool {
    let is_hidden = name.as_bytes().starts_with(b".");
    let extension = Path::new(name).extension().and_then(OsStr::to_str);
    !is_hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}

/// Whether a link is there; it may lead nowhere.
fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink())
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    files: BTreeMap<OsString, Objects>,
    /// Files that were not there when they were to be read, and when to look for them again.
    absent: BTreeMap<OsString, Instant>,
    /// What was last said about a file, so that it is said once.
    complaints: BTreeMap<OsString, String>,
    /// Objects of which it was said that two files hold them.
    in_two: BTreeSet<ObjectKey>,
    /// Objects in files that were read since changes were told.
    touched: BTreeSet<ObjectKey>,
    /// What was told.
    told: Objects,
}

impl Folder {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            files: BTreeMap::new(),
            absent: BTreeMap::new(),
            complaints: BTreeMap::new(),
            in_two: BTreeSet::new(),
            touched: BTreeSet::new(),
            told: Objects::new(),
        }
    }

    /// The files that are there and those that were.
    fn names(&self) -> Result<BTreeSet<OsString>, DirError> {
        let list =
            || fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
        let found = list().map_err(|source| DirError::List { folder: self.path.clone(), source })?;
        Ok(found.into_iter().filter(|name| is_ours(name)).chain(self.files.keys().cloned()).collect())
    }

    /// Whether every file is there and makes sense.
    fn is_understood(&self) -> bool {
        self.complaints.is_empty() && self.absent.is_empty()
    }

    /// When to look for absent files.
    fn next_look(&self) -> Option<Instant> {
        self.absent.values().min().copied()
    }

    async fn follow(&mut self, files: BTreeMap<OsString, Fate>) {
        let (written, away): (BTreeMap<_, _>, BTreeMap<_, _>) =
            files.into_iter().partition(|(_, fate)| *fate == Fate::Written);
        away.into_keys().for_each(|name| self.miss(name));
        self.read_all(written.into_keys().collect()).await;
    }

    /// Notes that a file is away; its objects stay in force for now.
    fn miss(&mut self, name: OsString) {
        self.absent.entry(name).or_insert_with(|| Instant::now() + ABSENCE);
    }

    async fn read_everything(&mut self) {
        match self.names() {
            Ok(names) => self.read_all(names).await,
            Err(error) => {
                warn!(folder = %self.path.display(), error = %Causes(&error), "folder not listed");
            }
        }
    }

    async fn read_all(&mut self, names: BTreeSet<OsString>) {
        for name in names {
            let path = self.path.join(&name);
            // Parsing a big file takes a second; calls on the socket do not wait for it.
            let reading = tokio::task::spawn_blocking(move || read_objects(&path));
            self.take(name, reading.await.expect("reading files does not panic"));
        }
    }

    /// Looks for the files that were absent for long enough.
    async fn look_for_absent(&mut self) {
        let now = Instant::now();
        let due: Vec<_> = self.absent.extract_if(.., |_, look_at| *look_at <= now).collect();
        for (name, _) in due {
            let path = self.path.join(&name);
            if !path.exists() {
                self.complaints.remove(&name);
                self.replace(name, None);
            } else if is_link(&path) {
                self.read_all(BTreeSet::from([name])).await;
            } else {
                // Its writer is at work again, and its end will be announced.
                self.absent.insert(name, now + ABSENCE);
            }
        }
    }

    /// Takes in what a file says now.
    fn take(&mut self, name: OsString, objects: Result<Objects, FileError>) {
        let path = self.path.join(&name);
        match objects {
            Err(FileError::Read(error)) if error.kind() == io::ErrorKind::NotFound => self.miss(name),
            Err(error) => {
                self.absent.remove(&name);
                self.complain(name, &path, &error);
            }
            Ok(objects) => {
                self.absent.remove(&name);
                self.complaints.remove(&name);
                debug!(file = %path.display(), objects = objects.len(), "file read");
                self.replace(name, Some(objects));
            }
        }
    }

    fn complain(&mut self, name: OsString, path: &Path, error: &FileError) {
        let complaint = Causes(error).to_string();
        if self.complaints.get(&name) != Some(&complaint) {
            warn!(file = %path.display(), error = %complaint, "file not understood; its last good objects stay in force");
            self.complaints.insert(name, complaint);
        }
    }

    fn replace(&mut self, name: OsString, objects: Option<Objects>) {
        self.touched.extend(objects.iter().flat_map(|objects| objects.keys().cloned()));
        let old = match objects {
            Some(objects) => self.files.insert(name, objects),
            None => self.files.remove(&name),
        };
        self.touched.extend(old.into_iter().flat_map(Objects::into_keys));
    }

    /// What has changed since this was asked last: what is new, then what is gone.
    fn changes(&mut self) -> Vec<Change> {
        let (mut changes, mut gone) = (Vec::new(), Vec::new());
        for key in std::mem::take(&mut self.touched) {
            self.complain_of_two(&key);
            match self.files.values().rev().find_map(|file| file.get(&key)) {
                None => gone.extend(self.told.remove(&key).map(|_| Change::Delete(key))),
                Some(object) if self.told.get(&key) == Some(object) => {}
                Some(object) => {
                    changes.push(Change::Upsert(Object::clone(object)));
                    self.told.insert(key, object.clone());
                }
            }
        }
        changes.extend(gone);
        changes
    }

    /// Warns once of an object that two files hold, both of them there.
    fn complain_of_two(&mut self, key: &ObjectKey) {
        let is_here = |name: &&OsString| !self.absent.contains_key(*name);
        let holding = self.files.iter().rev().filter(|(_, file)| file.contains_key(key));
        let mut holders = holding.map(|(name, _)| name).filter(is_here);
        let (Some(used), Some(ignored)) = (holders.next(), holders.next()) else {
            self.in_two.remove(key);
            return;
        };
        if self.in_two.insert(key.clone()) {
            warn!(object = %key, used = %used.display(), ignored = %ignored.display(), "object in two files");
        }
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
            objects.extend(object.map(|object| (object.key(), Arc::new(object))));
        }
    }
    Ok(objects)
}
