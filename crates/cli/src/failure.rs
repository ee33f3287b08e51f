//! Why the command has failed: one line and an exit code.

use std::{fmt, io};

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// The exit code for input that cannot work.
pub(crate) const BAD_INPUT: u8 = 2;
/// The exit code for a failure of Husk itself or of the host.
pub(crate) const INTERNAL: u8 = 3;

/// The object, the cause and the fix, on one line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    line: String,
    /// The exit code.
    pub(crate) code: u8,
}

impl Failure {
    /// Bad input: what it is about, what is wrong with it and what to do.
    pub(crate) fn input(object: impl fmt::Display, cause: impl fmt::Display, fix: impl fmt::Display) -> Self {
        Self::new(format!("{object}: {cause}; {fix}"), BAD_INPUT)
    }

    /// A failure that is not the input's.
    pub(crate) fn internal(what: impl fmt::Display) -> Self {
        Self::new(what.to_string(), INTERNAL)
    }

    /// Standard output takes no more.
    pub(crate) fn output(error: &io::Error) -> Self {
        Self::internal(format!("standard output: {}; redirect it elsewhere", cause(error)))
    }

    pub(crate) fn new(text: impl Into<String>, code: u8) -> Self {
        let text: String = text.into();
        // What comes from file names and errors may hold line ends; the promise is one line.
        let line =
            text.split(['\n', '\r']).map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
        Self { line, code }
    }

    /// What clap says, on one line.
    pub(crate) fn usage(error: &clap::Error) -> Self {
        let text = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.clone()),
            Some(ContextValue::Strings(list)) => Some(list.join(", ")),
            _ => None,
        };
        if let (Some(option), Some(value)) = (text(ContextKind::InvalidArg), text(ContextKind::InvalidValue)) {
            let option = option.split(' ').next().unwrap_or_default();
            if let Some(cause) = std::error::Error::source(error) {
                return Self::new(format!("{option} {value}: {cause}"), BAD_INPUT);
            }
            if value.is_empty() {
                return Self::input(option, "its value is missing", "see 'husk run --help'");
            }
            if let Some(valid) = text(ContextKind::ValidValue) {
                return Self::input(
                    format!("{option} {value}"),
                    "there is no such value",
                    format!("take one of {valid}"),
                );
            }
        }
        if let (ErrorKind::MissingRequiredArgument, Some(missing)) = (error.kind(), text(ContextKind::InvalidArg)) {
            return Self::input(missing, "it is missing", "see 'husk --help'");
        }
        let whole = error.render().to_string();
        let first = whole.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        Self::new(format!("{}; see 'husk --help'", first.trim_end_matches(':')), BAD_INPUT)
    }
}

/// An error of the operating system without its number.
pub(crate) fn cause(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(args: &[&str]) -> String {
        let error = crate::command().try_get_matches_from(args).unwrap_err();
        Failure::usage(&error).to_string()
    }

    #[test]
    fn usage_errors_are_one_line_with_object_cause_and_fix() {
        assert_eq!(usage(&["husk", "run", "--cpus", "0"]), "--cpus 0: a machine needs a CPU; give it 1 or more");
        let no_engine = "--engine x: there is no such engine; take one of auto, kvm, soft";
        assert_eq!(usage(&["husk", "run", "--engine", "x"]), no_engine);
        assert_eq!(usage(&["husk", "run", "--what"]), "unexpected argument '--what' found; see 'husk --help'");
        assert_eq!(usage(&["husk", "run", "-m", "-1"]), "--memory -1: not a size; write it like 512M or 2G");
        assert_eq!(usage(&["husk", "run", "-c", "-1"]), "--cpus -1: not a number of CPUs; give it 1 or more");
        assert_eq!(usage(&["husk", "completions"]), "<SHELL>: it is missing; see 'husk --help'");
        assert_eq!(Failure::input("a\nb", "c", "d").to_string(), "a b: c; d");
    }
}
