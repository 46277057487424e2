//! Objects from files, folders and standard input.
//!
//! **Invariant: nothing is left out in silence.** A file that cannot be read or a document that is no object is an error
//! that names both, or with `--skip-invalid` a warning; an object that stands twice is a warning. Kinds that have no say
//! here (a ConfigMap) are passed over.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use clap::Args;
use ipnetwork::IpNetwork;
use serde_json::Value;
use sluice_core::{
    object::{Object, ObjectError, ObjectKey, flatten},
    world::{Assumed, World, with_templates},
};

/// How input is read.
#[derive(Clone, Debug, Args)]
pub(crate) struct Reading {
    /// Read the folders within folders, too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Warn of documents that are no Kubernetes objects, instead of giving up
    #[arg(long)]
    skip_invalid: bool,
    /// Where pods without an address, on nodes without ranges, are assumed to get theirs
    #[arg(long, value_name = "CIDR", default_value = Assumed::DEFAULT_RANGE)]
    pod_range: IpNetwork,
}

/// Why there is nothing to judge.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error("reading {path}")]
    Read { path: String, source: io::Error },
    #[error("{path} holds no *.yaml, *.yml or *.json")]
    NoFiles { path: String },
    #[error("{path}, document {document}: no YAML")]
    Parse { path: String, document: usize, source: Box<serde_saphyr::Error> },
    #[error("{path}, document {document}")]
    Object { path: String, document: usize, source: ObjectError },
}

impl Reading {
    /// Where assumed addresses come from.
    pub(crate) fn assumed(&self) -> Assumed {
        Assumed::within(self.pod_range)
    }

    /// The world of these files.
    pub(crate) fn world(&self, paths: &[PathBuf], assumed: &mut Assumed) -> Result<World, InputError> {
        let mut values: Vec<(Source, Value)> = Vec::new();
        for path in paths {
            for (name, text) in self.texts(path)? {
                self.read(&name, &text, &mut values)?;
            }
        }
        Ok(World::new(self.objects(values)?, assumed))
    }

    /// The files of a path, with their names.
    fn texts(&self, path: &Path) -> Result<Vec<(String, String)>, InputError> {
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |source| InputError::Read { path, source }
        };
        if path == Path::new("-") {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).map_err(failed(Path::new("standard input")))?;
            return Ok(vec![("standard input".to_owned(), text)]);
        }
        let mut files = Vec::new();
        if fs::metadata(path).map_err(failed(path))?.is_dir() {
            self.list(path, &mut files)?;
            if files.is_empty() {
                return Err(InputError::NoFiles { path: path.display().to_string() });
            }
        } else {
            files.push(path.to_owned());
        }
        let read = |file: PathBuf| {
            let text = fs::read_to_string(&file).map_err(failed(&file))?;
            Ok((file.display().to_string(), text))
        };
        files.into_iter().map(read).collect()
    }

    /// Adds the files of a folder, by name; those whose name begins with a dot are left out.
    fn list(&self, folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), InputError> {
        let entries = || {
            let mut paths: Vec<PathBuf> =
                fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
            paths.sort_unstable();
            Ok(paths)
        };
        let path = folder.display().to_string();
        for entry in entries().map_err(|source| InputError::Read { path, source })? {
            let name = entry.file_name().unwrap_or_default().to_string_lossy();
            let is_wanted = [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending));
            if name.starts_with('.') {
                continue;
            }
            if entry.is_dir() {
                if self.recursive {
                    self.list(&entry, files)?;
                }
            } else if is_wanted {
                files.push(entry);
            }
        }
        Ok(())
    }

    /// Adds the objects of a text.
    fn read(&self, name: &str, text: &str, values: &mut Vec<(Source, Value)>) -> Result<(), InputError> {
        // The input is its owner's; only size in memory bounds it.
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! { max_documents: usize::MAX, max_nodes: usize::MAX, max_events: usize::MAX },
            with_snippet: false,
        };
        let mut reader = text.as_bytes();
        for (index, value) in serde_saphyr::read_with_options(&mut reader, options).enumerate() {
            let source = Source { path: name.to_owned(), document: index + 1 };
            match value {
                Ok(value) => {
                    let items = flatten(value).into_iter();
                    values.extend(items.map(|item| (source.clone(), item)));
                }
                Err(error) => {
                    let Source { path, document } = source;
                    // What follows a syntax error cannot be told from it.
                    return self.skip(InputError::Parse { path, document, source: Box::new(error) });
                }
            }
        }
        Ok(())
    }

    fn objects(&self, values: Vec<(Source, Value)>) -> Result<Vec<Object>, InputError> {
        let mut objects: BTreeMap<ObjectKey, (Source, Object)> = BTreeMap::new();
        let (sources, values): (Vec<_>, Vec<_>) = values.into_iter().unzip();
        let given = sources.len();
        let made = Source { path: "a template".to_owned(), document: 1 };
        let sources = sources.into_iter().chain(std::iter::repeat(made));
        for (index, (source, value)) in sources.zip(with_templates(values)).enumerate() {
            let object = match Object::from_value(value) {
                Ok(Some(object)) => object,
                Ok(None) => continue,
                Err(error) => {
                    let Source { path, document } = source;
                    self.skip(InputError::Object { path, document, source: error })?;
                    continue;
                }
            };
            let key = object.key();
            if index >= given && objects.contains_key(&key) {
                continue;
            }
            let (path, document) = (source.path.clone(), source.document);
            if let Some((other, _)) = objects.insert(key.clone(), (source, object)) {
                warn(&format!(
                    "{key} stands in {}, document {}, and in {path}, document {document}: the latter counts",
                    other.path, other.document
                ));
            }
        }
        Ok(objects.into_values().map(|(_, object)| object).collect())
    }

    /// Warns of an error where it was asked to.
    fn skip(&self, error: InputError) -> Result<(), InputError> {
        if !self.skip_invalid {
            return Err(error);
        }
        warn(&format!("{}: left out", causes(&error)));
        Ok(())
    }
}

/// Warns of objects that the agent would reject, of which what is left opens nothing, and of addresses that are assumed where
/// policies name ranges.
pub(crate) fn warn_of_doubts(world: &World) {
    for rejected in world.rejected() {
        warn(&format!("{} is not understood and opens nothing: {}", rejected.key, causes(&rejected.reason)));
    }
    let guesses: Vec<_> = world.guesses().collect();
    if let Some(first) = guesses.first() {
        let others = guesses.len() - 1;
        let others = if others == 0 { String::new() } else { format!(" and {others} more") };
        warn(&format!(
            "pod {}{others} without an address: ranges that policies name are held against assumed ones (--pod-range)",
            first.name
        ));
    }
}

/// Where an object stands.
#[derive(Clone, Debug)]
struct Source {
    path: String,
    document: usize,
}

/// An error with its causes.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

fn warn(text: &str) {
    eprintln!("sluice: warning: {text}");
}
