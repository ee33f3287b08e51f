//! Running other programs.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

/// The root of the checkout.
pub(crate) fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// Where cargo puts what it builds.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// One line on what is done now.
pub(crate) fn say(what: &str) {
    eprintln!("xtask: {what}");
}

/// A command that runs in the root of the checkout.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// The cargo that runs this.
pub(crate) fn cargo() -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Runs a command that must succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs a command that must succeed and returns what it prints.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !out.status.success() {
        let text = String::from_utf8_lossy(&out.stderr);
        bail!("`{}` failed: {}\n{}", shown(command), out.status, text.trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Becomes another program.
pub(crate) fn replace(command: &mut Command) -> Result<ExitCode> {
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start `{}`", shown(command)))
}

/// Whether there is a program of this name.
pub(crate) fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Those of the system are not on everybody's path.
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).any(|dir| dir.join(program).is_file())
}

/// Whether this is the user root.
fn is_root() -> Result<bool> {
    Ok(output(command("id").arg("-u"))?.trim() == "0")
}

/// A command that runs as root: by `sudo`, without a question, where another user runs this.
pub(crate) fn as_root(program: &str) -> Result<Command> {
    if is_root()? {
        return Ok(command(program));
    }
    if output(command("sudo").args(["-n", "true"])).is_err() {
        bail!("`{program}` has to be run by root, and `sudo` does not do that without a password");
    }
    let mut sudo = command("sudo");
    sudo.args(["-n", program]);
    Ok(sudo)
}

/// Installs programs that are not there: each is given with the Debian packages that it is in.
pub(crate) fn install(wanted: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> =
        wanted.iter().filter(|(program, _)| !installed(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    let by_hand = format!("install it by hand: sudo apt-get install --yes {packages}");
    if !installed("apt-get") {
        bail!("this is no Debian system, and what Debian has in {packages} is needed");
    }
    let apt = |args: &[&str]| {
        let mut command = as_root("env").with_context(|| by_hand.clone())?;
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "Acquire::Retries=3"]).args(args);
        run(&mut command)
    };
    say(&format!("installing {packages}"));
    let install: Vec<&str> =
        ["install", "--yes", "--no-install-recommends"].into_iter().chain(packages.split(' ')).collect();
    // The lists may be old, or one of several sources may fail: what counts is whether the packages come.
    if apt(&install).is_err() {
        let _ = apt(&["update"]);
        apt(&install).context(by_hand)?;
    }
    Ok(())
}

/// Builds `husk` in a profile; returns where it is.
pub(crate) fn build_husk(profile: &str) -> Result<PathBuf> {
    say(&format!("building husk ({profile})"));
    run(cargo().args(["build", "--package", "cli", "--bin", "husk", "--profile", profile]))?;
    Ok(husk(profile))
}

/// Where the `husk` of a profile is.
pub(crate) fn husk(profile: &str) -> PathBuf {
    target().join(profile).join("husk")
}

/// Writes a file whole or not at all, and only when its content changes.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if std::fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let whole = || -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let new = path.with_extension("new");
        std::fs::write(&new, bytes)?;
        std::fs::rename(&new, path)
    };
    whole().with_context(|| format!("cannot write {}", path.display()))
}
