//! What is printed while the layers run, and the sums at the end.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;

/// Tests of one binary, as its closing line counts them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Counts {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Tests that were not run.
    pub ignored: u64,
}

impl Counts {
    /// Sums up every `test result:` line; none when there is none, as when the runner crashed.
    pub(super) fn read(output: &str) -> Option<Self> {
        let results = output.lines().filter_map(|line| line.strip_prefix("test result: "));
        results.map(Self::of_line).reduce(|mut sum, counts| {
            sum.add(counts);
            sum
        })
    }

    /// Reads `ok. 3 passed; 0 failed; 1 ignored; …`.
    fn of_line(line: &str) -> Self {
        let number = |word: &str| {
            let words: Vec<&str> = line.split([' ', ';']).collect();
            let at = words.iter().position(|other| *other == word)?;
            words.get(at.checked_sub(1)?)?.parse::<u64>().ok()
        };
        let number = |word| number(word).unwrap_or_default();
        Self { passed: number("passed"), failed: number("failed"), ignored: number("ignored") }
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

/// Prints as the layers go, and remembers.
#[derive(Debug)]
pub(super) struct Report {
    started: Instant,
    step: Instant,
    counts: Counts,
    failures: Vec<Failure>,
    left_out: Vec<String>,
}

#[derive(Debug)]
struct Failure {
    name: String,
    output: String,
}

impl Report {
    /// Starts the clock.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            started: now,
            step: now,
            counts: Counts::default(),
            failures: Vec::new(),
            left_out: Vec::new(),
        }
    }

    /// Begins a layer.
    pub(super) fn heading(&mut self, layer: &str) {
        println!("\n== {layer}");
        self.step = Instant::now();
    }

    /// One check that passes or fails as a whole.
    pub(super) fn check<T>(&mut self, name: &str, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => {
                self.line("ok", name, "");
                Some(value)
            }
            Err(error) => {
                self.counts.failed += 1;
                self.fail(name, format!("{error:#}"));
                None
            }
        }
    }

    /// The tests of one binary, or of one binary on one kernel.
    ///
    /// `succeeded` is what its exit code says: a runner that dies without counting has failed.
    pub(super) fn tests(&mut self, name: &str, succeeded: bool, output: String) {
        let counts = Counts::read(&output);
        let mut counts = counts.unwrap_or_default();
        if !succeeded && counts.failed == 0 {
            counts.failed = 1;
        }
        self.counts.add(counts);
        if counts.failed > 0 {
            self.fail(name, output);
        } else if counts.passed + counts.ignored > 0 {
            let ignored =
                if counts.ignored > 0 { format!(", {} ignored", counts.ignored) } else { String::new() };
            self.line("ok", name, &format!("{} passed{ignored}", counts.passed));
        }
    }

    /// Specs of another test suite.
    pub(super) fn specs(&mut self, name: &str, passed: usize, skipped: usize, failures: &[String]) {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        self.counts.add(Counts {
            passed: count(passed),
            failed: count(failures.len()),
            ignored: count(skipped),
        });
        if failures.is_empty() {
            self.line("ok", name, &format!("{passed} passed, {skipped} skipped"));
        } else {
            self.fail(name, format!("{passed} passed, {skipped} skipped, failed:\n{}", failures.join("\n")));
        }
    }

    /// False when there was no test to run.
    pub(super) fn has_run_tests(&self) -> bool {
        self.counts.passed + self.counts.failed > 0
    }

    /// Something that was not run, and why.
    pub(super) fn left_out(&mut self, name: &str, reason: &str) {
        self.line("left out", name, reason);
        self.left_out.push(format!("{name} ({reason})"));
    }

    /// Tests that were not run.
    pub(super) fn tests_left_out(&mut self, name: &str, count: u64, reason: &str) {
        self.counts.ignored += count;
        self.left_out(name, reason);
    }

    /// Prints the sums; the exit code is a failure when anything failed.
    pub(super) fn finish(self) -> ExitCode {
        let Counts { passed, failed, ignored } = self.counts;
        println!("\n== result after {}", in_words(self.started.elapsed()));
        for what in &self.left_out {
            println!("left out: {what}");
        }
        if let Some(first) = self.failures.first() {
            println!("first failure: {}\n{}", first.name, last_lines(&first.output));
            let names: Vec<&str> = self.failures.iter().map(|failure| failure.name.as_str()).collect();
            println!("failed: {}", names.join(", "));
        }
        let word = if failed == 0 { "ok" } else { "FAILED" };
        println!(
            "test result: {word}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; 0 filtered out"
        );
        println!("{passed} passed, {failed} failed, {ignored} skipped");
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn fail(&mut self, name: &str, output: String) {
        self.line("FAILED", name, "");
        println!("{}", output.trim_end());
        self.failures.push(Failure { name: name.to_owned(), output });
    }

    fn line(&mut self, word: &str, name: &str, more: &str) {
        println!("{word:<9} {name:<44} {more:<28} {}", in_words(self.step.elapsed()));
        self.step = Instant::now();
    }
}

fn in_words(duration: Duration) -> String {
    match duration.as_secs() {
        0..60 => format!("{:.1} s", duration.as_secs_f64()),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

/// Enough of a long output to see what went wrong: tests print their failures last.
fn last_lines(output: &str) -> String {
    const LINES: usize = 80;
    let lines: Vec<&str> = output.trim_end().lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_add_up() {
        let output = "running 3 tests\n\
            test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            test result: FAILED. 5 passed; 1 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.00s\n";
        assert_eq!(Counts::read(output), Some(Counts { passed: 7, failed: 1, ignored: 1 }));
        assert_eq!(Counts::read("Segmentation fault\n"), None);
    }

    #[test]
    fn a_runner_that_dies_without_counting_has_failed() {
        let mut report = Report::new();
        report.tests("crashed", false, "Segmentation fault\n".to_owned());
        assert_eq!(report.counts, Counts { passed: 0, failed: 1, ignored: 0 });
    }
}
