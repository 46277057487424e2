//! Container images without a container engine: archives in the OCI image layout.
//!
//! [`write_archive`] is what `ctr images import`, `docker load`, `podman load`, `skopeo copy oci-archive:` and
//! `kind load image-archive` take: `index.json` and `oci-layout` for most, `manifest.json` for Docker.
//!
//! **Invariant: reproducible.** Equal images give equal bytes: entries are sorted, times and owners are 0, JSON has one
//! order. An image is one layer, uncompressed: it is loaded on the machine that made it.
//!
//! Formats: OCI image specification 1.1 (image layout, index, manifest, configuration); Docker image specification 1.2
//! for `manifest.json`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, Permissions},
    io::{self, BufWriter, Read as _, Seek as _, Write},
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIGURATION: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// When everything was made: nothing may depend on the clock.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// A processor architecture, as images name it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, clap::ValueEnum)]
pub(crate) enum Arch {
    /// `x86_64`.
    Amd64,
    /// `aarch64`.
    Arm64,
}

impl Arch {
    /// This machine's.
    pub(crate) const HOST: Self = if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::Amd64 };

    /// `GOARCH`'s word, which images use.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

/// An image for Linux.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// Full names with tags (`registry.k8s.io/pause:3.10`). Images of one name must differ in `architecture`.
    pub names: Vec<String>,
    /// What its programs run on.
    pub architecture: Arch,
    /// The program that is started, with its first arguments.
    pub entrypoint: Vec<String>,
    /// Arguments when none are given.
    pub cmd: Vec<String>,
    /// The environment, as `NAME=value`.
    pub env: Vec<String>,
    /// Who it runs as (`65534:65534`); empty means root.
    pub user: String,
    /// Labels (`org.opencontainers.image.source`, …).
    pub labels: BTreeMap<String, String>,
    /// The root file system, in any order. Missing folders are added with mode 0755.
    pub files: Vec<Entry>,
}

/// One file of an image; root owns it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Entry {
    /// Where it is, from the root of the image; a leading `/` may be there.
    pub path: PathBuf,
    /// Permissions (`0o755`).
    pub mode: u32,
    /// What it is.
    pub contents: Contents,
}

/// What an [`Entry`] is.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Contents {
    /// A copy of a file of this machine.
    File(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
    /// A symbolic link to this.
    Symlink(PathBuf),
    /// A folder.
    Directory,
}

/// Writes one archive with all `images`; replaces `path` whole.
///
/// Images that share a name become one index, from which each machine takes its architecture.
///
/// # Errors
/// When a file cannot be read or written; when an image holds a path twice or outside its root; when two images have
/// one name and one architecture.
pub(crate) fn write_archive(path: &Path, images: &[Image]) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let mut blobs = Blobs::default();
    let mut by_name = BTreeMap::<&str, Vec<Stored>>::new();
    for image in images {
        let names = || image.names.join(", ");
        let stored = store(&mut blobs, image).with_context(|| format!("making image {}", names()))?;
        for name in &image.names {
            let same_name = by_name.entry(name).or_default();
            if same_name.iter().any(|other| other.architecture == image.architecture) {
                bail!("image {name} stands twice for {}", image.architecture.as_str());
            }
            same_name.push(stored.clone());
        }
    }
    let (index, docker) = indexes(&mut blobs, by_name);
    let mut file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(folder)
        .context("making a temporary file")?;
    let write = |file: &mut File| -> io::Result<()> {
        let mut tar = tar::Builder::new(BufWriter::new(file));
        blobs.write(&mut tar)?;
        append_bytes(&mut tar, "index.json", to_bytes(&index).as_slice())?;
        append_bytes(&mut tar, "manifest.json", to_bytes(&docker).as_slice())?;
        append_bytes(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        tar.into_inner()?.flush()
    };
    write(file.as_file_mut()).with_context(|| format!("writing {}", path.display()))?;
    file.persist(path).with_context(|| format!("naming {}", path.display()))?;
    Ok(())
}

/// An image whose parts are among the blobs.
#[derive(Clone, Debug)]
struct Stored {
    architecture: Arch,
    manifest: Value,
    configuration_digest: String,
    layer_digest: String,
}

fn store(blobs: &mut Blobs, image: &Image) -> Result<Stored> {
    let layer = blobs.add_layer(&image.files)?;
    let configuration = json!({
        "architecture": image.architecture.as_str(),
        "os": "linux",
        "created": CREATED,
        "config": {
            "Cmd": image.cmd,
            "Entrypoint": image.entrypoint,
            "Env": image.env,
            "Labels": image.labels,
            "User": image.user,
            "WorkingDir": "/",
        },
        "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
        "history": [{ "created": CREATED, "created_by": "cargo xtask" }],
    });
    let configuration = blobs.add_json(CONFIGURATION, &configuration);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": configuration,
        "layers": [layer],
    });
    let mut manifest = blobs.add_json(MANIFEST, &manifest);
    manifest["platform"] = json!({ "architecture": image.architecture.as_str(), "os": "linux" });
    Ok(Stored {
        architecture: image.architecture,
        manifest,
        configuration_digest: digest_of(&configuration),
        layer_digest: digest_of(&layer),
    })
}

/// `index.json`, and `manifest.json`, which knows one architecture of a name.
fn indexes(blobs: &mut Blobs, by_name: BTreeMap<&str, Vec<Stored>>) -> (Value, Value) {
    let (mut manifests, mut docker) = (Vec::new(), Vec::new());
    for (name, mut images) in by_name {
        images.sort_by_key(|image| image.architecture);
        let first = &images[0];
        docker.push(json!({
            "Config": blob_path(&first.configuration_digest),
            "Layers": [blob_path(&first.layer_digest)],
            "RepoTags": [name],
        }));
        let mut descriptor = if images.len() == 1 {
            first.manifest.clone()
        } else {
            let manifests: Vec<&Value> = images.iter().map(|image| &image.manifest).collect();
            let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
            blobs.add_json(INDEX, &index)
        };
        descriptor["annotations"] =
            json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": name });
        manifests.push(descriptor);
    }
    (json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests }), Value::Array(docker))
}

/// The parts of an archive.
#[derive(Debug, Default)]
struct Blobs {
    /// By the hash of their contents (hexadecimal).
    by_digest: BTreeMap<String, Blob>,
    /// Descriptors of the layers, so that images with the same files share one.
    layers: Vec<(Vec<Entry>, Value)>,
}

#[derive(Debug)]
enum Blob {
    Bytes(Vec<u8>),
    File(File),
}

impl Blobs {
    /// Adds a document and returns its descriptor.
    fn add_json(&mut self, media_type: &str, document: &Value) -> Value {
        let bytes = to_bytes(document);
        let (digest, size) = (hex(Sha256::digest(&bytes).as_slice()), bytes.len());
        self.by_digest.insert(digest.clone(), Blob::Bytes(bytes));
        descriptor(media_type, &digest, size as u64)
    }

    /// Adds a layer and returns its descriptor; the layer is written to a temporary file.
    fn add_layer(&mut self, files: &[Entry]) -> Result<Value> {
        if let Some((_, layer)) = self.layers.iter().find(|(known, _)| known == files) {
            return Ok(layer.clone());
        }
        let file = tempfile::tempfile().context("making a temporary file")?;
        let mut tar =
            tar::Builder::new(Hashing { inner: BufWriter::new(file), hash: Sha256::new(), size: 0 });
        for (path, (mode, contents)) in complete(files)? {
            append(&mut tar, &path, mode, &contents)
                .with_context(|| format!("adding {} to a layer", path.display()))?;
        }
        let Hashing { inner, hash, size } = tar.into_inner().context("ending a layer")?;
        let digest = hex(hash.finalize().as_slice());
        let file = inner.into_inner().context("writing a layer")?;
        let layer = descriptor(LAYER, &digest, size);
        self.by_digest.insert(digest, Blob::File(file));
        self.layers.push((files.to_vec(), layer.clone()));
        Ok(layer)
    }

    fn write(self, tar: &mut tar::Builder<impl Write>) -> io::Result<()> {
        for (digest, blob) in self.by_digest {
            let path = blob_path(&digest);
            match blob {
                Blob::Bytes(bytes) => append_bytes(tar, &path, &bytes)?,
                Blob::File(mut file) => {
                    file.rewind()?;
                    let size = file.metadata()?.len();
                    tar.append_data(
                        &mut header(tar::EntryType::Regular, 0o644, size),
                        path,
                        file.take(size),
                    )?;
                }
            }
        }
        Ok(())
    }
}

/// The files of a layer by path, with the folders that nobody named.
fn complete(files: &[Entry]) -> Result<BTreeMap<PathBuf, (u32, Contents)>> {
    let mut complete = BTreeMap::new();
    let mut folders = BTreeSet::new();
    for Entry { path, mode, contents } in files {
        let path = path.strip_prefix("/").unwrap_or(path).to_owned();
        if path.as_os_str().is_empty() || !path.components().all(|part| matches!(part, Component::Normal(_)))
        {
            bail!("{} is no path inside an image", path.display());
        }
        folders
            .extend(path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).map(Path::to_owned));
        let is_new = complete.insert(path.clone(), (*mode, contents.clone())).is_none();
        if !is_new {
            bail!("{} stands twice in an image", path.display());
        }
    }
    for folder in folders {
        let (_, contents) = complete.entry(folder.clone()).or_insert((0o755, Contents::Directory));
        if *contents != Contents::Directory {
            bail!("{} is a file and a folder in one image", folder.display());
        }
    }
    Ok(complete)
}

fn append(tar: &mut tar::Builder<impl Write>, path: &Path, mode: u32, contents: &Contents) -> io::Result<()> {
    match contents {
        Contents::File(source) => {
            let file = File::open(source)?;
            let size = file.metadata()?.len();
            tar.append_data(&mut header(tar::EntryType::Regular, mode, size), path, file.take(size))
        }
        Contents::Bytes(bytes) => {
            let mut header = header(tar::EntryType::Regular, mode, bytes.len() as u64);
            tar.append_data(&mut header, path, bytes.as_slice())
        }
        Contents::Symlink(target) => {
            tar.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), path, target)
        }
        Contents::Directory => {
            tar.append_data(&mut header(tar::EntryType::Directory, mode, 0), path, io::empty())
        }
    }
}

fn append_bytes(tar: &mut tar::Builder<impl Write>, path: &str, bytes: &[u8]) -> io::Result<()> {
    tar.append_data(&mut header(tar::EntryType::Regular, 0o644, bytes.len() as u64), path, bytes)
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Counts and hashes what passes.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn descriptor(media_type: &str, digest: &str, size: u64) -> Value {
    json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size })
}

fn digest_of(descriptor: &Value) -> String {
    descriptor["digest"]
        .as_str()
        .and_then(|digest| digest.strip_prefix("sha256:"))
        .unwrap_or_default()
        .to_owned()
}

fn blob_path(digest: &str) -> String {
    format!("blobs/sha256/{digest}")
}

fn to_bytes(document: &Value) -> Vec<u8> {
    document.to_string().into_bytes()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str, architecture: Arch, files: &[(&str, Contents)]) -> Image {
        Image {
            names: vec![name.to_owned()],
            architecture,
            entrypoint: vec!["/bin/program".to_owned()],
            cmd: Vec::new(),
            env: vec!["PATH=/bin".to_owned()],
            user: String::new(),
            labels: BTreeMap::from([("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())]),
            files: files
                .iter()
                .map(|(path, contents)| Entry { path: path.into(), mode: 0o755, contents: contents.clone() })
                .collect(),
        }
    }

    fn program(text: &str) -> Contents {
        Contents::Bytes(text.as_bytes().to_vec())
    }

    /// The archive's files by path.
    fn written(images: &[Image]) -> (Vec<u8>, BTreeMap<String, Vec<u8>>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("archive.tar");
        write_archive(&path, images).unwrap();
        let bytes = fs::read(path).unwrap();
        let files = entries(&bytes).into_iter().map(|(path, _, contents)| (path, contents)).collect();
        (bytes, files)
    }

    /// Path, time and contents of what is in a tar.
    fn entries(tar: &[u8]) -> Vec<(String, u64, Vec<u8>)> {
        let mut archive = tar::Archive::new(tar);
        let read = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.unwrap();
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents).unwrap();
            (entry.path().unwrap().display().to_string(), entry.header().mtime().unwrap(), contents)
        };
        archive.entries().unwrap().map(read).collect()
    }

    fn document(files: &BTreeMap<String, Vec<u8>>, path: &str) -> Value {
        serde_json::from_slice(&files[path]).unwrap()
    }

    fn blob(files: &BTreeMap<String, Vec<u8>>, descriptor: &Value) -> Value {
        document(files, &blob_path(&digest_of(descriptor)))
    }

    #[test]
    fn equal_images_give_equal_bytes_whatever_the_order_of_their_files() {
        let files = [("bin/program", program("x")), ("etc/a", program("a")), ("lib", Contents::Directory)];
        let mut reversed = files.clone();
        reversed.reverse();
        let one = written(&[image("example.org/a:1", Arch::Amd64, &files)]).0;
        assert_eq!(one, written(&[image("example.org/a:1", Arch::Amd64, &reversed)]).0);
    }

    #[test]
    fn a_layer_is_sorted_has_its_folders_and_no_times() {
        let link = Contents::Symlink("program".into());
        let files = [("/usr/bin/program", program("x")), ("bin/other", link), ("a", Contents::Directory)];
        let (_, archive) = written(&[image("example.org/a:1", Arch::Amd64, &files)]);
        let manifest = blob(&archive, &document(&archive, "index.json")["manifests"][0]);
        let layer = entries(&archive[&blob_path(&digest_of(&manifest["layers"][0]))]);
        let paths: Vec<&str> = layer.iter().map(|(path, ..)| path.trim_end_matches('/')).collect();
        assert_eq!(paths, ["a", "bin", "bin/other", "usr", "usr/bin", "usr/bin/program"]);
        assert!(layer.iter().all(|(_, mtime, _)| *mtime == 0));
    }

    #[test]
    fn every_digest_is_the_hash_of_its_blob() {
        let (_, archive) = written(&[image("example.org/a:1", Arch::Amd64, &[("p", program("x"))])]);
        let blobs =
            archive.iter().filter_map(|(path, bytes)| Some((path.strip_prefix("blobs/sha256/")?, bytes)));
        let wrong: Vec<_> =
            blobs.filter(|(digest, bytes)| *digest != hex(Sha256::digest(bytes).as_slice())).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    #[test]
    fn architectures_of_one_name_are_one_index_and_other_names_stand_alone() {
        let (_, archive) = written(&[
            image("example.org/a:1", Arch::Arm64, &[("p", program("arm"))]),
            image("example.org/a:1", Arch::Amd64, &[("p", program("amd"))]),
            image("example.org/b:1", Arch::Amd64, &[("p", program("amd"))]),
        ]);
        let index = document(&archive, "index.json");
        let names: Vec<&Value> =
            [0, 1].map(|i| &index["manifests"][i]["annotations"]["io.containerd.image.name"]).into();
        assert_eq!(names, ["example.org/a:1", "example.org/b:1"]);
        let platforms = blob(&archive, &index["manifests"][0]);
        let platform = |i: usize| platforms["manifests"][i]["platform"]["architecture"].clone();
        assert_eq!([platform(0), platform(1)], ["amd64", "arm64"]);
        assert_eq!(index["manifests"][1]["mediaType"], MANIFEST);
        let docker = document(&archive, "manifest.json");
        assert_eq!(docker[0]["RepoTags"][0], "example.org/a:1");
        assert!(archive.contains_key(docker[0]["Config"].as_str().unwrap()));
    }

    #[test]
    fn what_cannot_be_an_image_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |images: &[Image]| {
            let path = folder.path().join("archive.tar");
            let error = write_archive(&path, images).unwrap_err();
            assert!(!path.exists());
            format!("{error:#}")
        };
        let outside = image("a:1", Arch::Amd64, &[("../etc/passwd", program(""))]);
        assert!(refused(&[outside]).contains("no path inside an image"));
        let twice = image("a:1", Arch::Amd64, &[("a", program("")), ("/a", program(""))]);
        assert!(refused(&[twice]).contains("a stands twice"));
        let both = image("a:1", Arch::Amd64, &[("a", program("")), ("a/b", program(""))]);
        assert!(refused(&[both]).contains("a file and a folder"));
        let same = image("a:1", Arch::Amd64, &[("a", program(""))]);
        assert!(refused(&[same.clone(), same]).contains("twice for amd64"));
    }
}
