//! The man pages, made from the command line as `husk` itself describes it.

use anyhow::Result;

use crate::shell;

/// Writes `docs/man`, or tells whether it is current.
pub(crate) fn run(check: bool) -> Result<()> {
    // The pages come from an example of the crate `cli`, so that this program does not need the whole workspace.
    let mut cargo = shell::cargo();
    cargo.args(["run", "--quiet", "--profile", "checked", "--package", "cli", "--example", "man", "--", "docs/man"]);
    if check {
        cargo.arg("--check");
    }
    shell::run(&mut cargo)
}
