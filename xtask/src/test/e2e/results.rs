//! What specs came to: read from Ginkgo's report, written for people and for machines.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// A spec that was to run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Spec {
    /// Its full name.
    pub(super) name: String,
    /// What it came to.
    #[serde(flatten)]
    pub(super) outcome: Outcome,
    /// How long it ran, seconds.
    pub(super) seconds: f64,
    /// How often it was tried.
    pub(super) attempts: u32,
}

/// What a spec came to.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome", content = "reason")]
pub(super) enum Outcome {
    /// It passed.
    Passed,
    /// It failed, with the first lines of why.
    Failed(String),
    /// It failed, as is known, with the reason why that is so.
    KnownFailure(String),
    /// It found at run time that the cluster does not have what it needs.
    Skipped(String),
}

/// The part of Ginkgo's JSON report that is used (`github.com/onsi/ginkgo/v2/types`, `Report`).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    #[serde(default)]
    spec_reports: Option<Vec<SpecReport>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SpecReport {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    #[serde(default)]
    leaf_node_type: String,
    #[serde(default)]
    leaf_node_text: String,
    #[serde(default)]
    state: String,
    /// Nanoseconds.
    #[serde(default)]
    run_time: u64,
    #[serde(default)]
    num_attempts: u32,
    #[serde(default)]
    failure: Option<Failure>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
}

/// Reads Ginkgo's report; specs that the filters left out are not in the answer.
///
/// # Errors
/// When the text is no such report, or the suite itself could not be set up.
pub(super) fn read(text: &str) -> Result<Vec<Spec>> {
    let reports: Vec<Report> = serde_json::from_str(text).context("not a report of Ginkgo")?;
    let specs = reports.into_iter().flat_map(|report| report.spec_reports.unwrap_or_default());
    Ok(specs.filter_map(SpecReport::read).collect())
}

impl SpecReport {
    fn read(self) -> Option<Spec> {
        let message = self.failure.map(|failure| failure.message).unwrap_or_default();
        let outcome = match (self.leaf_node_type.as_str(), self.state.as_str()) {
            ("It", "passed") => Outcome::Passed,
            // Without a message it was filtered out.
            ("It", "skipped" | "pending") if message.is_empty() => return None,
            ("It", "skipped") => Outcome::Skipped(first_lines(&message)),
            // What sets the suite up is no spec, unless it fails.
            (_, "passed" | "skipped" | "pending" | "") => return None,
            (_, state) => Outcome::Failed(format!("{state}: {}", first_lines(&message))),
        };
        let mut name = self.container_hierarchy_texts.unwrap_or_default();
        name.push(if self.leaf_node_text.is_empty() { self.leaf_node_type } else { self.leaf_node_text });
        let seconds = Duration::from_nanos(self.run_time).as_secs_f64();
        Some(Spec { name: name.join(" "), outcome, seconds, attempts: self.num_attempts })
    }
}

fn first_lines(message: &str) -> String {
    message.lines().map(str::trim).filter(|line| !line.is_empty()).take(3).collect::<Vec<_>>().join(" / ")
}

/// How many specs came to what.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub(super) struct Sums {
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) known_failures: usize,
    pub(super) skipped: usize,
}

impl Sums {
    pub(super) fn of(specs: &[Spec]) -> Self {
        let mut sums = Self::default();
        for spec in specs {
            *match spec.outcome {
                Outcome::Passed => &mut sums.passed,
                Outcome::Failed(_) => &mut sums.failed,
                Outcome::KnownFailure(_) => &mut sums.known_failures,
                Outcome::Skipped(_) => &mut sums.skipped,
            } += 1;
        }
        sums
    }
}

/// A table for people: sums, and every spec that did not pass, or not at once, with its reason.
pub(super) fn markdown(suite: &str, specs: &[Spec]) -> String {
    let sums = Sums::of(specs);
    let mut text = format!(
        "## {suite}\n\n{} run: {} passed, {} failed, {} known failures, {} skipped\n\n",
        specs.len(),
        sums.passed,
        sums.failed,
        sums.known_failures,
        sums.skipped
    );
    let mut rest =
        specs.iter().filter(|spec| spec.outcome != Outcome::Passed || spec.attempts > 1).peekable();
    if rest.peek().is_some() {
        text += "| Spec | Outcome | Reason |\n| --- | --- | --- |\n";
    }
    for spec in rest {
        let (outcome, reason) = match &spec.outcome {
            Outcome::Passed => ("passed", "not at the first attempt"),
            Outcome::Failed(reason) => ("failed", reason.as_str()),
            Outcome::KnownFailure(reason) => ("known failure", reason.as_str()),
            Outcome::Skipped(reason) => ("skipped", reason.as_str()),
        };
        let cell = |text: &str| text.replace('|', r"\|");
        let _ = writeln!(text, "| {} | {outcome} | {} |", cell(&spec.name), cell(reason));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"[{"SuiteSucceeded": false, "SpecReports": [
        {"LeafNodeType": "SynchronizedBeforeSuite", "State": "passed"},
        {"ContainerHierarchyTexts": ["[sig-network] Netpol"], "LeafNodeType": "It", "LeafNodeText": "denies", "State": "passed", "NumAttempts": 2,
         "RunTime": 1500000000},
        {"ContainerHierarchyTexts": ["[sig-network] Netpol"], "LeafNodeType": "It", "LeafNodeText": "lets in", "State": "failed",
         "Failure": {"Message": "\n timed out\n at a | b\n"}},
        {"ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeType": "It", "LeafNodeText": "elsewhere", "State": "skipped"},
        {"ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeType": "It", "LeafNodeText": "on GCE", "State": "skipped",
         "Failure": {"Message": "Only supported for providers [gce]"}}]}]"#;

    #[test]
    fn what_was_filtered_out_does_not_count_and_what_was_skipped_says_why() {
        let specs = read(REPORT).expect("a report");
        assert_eq!(Sums::of(&specs), Sums { passed: 1, failed: 1, known_failures: 0, skipped: 1 });
        assert_eq!(specs[0].name, "[sig-network] Netpol denies");
        assert_eq!(specs[1].outcome, Outcome::Failed("failed: timed out / at a | b".to_owned()));
        let table = markdown("network-policy", &specs);
        assert!(table.contains("3 run: 1 passed, 1 failed, 0 known failures, 1 skipped"), "{table}");
        assert!(table.contains(r"| failed | failed: timed out / at a \| b |"), "{table}");
        assert!(table.contains("denies | passed | not at the first attempt |"), "{table}");
    }

    #[test]
    fn a_suite_that_could_not_be_set_up_has_failed() {
        let report = r#"[{"SpecReports": [{"LeafNodeType": "SynchronizedBeforeSuite", "State": "failed",
            "Failure": {"Message": "no nodes are ready"}}]}]"#;
        let specs = read(report).expect("a report");
        assert_eq!(specs[0].outcome, Outcome::Failed("failed: no nodes are ready".to_owned()));
        assert_eq!(specs[0].name, "SynchronizedBeforeSuite");
    }

    #[test]
    fn what_is_no_report_is_an_error() {
        for text in ["", "{}", "[{\"SpecReports\": 1}]"] {
            read(text).expect_err(text);
        }
    }
}
