//! A folder of YAML, with everything that happens to files.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    path::Path,
    time::Duration,
};

use sluice_agent::watch::{Event, Feed};
use sluice_core::{
    cluster::Change,
    object::{Object, ObjectKey},
};
use tempfile::TempDir;
use tokio::sync::mpsc;

/// The watched folder and what it said so far.
struct Folder {
    dir: TempDir,
    events: mpsc::Receiver<Event>,
    /// The rest of the changes that came at once.
    rest: VecDeque<Change>,
    objects: BTreeMap<ObjectKey, Object>,
}

impl Folder {
    async fn with(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            fs::write(dir.path().join(name), text).expect("a file");
        }
        let (sender, events) = mpsc::channel(1);
        tokio::spawn(Feed::Dir(dir.path().to_owned()).run(sender));
        let mut folder = Self { dir, events, rest: VecDeque::new(), objects: BTreeMap::new() };
        while let Some(change) = folder.next().await {
            folder.take(change);
        }
        folder
    }

    /// The next change; `None` is the mark that all was told.
    async fn next(&mut self) -> Option<Change> {
        while self.rest.is_empty() {
            self.rest = self.batch().await?.into();
        }
        self.rest.pop_front()
    }

    /// The next changes that come at once; `None` is the mark that all was told.
    async fn batch(&mut self) -> Option<Vec<Change>> {
        let event = tokio::time::timeout(Duration::from_secs(20), self.events.recv())
            .await
            .expect("an event in time");
        match event.expect("the source goes on") {
            Event::Change(change) => Some(vec![change]),
            Event::Changes(changes) => Some(changes),
            Event::Unreadable(unreadable) => unreachable!("{unreadable}"),
            Event::Synced => None,
        }
    }

    fn take(&mut self, change: Change) {
        match change {
            Change::Upsert(object) => drop(self.objects.insert(object.key(), object)),
            Change::Delete(key) => drop(self.objects.remove(&key).expect("a known object")),
            Change::Attach(_) | Change::Detach(_) | Change::NodeAddresses(_) | Change::UplinkAddresses(_) => {
                unreachable!("{change:?}")
            }
        }
    }

    /// Takes in changes until the names are these.
    async fn until(&mut self, names: &[&str]) {
        while self.names() != names {
            let change = self.next().await.expect("synced only once");
            self.take(change);
        }
    }

    /// Writes a file that nobody has mentioned, and waits for it: everything before it was dealt with.
    async fn barrier(&mut self, name: &str) {
        self.write(&format!("zz-{name}.yaml"), &namespace(name));
        let change = self.next().await;
        let Some(Change::Upsert(Object::Namespace(found))) = change else {
            panic!("before {name}: {change:?}")
        };
        assert_eq!(found.metadata.name, name, "nothing else changed");
    }

    fn names(&self) -> Vec<&str> {
        self.objects
            .values()
            .map(|object| if let Object::Namespace(object) = object { &*object.metadata.name } else { "?" })
            .collect()
    }

    fn label(&self, name: &str) -> Option<&str> {
        let Some(Object::Namespace(object)) = self.objects.get(&ObjectKey::Namespace(name.to_owned())) else {
            return None;
        };
        object.metadata.labels.get("v").map(String::as_str)
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).expect("a file");
    }

    fn replace(&self, name: &str, text: &str) {
        let temporary = self.path().join(".next");
        fs::write(&temporary, text).expect("a file");
        fs::rename(temporary, self.path().join(name)).expect("renamed");
    }
}

fn namespace(name: &str) -> String {
    labelled(name, "1")
}

fn labelled(name: &str, v: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{v: \"{v}\"}}}}\n")
}

#[tokio::test]
async fn everything_that_is_there_is_told_before_synced() {
    let list =
        format!("apiVersion: v1\nkind: List\nitems:\n- {}", namespace("c").trim().replace('\n', "\n  "));
    let several = format!("# a comment\n---\n{}---\n{}", namespace("a"), namespace("b"));
    let json = r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "d"}}"#;
    let unknown = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n";
    let folder = Folder::with(&[
        ("1.yaml", several.as_str()),
        ("2.yml", list.as_str()),
        ("3.json", json),
        ("4.yaml", unknown),
        ("readme.txt", "not: ours"),
        (".hidden.yaml", &namespace("hidden")),
    ])
    .await;
    assert_eq!(folder.names(), ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn while_a_file_makes_no_sense_at_the_beginning_not_everything_was_told() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("1.yaml"), namespace("a")).expect("a file");
    fs::write(dir.path().join("2.yaml"), "a: [b").expect("a file");
    let (sender, events) = mpsc::channel(1);
    tokio::spawn(Feed::Dir(dir.path().to_owned()).run(sender));
    let mut folder = Folder { dir, events, rest: VecDeque::new(), objects: BTreeMap::new() };
    folder.until(&["a"]).await;
    folder.write("3.yaml", &namespace("c"));
    folder.until(&["a", "c"]).await;
    folder.write("2.yaml", &namespace("b"));
    folder.until(&["a", "b", "c"]).await;
    assert_eq!(folder.next().await, None, "now everything was told");
}

#[tokio::test]
async fn files_that_come_change_and_go_take_their_objects_along() {
    let mut folder = Folder::with(&[("1.yaml", &namespace("a"))]).await;
    folder.write("2.yaml", &namespace("b"));
    folder.until(&["a", "b"]).await;
    folder.replace("1.yaml", &labelled("a", "2"));
    let change = folder.next().await.expect("a change");
    folder.take(change);
    assert_eq!(folder.label("a"), Some("2"));
    folder.write("2.yaml", &namespace("c"));
    folder.until(&["a", "c"]).await;
    fs::rename(folder.path().join("2.yaml"), folder.path().join("2.yaml.off")).expect("renamed away");
    folder.until(&["a"]).await;
    fs::remove_file(folder.path().join("1.yaml")).expect("removed");
    folder.until(&[]).await;
}

#[tokio::test]
async fn a_file_that_makes_no_sense_keeps_its_last_good_objects() {
    let mut folder = Folder::with(&[("1.yaml", &format!("{}---\n{}", namespace("a"), namespace("b")))]).await;
    let bad = [
        "a: [b",
        "kind: Namespace\n",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: 7\n",
        "",
        " \n",
    ];
    for (number, text) in bad.into_iter().enumerate() {
        folder.write("1.yaml", text);
        folder.barrier(&format!("z{number}")).await;
    }
    // One good document before a bad one: the file counts as a whole.
    folder.write("1.yaml", &format!("{}---\nb: [", labelled("a", "9")));
    folder.barrier("z9").await;
    assert_eq!(folder.label("a"), Some("1"));
    folder.write("1.yaml", "# nothing here, on purpose\n");
    for _ in ["a", "b"] {
        let change = folder.next().await.expect("a change");
        folder.take(change);
    }
    assert_eq!(folder.label("b"), None);
}

#[tokio::test]
async fn a_file_is_read_when_its_writer_is_done() {
    use std::io::Write;

    let mut folder = Folder::with(&[("1.yaml", &namespace("a"))]).await;
    let mut half = fs::File::create(folder.path().join("2.yaml")).expect("a file");
    half.write_all(format!("{}---\n", namespace("b")).as_bytes()).expect("the first half");
    folder.barrier("z").await;
    half.write_all(namespace("c").as_bytes()).expect("the second half");
    drop(half);
    folder.until(&["a", "b", "c"]).await;
}

#[tokio::test]
async fn the_last_file_in_name_order_wins_and_the_first_takes_over_when_it_goes() {
    let mut folder = Folder::with(&[("1.yaml", &labelled("a", "1")), ("2.yaml", &labelled("a", "2"))]).await;
    assert_eq!(folder.label("a"), Some("2"));
    folder.write("1.yaml", &labelled("a", "3"));
    folder.barrier("z").await;
    fs::remove_file(folder.path().join("2.yaml")).expect("removed");
    let change = folder.next().await.expect("a change");
    folder.take(change);
    assert_eq!(folder.label("a"), Some("3"));
}

#[tokio::test]
async fn a_mounted_config_map_switches_as_a_whole() {
    use std::os::unix::fs::symlink;

    let mut folder = Folder::with(&[]).await;
    let version = |number: u32, name: &str| {
        let data = folder.path().join(format!("..{number}"));
        fs::create_dir(&data).expect("a version");
        fs::write(data.join("1.yaml"), namespace(name)).expect("a file");
        symlink(format!("..{number}"), folder.path().join("..data_tmp")).expect("a link");
        fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).expect("switched");
    };
    version(1, "a");
    symlink("..data/1.yaml", folder.path().join("1.yaml")).expect("a link");
    version(2, "b");
    folder.until(&["b"]).await;
}

#[tokio::test]
async fn a_folder_that_goes_keeps_its_objects_and_is_followed_when_it_is_back() {
    let mut folder = Folder::with(&[("1.yaml", &namespace("a"))]).await;
    let (path, away) = (folder.path().to_owned(), folder.path().with_extension("away"));
    fs::rename(&path, &away).expect("moved away");
    fs::create_dir(&path).expect("another folder");
    fs::write(path.join("1.yaml"), namespace("b")).expect("a file");
    folder.until(&["b"]).await;
    fs::remove_dir_all(away).expect("removed");
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_an_error_that_names_it() {
    let (sender, _events) = mpsc::channel(1);
    let error = Feed::Dir("/nonexistent/sluice".into()).run(sender).await.expect_err("no folder");
    assert_eq!(error.to_string(), "watching folder /nonexistent/sluice");
}

/// What changes say, a word each.
fn words(changes: &[Change]) -> Vec<String> {
    changes
        .iter()
        .map(|change| match change {
            Change::Upsert(object) => format!("+{}", object.key()),
            Change::Delete(key) => format!("-{key}"),
            Change::Attach(_) | Change::Detach(_) | Change::NodeAddresses(_) | Change::UplinkAddresses(_) => {
                unreachable!("{change:?}")
            }
        })
        .collect()
}

#[tokio::test]
async fn a_file_that_is_away_for_a_moment_takes_nothing_along() {
    let mut folder = Folder::with(&[("1.yaml", &namespace("a"))]).await;
    let path = folder.path().join("1.yaml");
    // As vim saves: the old file is renamed away, the new one created in its place.
    fs::rename(&path, folder.path().join("1.yaml~")).expect("renamed away");
    folder.barrier("p").await;
    folder.write("1.yaml", &labelled("a", "2"));
    assert_eq!(words(&folder.batch().await.expect("changes")), ["+Namespace a"]);
    // As git checks out: removed, then created.
    fs::remove_file(&path).expect("removed");
    folder.barrier("q").await;
    folder.write("1.yaml", &labelled("a", "3"));
    assert_eq!(words(&folder.batch().await.expect("changes")), ["+Namespace a"]);
    // It comes back as it was: nothing to tell, also when it would have counted as gone.
    fs::rename(&path, folder.path().join("away")).expect("renamed away");
    folder.barrier("r").await;
    fs::rename(folder.path().join("away"), &path).expect("renamed back");
    let silence = tokio::time::timeout(Duration::from_secs(2), folder.batch()).await;
    assert!(silence.is_err(), "{silence:?}");
}

#[tokio::test]
async fn a_file_whose_writer_takes_long_to_replace_it_takes_nothing_along() {
    use std::io::Write;

    let mut folder = Folder::with(&[("1.yaml", &namespace("a")), ("2.yaml", &namespace("b"))]).await;
    fs::remove_file(folder.path().join("1.yaml")).expect("removed");
    fs::remove_file(folder.path().join("2.yaml")).expect("removed");
    let mut half = fs::File::create(folder.path().join("1.yaml")).expect("a file");
    half.write_all(format!("{}---\n", namespace("c")).as_bytes()).expect("the first half");
    // By then the other one counts as gone.
    assert_eq!(words(&folder.batch().await.expect("changes")), ["-Namespace b"]);
    half.write_all(labelled("a", "2").as_bytes()).expect("the second half");
    drop(half);
    assert_eq!(words(&folder.batch().await.expect("changes")), ["+Namespace a", "+Namespace c"]);
}

#[tokio::test]
async fn a_renamed_file_keeps_its_objects() {
    for (old, new) in [("1.yaml", "2.yaml"), ("2.yaml", "1.yaml")] {
        let mut folder = Folder::with(&[(old, &namespace("a"))]).await;
        fs::rename(folder.path().join(old), folder.path().join(new)).expect("renamed");
        let silence = tokio::time::timeout(Duration::from_secs(2), folder.batch()).await;
        assert!(silence.is_err(), "{silence:?}");
        fs::remove_file(folder.path().join(new)).expect("removed");
        assert_eq!(words(&folder.batch().await.expect("changes")), ["-Namespace a"]);
    }
}

#[tokio::test]
async fn what_a_file_changes_is_told_at_once_and_what_is_new_first() {
    let mut folder = Folder::with(&[("1.yaml", &format!("{}---\n{}", namespace("a"), namespace("b")))]).await;
    folder.replace("1.yaml", &format!("{}---\n{}", labelled("b", "2"), namespace("c")));
    let changes = folder.batch().await.expect("changes");
    assert_eq!(words(&changes), ["+Namespace b", "+Namespace c", "-Namespace a"]);
}
