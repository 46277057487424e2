//! `cargo xtask mutants`: are the tests of the compiler of policies sharp enough?
//!
//! Each mutant of [`table`] is one replacement in a copy of the tree. The tests of sluice-core have to fail with it; one that
//! does not build proves nothing and is an error. The tree itself is never touched.
//!
//! **Invariant: every mutant applies.** Its text stands exactly once in its file; a unit test says which no longer do.

mod table;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use table::{MUTANTS, Mutant};

use crate::{command, workspace};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only mutants whose reason or file holds this text.
    filter: Option<String>,
    /// Only say which mutants there are.
    #[arg(long)]
    list: bool,
}

/// Suites of sluice-core, the quicker and sharper first.
const SUITES: [&[&str]; 2] =
    [&["--test", "compile", "--test", "compiler", "--test", "policy"], &["--lib", "--test", "plans"]];

/// Packets that the policies are asked about: enough for the mutants, few enough to wait for.
const PACKETS: &str = "20000";

/// Tries the mutants.
///
/// # Errors
/// When a mutant survives, does not build, or no longer applies.
pub(crate) fn run(args: &Args) -> Result<()> {
    let is_asked_for = |mutant: &&Mutant| {
        let filter = args.filter.as_deref().unwrap_or_default();
        mutant.why.contains(filter) || mutant.file.contains(filter)
    };
    let mutants: Vec<&Mutant> = MUTANTS.iter().filter(is_asked_for).collect();
    if args.list {
        mutants.iter().for_each(|mutant| println!("{}: {}", mutant.file, mutant.why));
        return Ok(());
    }
    let tree = copy()?;
    ensure!(fails(&tree, &SUITES)?.is_none(), "the tests fail without any mutant");
    let mut survivors = 0;
    for (number, mutant) in (1..).zip(&mutants) {
        let begin = Instant::now();
        let original = mutant.put_into(&tree)?;
        let killed = fails(&tree, &SUITES).with_context(|| mutant.why);
        fs::write(tree.join(mutant.file), original)?;
        let (seconds, total) = (begin.elapsed().as_secs(), mutants.len());
        let outcome = killed?.unwrap_or_else(|| "SURVIVED".to_owned());
        println!("{number}/{total} {outcome} in {seconds} s: {}: {}", mutant.file, mutant.why);
        survivors += usize::from(outcome == "SURVIVED");
    }
    println!("{} of {} mutants killed", mutants.len() - survivors, mutants.len());
    ensure!(survivors == 0, "{survivors} mutants survived");
    Ok(())
}

/// Copies what git knows, and what it will know, to where mutants may be written.
fn copy() -> Result<PathBuf> {
    let tree = workspace::root().join("target/mutants/tree");
    let listed =
        command::capture(command::command("git").args(["ls-files", "-co", "--exclude-standard", "-z"]))?;
    for name in listed.split_terminator('\0') {
        let (from, to) = (workspace::root().join(name), tree.join(name));
        if !from.is_file() {
            continue;
        }
        let text = fs::read(&from).with_context(|| format!("reading {}", from.display()))?;
        // What has not changed keeps its time, and is not built again.
        if fs::read(&to).is_ok_and(|old| old == text) {
            continue;
        }
        fs::create_dir_all(to.parent().expect("a file has a folder"))?;
        fs::write(&to, text).with_context(|| format!("writing {}", to.display()))?;
    }
    Ok(tree)
}

/// The first test that fails, by name.
fn fails(tree: &Path, suites: &[&[&str]]) -> Result<Option<String>> {
    let target = workspace::root().join("target/mutants/target");
    let cargo = |arguments: &[&str]| {
        let mut cargo = command::cargo();
        cargo.current_dir(tree).env("CARGO_TARGET_DIR", &target).env("SLUICE_POLICY_CASES", PACKETS);
        cargo.args(["test", "--quiet", "--package", "sluice-core"]).args(arguments);
        cargo
    };
    for suite in suites {
        command::capture(cargo(suite).arg("--no-run")).context("building the mutant")?;
        let output = cargo(suite).output().context("starting cargo test")?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stdout);
            let name = text.lines().find_map(|line| line.strip_prefix("---- ")?.strip_suffix(" stdout ----"));
            return Ok(Some(format!("killed by {}", name.unwrap_or("a test that ended early"))));
        }
    }
    Ok(None)
}

impl Mutant {
    /// Writes the mutant into the tree; the answer is what stood there.
    fn put_into(&self, tree: &Path) -> Result<String> {
        let path = tree.join(self.file);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let count = text.matches(self.old).count();
        if count != 1 {
            bail!("{}: {:?} stands there {count} times, not once", self.file, self.old);
        }
        fs::write(&path, text.replacen(self.old, self.new, 1))?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutant_applies_exactly_once() {
        assert!(MUTANTS.len() >= 40);
        for mutant in MUTANTS {
            let text = fs::read_to_string(workspace::root().join(mutant.file)).expect("a file of the tree");
            assert_eq!(text.matches(mutant.old).count(), 1, "{}: {:?}", mutant.file, mutant.old);
            assert_ne!(mutant.old, mutant.new, "{}", mutant.why);
        }
    }
}
