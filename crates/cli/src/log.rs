//! The log: to standard error, off but for warnings unless asked for.

use std::io::{self, Write};

use base::RawMode;
use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// Starts logging with the filter of `--log`, of `RUST_LOG`, or by the number of `-v`.
pub(crate) fn start(filter: Option<&str>, verbose: u8) -> Result<(), Failure> {
    let from_env = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let fallback = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let (object, text) = match (filter, &from_env) {
        (Some(text), _) => ("--log", text),
        (None, Some(text)) if verbose == 0 => ("RUST_LOG", text.as_str()),
        _ => ("-v", fallback),
    };
    let filter = EnvFilter::try_new(text)
        .map_err(|e| Failure::input(format!("{object} {text}"), e, "write it like debug or vm=trace,devices=info"))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Lines).with_ansi(false).init();
    Ok(())
}

/// Standard error, where a line also needs a carriage return while the terminal is raw.
struct Lines;

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut stderr = io::stderr().lock();
        if RawMode::is_on() {
            stderr.write_all(&with_returns(bytes))?;
        } else {
            stderr.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// `text` with a carriage return before each line end.
pub(crate) fn with_returns(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 8);
    for &byte in text {
        if byte == b'\n' {
            out.push(b'\r');
        }
        out.push(byte);
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn raw_lines_get_returns() {
        assert_eq!(super::with_returns(b"a\nb\n"), b"a\r\nb\r\n");
    }
}
