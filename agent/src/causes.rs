//! Errors in the log and in answers.

use std::{error::Error, fmt};

/// An error with its causes, as one line. Some libraries' errors end in their cause's words: those are said once.
#[derive(Debug)]
pub struct Causes<'a>(pub &'a dyn Error);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let words = error.to_string();
            if !said.ends_with(&words) {
                write!(f, ": {words}")?;
                said = words;
            }
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("asking: {0}")]
    struct Repeats(#[source] io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("starting")]
    struct Outer(#[source] Repeats);

    #[test]
    fn every_cause_is_named_once() {
        let refused = io::Error::other("connection refused");
        assert_eq!(Causes(&Outer(Repeats(refused))).to_string(), "starting: asking: connection refused");
    }
}
