//! What the tests of the command share.

/// The command: that of `$HUSK_BIN`, else the one that was built with the tests.
pub(crate) fn program() -> String {
    std::env::var("HUSK_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_husk").to_owned())
}
