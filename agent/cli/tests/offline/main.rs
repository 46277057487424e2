//! The offline policy tools, replayed: every command of a transcript is run again, and its output compared.
//!
//! Each folder here is a case: `transcript.txt` and the files that its commands read. So are the console blocks of
//! `docs/policy-tools.md`, run in the example that it tells about. `UPDATE=1` rewrites the outputs; review them as a diff.
//! In a transcript a line that begins with `$ ` is a command, one with `# ` a remark, and the rest is output.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

#[test]
fn every_case_answers_as_it_should() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/offline");
    let entries =
        fs::read_dir(&root).expect("the folder of cases").map(|entry| entry.expect("a case").path());
    let mut cases: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    cases.sort();
    assert!(cases.len() >= 5);
    cases.iter().for_each(|case| compare(&case.join("transcript.txt"), case, |text| replay(text, case)));
}

#[test]
fn the_documentation_shows_what_the_commands_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = root.join("manifests/examples/dns-on-one-node");
    compare(&root.join("docs/policy-tools.md"), &folder, |text| {
        let blocks =
            text.split("```").enumerate().map(|(index, part)| match part.strip_prefix("console\n") {
                Some(block) if index % 2 == 1 => format!("console\n{}", replay(block, &folder)),
                _ => part.to_owned(),
            });
        blocks.collect::<Vec<_>>().join("```")
    });
}

#[test]
fn every_code_of_lint_is_found_once_and_documented() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = fs::read_to_string(root.join("tests/offline/lint/transcript.txt")).expect("the case lint");
    let documented = fs::read_to_string(root.join("../../docs/policy-tools.md")).expect("the documentation");
    for code in sluice_core::lint::Code::ALL {
        assert!(found.contains(&format!("  {}  ", code.name())), "{} is in no transcript", code.name());
        assert!(documented.contains(&format!("`{}`", code.name())), "{} is not documented", code.name());
        assert!(documented.contains(code.help()), "{}: {}", code.name(), code.help());
    }
}

#[test]
fn a_thousand_pods_make_a_matrix_that_is_as_many_wide() {
    let mut text = String::new();
    for number in 0..1000 {
        text += &format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{number:03}, labels: {{app: a{}}}}}\nspec: {{nodeName: n{}}}\n",
            number % 10,
            number % 40
        );
    }
    for app in 0..10 {
        text += &format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: np{app}}}\nspec:\n  podSelector: \
             {{matchLabels: {{app: a{app}}}}}\n  ingress: [{{from: [{{podSelector: {{matchLabels: {{app: a{}}}}}}}]}}]\n",
            (app + 1) % 10
        );
    }
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("all.yaml"), text).expect("writing the objects");
    let words = ["policy", "matrix", "-f", "all.yaml", "--port", "80", "-o", "json"];
    let output = command(&words, folder.path()).output().expect("start sluice");
    assert_eq!(output.status.code(), Some(0));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let keys: Vec<_> = answer.as_object().expect("an object").keys().cloned().collect();
    assert_eq!(keys, ["allowed", "pods"]);
    let rows = answer["allowed"].as_array().expect("rows");
    assert_eq!((rows.len(), rows[0].as_array().expect("columns").len()), (1000, 1000));
    let cell = |row: usize, column: usize| rows[row][column].as_bool().expect("a cell");
    // The pods p000, p010, … are open to p001, p011, …, and to themselves.
    assert!(cell(1, 0) && cell(991, 10) && cell(0, 0) && !cell(0, 1) && !cell(10, 0) && !cell(5, 0));
}

#[test]
fn colour_is_for_terminals_without_objections() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests/examples/dns-on-one-node");
    let sluice = env!("CARGO_BIN_EXE_sluice");
    let matrix = format!("{sluice} policy matrix -f cluster.yaml --port 80");
    for (no_color, is_coloured) in [(None, true), (Some(""), true), (Some("1"), false)] {
        // script(1) gives the command a terminal.
        let mut command = Command::new("script");
        command.args(["-qec", &matrix, "/dev/null"]).current_dir(&root).stdin(Stdio::null());
        match no_color {
            None => command.env_remove("NO_COLOR"),
            Some(value) => command.env("NO_COLOR", value),
        };
        let output = command.output().expect("script(1) of util-linux");
        assert!(output.status.success());
        assert_eq!(output.stdout.contains(&0x1b), is_coloured, "NO_COLOR={no_color:?}");
    }
}

/// Compares a file with what it should be.
fn compare(path: &Path, folder: &Path, replay: impl Fn(&str) -> String) {
    let wanted = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let found = replay(&wanted);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path, &found).expect("writing the transcript");
    } else {
        assert_eq!(
            found,
            wanted,
            "{} (in {}) differs; UPDATE=1 rewrites it",
            path.display(),
            folder.display()
        );
    }
}

/// A transcript with the outputs that its commands have now.
fn replay(transcript: &str, folder: &Path) -> String {
    let mut text = String::new();
    for line in transcript.lines() {
        if line.starts_with("# ") {
            text += &format!("{line}\n");
        }
        if let Some(typed) = line.strip_prefix("$ sluice ") {
            text += &format!("{line}\n{}\n", answer(typed, folder));
        }
    }
    text.trim_end().to_owned() + "\n"
}

/// What a command writes, errors last, and its exit code when it is not 0.
fn answer(typed: &str, folder: &Path) -> String {
    let (words, input) = typed.split_once(" < ").map_or((typed, None), |(words, input)| (words, Some(input)));
    let words: Vec<&str> = words.split_whitespace().collect();
    let mut command = command(&words, folder);
    if let Some(input) = input {
        command.stdin(File::open(folder.join(input)).expect("the input"));
    }
    let output = command.output().expect("start sluice");
    let mut text = String::from_utf8(output.stdout).expect("text");
    text += &String::from_utf8(output.stderr).expect("text");
    match output.status.code() {
        Some(0) => {}
        code => {
            text +=
                &format!("[exit code {}]\n", code.map_or_else(|| "none".to_owned(), |code| code.to_string()))
        }
    }
    text
}

fn command(words: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.args(words).current_dir(folder).stdin(Stdio::null()).env_remove("NO_COLOR");
    command
}
