//! UEFI firmware: OVMF where distributions put it, and the file that holds a VM's variables.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use vm::Variables;

use super::{descriptor, no_variables};
use crate::failure::{BAD_INPUT, Failure, cause};
use crate::run;

/// Where distributions put OVMF, the code and the template of its variables: Debian and Ubuntu; Fedora; Arch; openSUSE;
/// older Arch and Gentoo; QEMU's own.
const PLACES: &[(&str, &str)] = &[
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/qemu/ovmf-x86_64-4m-code.bin", "/usr/share/qemu/ovmf-x86_64-4m-vars.bin"),
    ("/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),
    ("/usr/share/edk2-ovmf/x64/OVMF_CODE.fd", "/usr/share/edk2-ovmf/x64/OVMF_VARS.fd"),
    ("/usr/share/edk2-ovmf/OVMF_CODE.fd", "/usr/share/edk2-ovmf/OVMF_VARS.fd"),
    ("/usr/share/qemu/edk2-x86_64-code.fd", "/usr/share/qemu/edk2-i386-vars.fd"),
    ("/usr/local/share/qemu/edk2-x86_64-code.fd", "/usr/local/share/qemu/edk2-i386-vars.fd"),
];

/// A firmware and what its variables begin as.
pub(super) struct Pair {
    pub(super) code: PathBuf,
    template: Option<PathBuf>,
}

/// OVMF where it is found, the build that needs no system-management mode.
pub(super) fn find() -> Result<Pair, Failure> {
    let there = |code: &Path, template: &Path| code.exists() && template.exists();
    let known = PLACES.iter().map(|(code, template)| (PathBuf::from(code), PathBuf::from(template)));
    let described = descriptor::all().into_iter().filter(|one| !one.needs_smm).map(|one| (one.code, one.template));
    let found = known.chain(described).find(|(code, template)| there(code, template));
    let missing = || {
        let places: Vec<_> = PLACES.iter().map(|(code, _)| *code).collect();
        Failure::input(
            "--firmware uefi",
            format!("OVMF is not at {}", places.join(", ")),
            "install the package ovmf (edk2-ovmf), or give the path of its OVMF_CODE.fd",
        )
    };
    found.map(|(code, template)| Pair { code, template: Some(template) }).ok_or_else(missing)
}

/// The firmware that the user names, with the template that lies beside it.
pub(super) fn beside(code: &Path) -> Result<Pair, Failure> {
    let real = fs::canonicalize(code).unwrap_or_else(|_| code.to_owned());
    let described = descriptor::all();
    let same = |path: &Path| path == code || fs::canonicalize(path).is_ok_and(|path| path == real);
    let its: Vec<_> = described.into_iter().filter(|one| same(&one.code)).collect();
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let secure = [code, &real].iter().any(|path| SECURE.iter().any(|word| name(path).to_lowercase().contains(word)));
    if secure || !its.is_empty() && its.iter().all(|one| one.needs_smm) {
        return Err(Failure::input(
            format!("firmware {}", code.display()),
            "it is built for Secure Boot and needs system-management mode, which the machine does not have",
            "take --firmware uefi",
        ));
    }
    let named = template_name(&name(code)).map(|name| code.with_file_name(name)).filter(|path| path.exists());
    Ok(Pair { code: code.to_owned(), template: named.or_else(|| Some(its.into_iter().next()?.template)) })
}

/// What the names of builds for Secure Boot have in them.
const SECURE: &[&str] = &["secboot", "secure", ".ms.", "-ms-", "snakeoil"];

/// The name of the template that goes with a firmware of this name.
fn template_name(code: &str) -> Option<String> {
    let by = |from: &str, to: &str| code.contains(from).then(|| code.replacen(from, to, 1));
    by("CODE", "VARS").or_else(|| by("code", "vars"))
}

/// The variables: in the file, which begins as a copy of the template; for this run only where there is none.
pub(super) fn variables(pair: &Pair, file: Option<&Path>) -> Result<Option<Variables>, Failure> {
    let Some(template) = &pair.template else {
        return match file {
            Some(file) if !file.exists() => {
                let cause = format!("there is no template of variables beside {}", pair.code.display());
                Err(Failure::input(
                    format!("--firmware-vars {}", file.display()),
                    cause,
                    "copy one there by hand, like OVMF_VARS.fd",
                ))
            }
            Some(file) => kept(file).map(Some),
            None => Ok(None),
        };
    };
    match file {
        Some(file) => {
            copy(template, file)?;
            kept(file).map(Some)
        }
        None => {
            tracing::info!("the firmware's variables are gone when the VM ends: no --firmware-vars");
            let template = run::open("variables", template)?;
            Variables::volatile(template).map(Some).map_err(|error| Failure::new(error.to_string(), BAD_INPUT))
        }
    }
}

/// Makes the file from the template, whole or not at all, if it is not there.
fn copy(template: &Path, to: &Path) -> Result<(), Failure> {
    if to.exists() {
        return Ok(());
    }
    let refused = |error: std::io::Error| {
        Failure::input(
            format!("--firmware-vars {}", to.display()),
            cause(&error),
            "check the folder and its permissions",
        )
    };
    let name = to.file_name().ok_or_else(|| no_variables(to, "it is no file"))?;
    let mut half = std::ffi::OsString::from(".");
    half.push(name);
    half.push(format!(".{}", std::process::id()));
    let half = to.with_file_name(half);
    let made = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).open(&half)?;
        file.write_all(&fs::read(template)?)?;
        file.sync_all()?;
        // Never over one that another VM has made meanwhile.
        match fs::hard_link(&half, to) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            // Not every file system has links.
            Err(_) => match OpenOptions::new().write(true).create_new(true).open(to) {
                Ok(mut file) => {
                    let written = file.write_all(&fs::read(&half)?).and_then(|()| file.sync_all());
                    written.inspect_err(|_| _ = fs::remove_file(to))
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
                Err(error) => Err(error),
            },
        }
    })();
    let _ = fs::remove_file(&half);
    made.map_err(refused)?;
    // The name as well is to outlive a loss of power; not every file system can.
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
    tracing::info!("{}: made from {}", to.display(), template.display());
    Ok(())
}

fn kept(file: &Path) -> Result<Variables, Failure> {
    let bad = |text: String| Failure::new(text, BAD_INPUT);
    let options = disk::OpenOptions { format: Some(disk::Format::Raw), ..disk::OpenOptions::new(file) };
    let image = disk::block_on(disk::open(options)).map_err(|error| bad(error.to_string()))?;
    Variables::kept(format!("variables {}", file.display()), image).map_err(|error| bad(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_go_by_the_names_of_the_code() {
        for (code, template) in PLACES {
            let name = |path: &str| Path::new(path).file_name().unwrap().to_str().unwrap().to_owned();
            if !template.contains("i386") {
                assert_eq!(template_name(&name(code)), Some(name(template)));
            }
        }
        assert_eq!(template_name("bios-256k.bin"), None);
    }

    #[test]
    fn secure_boot_is_refused() {
        for name in ["OVMF_CODE_4M.secboot.fd", "OVMF_CODE_4M.ms.fd", "ovmf-x86_64-ms-code.bin"] {
            assert!(beside(Path::new("/nowhere").join(name).as_ref()).is_err(), "{name}");
        }
        assert!(beside(Path::new("/nowhere/OVMF_CODE_4M.fd")).is_ok());
    }
}
