//! Debian's packages, fetched and unpacked without installing anything.
//!
//! apt works on folders of its own under `target/guest/apt`, with the system's list of sources and keys; so this needs
//! no root, and fetches packages of another architecture without telling the system of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell;

/// apt for one architecture.
pub(crate) struct Apt {
    architecture: &'static str,
    folder: PathBuf,
    /// The only source, where it is not those of the system.
    source: Option<PathBuf>,
}

/// The release whose packages are too old for some of what we do.
const OLD_RELEASE: &str = "bookworm";

/// The keys that Debian's archives are signed with.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

impl Apt {
    /// Prepares the folders and fetches the lists of packages.
    pub(crate) fn open(under: &Path, architecture: &'static str) -> Result<Self> {
        Self::with_source(under, architecture, None)
    }

    /// The same with newer packages than those of Debian 12: its backports, on a system of that release.
    pub(crate) fn open_newer(under: &Path, architecture: &'static str) -> Result<Self> {
        let wanted = ["--format", "$(CODENAME) $(ORIGIN) $(REPO_URI)", "Created-By: Packages"];
        let targets = shell::output(shell::command("apt-get").arg("indextargets").args(wanted))?;
        let mirror = targets.lines().find_map(|line| line.strip_prefix(OLD_RELEASE)?.strip_prefix(" Debian "));
        let source = mirror.map(|uri| format!("deb [signed-by={KEYS}] {uri} {OLD_RELEASE}-backports main\n"));
        Self::with_source(under, architecture, source)
    }

    fn with_source(under: &Path, architecture: &'static str, source: Option<String>) -> Result<Self> {
        for (program, package) in [("apt-get", "apt"), ("dpkg-deb", "dpkg"), ("tar", "tar")] {
            if !shell::installed(program) {
                bail!(
                    "there is no `{program}` here: guests are made of Debian's packages; run this on Debian (package \
                     {package}), or boot a kernel of your own with `husk run --kernel K --initrd I`"
                );
            }
        }
        let folder = under.join(architecture);
        let list = source.is_some().then(|| folder.join("source.list"));
        let apt = Self { architecture, folder, source: list };
        for sub in ["state/lists/partial", "cache/archives/partial", "packages"] {
            let path = apt.folder.join(sub);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        if let (Some(path), Some(source)) = (&apt.source, source) {
            shell::write(path, source.as_bytes())?;
        }
        shell::say(&format!("fetching Debian's list of {architecture} packages"));
        // One source that fails is no harm as long as another has the packages.
        if let Err(error) = shell::output(apt.command("apt-get").arg("update")) {
            let text = error.to_string();
            let first = text.lines().find(|l| l.starts_with("E:")).unwrap_or("see `apt-get update`");
            shell::say(&format!("warning: not all lists could be fetched: {first}"));
        }
        Ok(apt)
    }

    /// Whether this is apt for `architecture`.
    pub(crate) fn is_for(&self, architecture: &str) -> bool {
        self.architecture == architecture
    }

    fn command(&self, program: &str) -> Command {
        let mut command = shell::command(program);
        let options = [
            format!("Dir::State={}", self.folder.join("state").display()),
            format!("Dir::Cache={}", self.folder.join("cache").display()),
            "Dir::State::status=/dev/null".into(),
            format!("APT::Architecture={}", self.architecture),
            format!("APT::Architectures::={}", self.architecture),
            // The folders belong to the user who runs this, not to apt's own.
            "APT::Sandbox::User=root".into(),
            "Acquire::Retries=3".into(),
        ];
        if let Some(source) = &self.source {
            command.args(["-o", &format!("Dir::Etc::sourcelist={}", source.display())]);
            command.args(["-o", "Dir::Etc::sourceparts=-"]);
        }
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        options.iter().for_each(|option| _ = command.args(["-o", option]));
        command
    }

    /// The package that a package of no content of its own stands for.
    pub(crate) fn behind(&self, package: &str) -> Result<String> {
        let text = shell::output(self.command("apt-cache").args(["show", "--no-all-versions", package])).with_context(
            || {
                format!(
                    "no package {package} for {} in the sources of this system: check the network and that \
                     /etc/apt names a Debian release that has it (12, bookworm, does)",
                    self.architecture
                )
            },
        )?;
        let depends = text.lines().find_map(|line| line.strip_prefix("Depends: "));
        let first = depends.and_then(|list| list.split([',', ' ', '|']).next()).filter(|name| !name.is_empty());
        first.map(str::to_owned).with_context(|| format!("package {package} depends on nothing"))
    }

    /// Fetches a package; returns the file.
    pub(crate) fn fetch(&self, package: &str) -> Result<PathBuf> {
        let folder = self.folder.join("packages");
        let of_package = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.starts_with(&format!("{package}_")) && name.ends_with(".deb")
        };
        let files = || -> Result<Vec<PathBuf>> {
            let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
            Ok(entries.flatten().map(|e| e.path()).filter(of_package).collect())
        };
        for old in files()? {
            fs::remove_file(&old).with_context(|| format!("cannot remove {}", old.display()))?;
        }
        shell::say(&format!("fetching {package} ({})", self.architecture));
        shell::output(self.command("apt-get").current_dir(&folder).args(["download", package]))
            .with_context(|| format!("cannot fetch {package}: check the network"))?;
        files()?.pop().with_context(|| format!("apt-get has left no package {package} in {}", folder.display()))
    }
}

/// Unpacks one folder of a package; `inside` starts with `./`.
pub(crate) fn unpack(package: &Path, inside: &str, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let mut from = shell::command("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .context("cannot start `dpkg-deb`")?;
    let pipe = from.stdout.take().context("no pipe to dpkg-deb")?;
    let tar = shell::command("tar").args(["-x", "-f", "-", "-C"]).arg(to).arg(inside).stdin(pipe).status();
    let (tar, from) = (tar.context("cannot start `tar`")?, from.wait().context("cannot wait for `dpkg-deb`")?);
    if !tar.success() || !from.success() {
        bail!("cannot unpack {inside} of {}: remove the file and try again", package.display());
    }
    Ok(())
}
