//! `sluice policy lint` in words.

use std::fmt::Write;

use clap::{Args, ValueEnum};
use sluice_core::lint::{Code, Findings, Severity};

use super::{Input, answered, code};
use crate::output::{self, Answer, Format};

const EXIT_CODES: &str = "\
Exit codes:
  0  nothing was found that counts (--fail-on)
  1  something was
  2  no answer: the command line or a file is wrong";

/// What to look at.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXIT_CODES, after_long_help = codes())]
pub(crate) struct Lint {
    #[command(flatten)]
    input: Input,
    /// The least severity that makes the exit code 1
    #[arg(long, value_enum, value_name = "SEVERITY", default_value_t = FailOn::Warning)]
    fail_on: FailOn,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum FailOn {
    /// Something does not work as it stands
    Error,
    /// Something is likely not what was meant
    Warning,
    /// Something to know
    Note,
    /// Nothing
    Never,
}

/// `sluice policy lint`: what is likely wrong.
pub(crate) fn run(format: Format, lint: &Lint) -> anyhow::Result<std::process::ExitCode> {
    let answer = || {
        let reading = &lint.input.reading;
        let world = reading.world(&lint.input.filename, &mut reading.assumed())?;
        let findings = sluice_core::lint::lint(&world);
        output::print(format, &findings)?;
        let counted = match lint.fail_on {
            FailOn::Error => findings.errors,
            FailOn::Warning => findings.errors + findings.warnings,
            FailOn::Note => findings.findings.len(),
            FailOn::Never => 0,
        };
        Ok(code(counted == 0))
    };
    answered(answer())
}

/// How many pods a finding names before it only counts them.
const NAMED_PODS: usize = 5;

impl Answer for Findings {
    fn text(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let field = finding.field.as_ref().map(|field| format!(", {field}")).unwrap_or_default();
            // Writing to a string cannot go wrong.
            let _ =
                writeln!(text, "{:<7}  {}  {}{field}", finding.severity.name(), finding.code, finding.object);
            let _ = writeln!(text, "         {}", finding.message);
            if !finding.pods.is_empty() {
                let named = finding.pods.iter().take(NAMED_PODS).cloned().collect::<Vec<_>>().join(", ");
                let more = finding.pods.len().saturating_sub(NAMED_PODS);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                let _ = writeln!(text, "         pods: {named}{more}");
            }
            let _ = writeln!(text, "         fix: {}\n", finding.fix);
        }
        let of = |number: usize, severity: Severity| {
            let ending = if number == 1 { "" } else { "s" };
            format!("{number} {}{ending}", severity.name())
        };
        let (errors, warnings) = (of(self.errors, Severity::Error), of(self.warnings, Severity::Warning));
        let _ = writeln!(text, "{errors}, {warnings}, {}", of(self.notes, Severity::Note));
        text
    }
}

/// The codes and what they mean, for the help text.
fn codes() -> String {
    let width = Code::ALL.iter().map(|code| code.name().len()).max().unwrap_or_default();
    let lines = Code::ALL.iter().map(|code| format!("  {:width$}  {}", code.name(), code.help()));
    format!("Codes:\n{}\n\n{EXIT_CODES}", lines.collect::<Vec<_>>().join("\n"))
}
