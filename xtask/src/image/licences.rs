//! The licences of what is compiled in: most ask that their text goes with every copy.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::program;
use crate::{
    command,
    oci::{Arch, Contents, Entry},
    workspace,
};

/// Where they are in the image.
const FOLDER: &str = "/usr/share/doc/sluice";
/// Packages whose dependencies are compiled in; the last is the kernel side, which the agent carries.
const ROOTS: &[&str] = &["sluice-agent", "sluice-cli", "sluice-cni", "sluice-ebpf"];
const KERNEL_TARGET: &str = "bpfel-unknown-none";
/// Beginnings of the names of files that hold a licence or what it asks to be kept.
const NAMES: &[&str] = &["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];
/// No package of cargo's has these.
const RUST: &str = "The Rust standard library is used under the MIT licence (Copyright (c) The Rust Project Contributors).\n\
    The C library is musl, under the MIT licence (Copyright (c) 2005-2020 Rich Felker, et al.).\n";

/// Our licences, and one file with everyone else's.
///
/// # Errors
/// When cargo does not say what is compiled in, or a file cannot be read.
pub(crate) fn files(architecture: Arch) -> Result<Vec<Entry>> {
    let file = |name: &str, contents| Entry { path: Path::new(FOLDER).join(name), mode: 0o644, contents };
    let ours = |path: &str| Contents::File(workspace::root().join(path));
    Ok(vec![
        file("LICENSE-APACHE", ours("LICENSE-APACHE")),
        file("LICENSE-GPL-2.0", ours("ebpf/LICENSE-GPL-2.0")),
        file("THIRD-PARTY", Contents::Bytes(third_party(architecture)?.into_bytes())),
    ])
}

fn third_party(architecture: Arch) -> Result<String> {
    let mut by_text = BTreeMap::<String, BTreeSet<String>>::new();
    for package in metadata(architecture)?.compiled_in() {
        let name = format!(
            "{} {} ({})",
            package.name,
            package.version,
            package.license.as_deref().unwrap_or("see below")
        );
        for text in package.texts()? {
            by_text.entry(text).or_default().insert(name.clone());
        }
    }
    let mut document = RUST.to_owned();
    for (text, names) in by_text {
        let names: Vec<String> = names.into_iter().collect();
        let _ = write!(document, "\n{}\n{}\n\n{}\n", "=".repeat(80), names.join("\n"), text.trim_end());
    }
    Ok(document)
}

/// What `cargo metadata` says, as far as it is read here.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    manifest_path: PathBuf,
    /// `None`: a part of this workspace.
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// `None`: linked in; else `build` or `dev`.
    kind: Option<String>,
}

fn metadata(architecture: Arch) -> Result<Metadata> {
    let mut cargo = command::cargo();
    cargo.args(["metadata", "--locked", "--format-version=1"]);
    cargo.args(["--filter-platform", program::target(architecture), "--filter-platform", KERNEL_TARGET]);
    serde_json::from_str(&command::capture(&mut cargo)?).context("reading what cargo says about packages")
}

impl Metadata {
    /// Packages of others that are in the programs or help to make them from [`ROOTS`], without tests and build scripts.
    fn compiled_in(&self) -> Vec<&Package> {
        let nodes: BTreeMap<&str, &Node> =
            self.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
        let is_root = |package: &&Package| ROOTS.contains(&package.name.as_str());
        let mut open: Vec<&str> =
            self.packages.iter().filter(is_root).map(|package| package.id.as_str()).collect();
        let mut found = BTreeSet::new();
        while let Some(id) = open.pop() {
            if found.insert(id) {
                let linked = |dep: &&Dependency| dep.dep_kinds.iter().any(|kind| kind.kind.is_none());
                let dependencies = nodes.get(id).map_or(&[][..], |node| &node.deps);
                open.extend(dependencies.iter().filter(linked).map(|dep| dep.pkg.as_str()));
            }
        }
        let is_compiled_in =
            |package: &&Package| package.source.is_some() && found.contains(package.id.as_str());
        self.packages.iter().filter(is_compiled_in).collect()
    }
}

impl Package {
    /// The texts in its folder, or where they can be read when it has none.
    fn texts(&self) -> Result<BTreeSet<String>> {
        let folder = self.manifest_path.parent().context("finding a package's folder")?;
        let mut texts = BTreeSet::new();
        for file in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
            let path = file.with_context(|| format!("reading {}", folder.display()))?.path();
            let name = command::name_of(&path).to_ascii_uppercase();
            if path.is_file() && NAMES.iter().any(|start| name.starts_with(start)) {
                let text =
                    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
                texts.insert(text.replace("\r\n", "\n"));
            }
        }
        if texts.is_empty() {
            texts.insert(format!(
                "No licence text comes with it: see https://crates.io/crates/{}/{}",
                self.name, self.version
            ));
        }
        Ok(texts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_tests_and_build_scripts_use_is_not_compiled_in() {
        let package = |name: &str, source: &str| {
            format!(
                r#"{{"id":"{name}","name":"{name}","version":"1.0.0","license":"MIT","manifest_path":"/x/Cargo.toml","source":{source}}}"#
            )
        };
        let node = |id: &str, deps: &str| format!(r#"{{"id":"{id}","deps":[{deps}]}}"#);
        let dep = |pkg: &str, kind: &str| format!(r#"{{"pkg":"{pkg}","dep_kinds":[{{"kind":{kind}}}]}}"#);
        let packages = [
            package("sluice-agent", "null"),
            package("linked", "\"r\""),
            package("tested", "\"r\""),
            package("below", "\"r\""),
        ];
        let nodes = [
            node("sluice-agent", &[dep("linked", "null"), dep("tested", "\"dev\"")].join(",")),
            node("linked", &dep("below", "null")),
            node("tested", ""),
            node("below", &dep("linked", "null")),
        ];
        let text =
            format!(r#"{{"packages":[{}],"resolve":{{"nodes":[{}]}}}}"#, packages.join(","), nodes.join(","));
        let metadata: Metadata = serde_json::from_str(&text).expect("as cargo writes it");
        let names: Vec<&str> = metadata.compiled_in().iter().map(|package| package.name.as_str()).collect();
        assert_eq!(names, ["linked", "below"]);
    }
}
