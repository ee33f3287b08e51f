//! The disks and CDs of a VM: what the user says of them, and opening them.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use disk::luks::Passphrase;
use disk::{CreateOptions, Error, Format, Image, OpenOptions, Unlock, block_on};
use vm::{Disk, DiskBus, Drive};

use crate::args::Run;
use crate::failure::Failure;
use crate::img::{self, secret};
use crate::size;

/// A disk or a CD, as the user asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DriveChoice {
    /// The file of the image.
    pub(crate) path: PathBuf,
    /// Its format; by its first bytes if there is none.
    pub(crate) format: Option<Format>,
    /// What it is connected to; what is usual for the board if there is none.
    pub(crate) bus: Option<DiskBus>,
    /// The size of the image that is made if there is none.
    pub(crate) size: Option<u64>,
    /// The guest cannot write.
    pub(crate) read_only: bool,
    /// What the guest writes is forgotten.
    pub(crate) snapshot: bool,
    /// The serial number that the guest sees.
    pub(crate) serial: Option<String>,
    /// Its place in the boot order.
    pub(crate) boot: Option<u32>,
    /// What kind of drive it is.
    pub(crate) drive: Drive,
}

impl DriveChoice {
    fn new(path: PathBuf, drive: Drive) -> Self {
        let (format, read_only) = match drive {
            // What is on a disc is its bytes.
            Drive::Cd => (Some(Format::Raw), true),
            Drive::Disk => (None, false),
        };
        Self { path, format, bus: None, size: None, read_only, snapshot: false, serial: None, boot: None, drive }
    }
}

/// `FILE[,OPTION[=VALUE]]...` of `--disk`.
pub(crate) fn disk(text: &str) -> Result<DriveChoice, String> {
    choice(text, Drive::Disk)
}

/// `FILE[,OPTION=VALUE]...` of `--cdrom`.
pub(crate) fn cd(text: &str) -> Result<DriveChoice, String> {
    choice(text, Drive::Cd)
}

fn choice(text: &str, drive: Drive) -> Result<DriveChoice, String> {
    const OF_DISKS: &str = "format=, bus=, size=, serial=, boot=, readonly, snapshot";
    const OF_CDS: &str = "format=, bus=, boot=";
    let words = words(text);
    let (path, options) = words.split_first().ok_or("not a disk; give the file of its image")?;
    if path.is_empty() {
        return Err("not a disk; give the file of its image".to_owned());
    }
    let mut choice = DriveChoice::new(path.into(), drive);
    let disk = drive == Drive::Disk;
    for word in options {
        match word.split_once('=') {
            Some(("format", name)) => choice.format = Some(name.parse()?),
            Some(("bus", name)) => choice.bus = Some(bus(name)?),
            Some(("boot", number)) => {
                choice.boot = Some(number.parse().map_err(|_| format!("boot={number} is no number; 0 is the first"))?);
            }
            Some(("size", text)) if disk => choice.size = Some(new_size(text)?),
            Some(("serial", text)) if disk => choice.serial = Some(serial(text)?),
            None if disk && word == "readonly" => choice.read_only = true,
            None if disk && word == "snapshot" => choice.snapshot = true,
            _ => {
                let known = if disk { OF_DISKS } else { OF_CDS };
                return Err(format!(
                    "there is no option {word}; take one of {known} (a comma in a name is written ,,)"
                ));
            }
        }
    }
    Ok(choice)
}

/// The parts between commas; two commas are one in a part.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == ',' && letters.next_if_eq(&',').is_none() {
            words.push(String::new());
        } else if let Some(word) = words.last_mut() {
            word.push(letter);
        }
    }
    words
}

fn bus(name: &str) -> Result<DiskBus, String> {
    let found = DiskBus::KNOWN.iter().find(|(known, _)| *known == name);
    let names: Vec<&str> = DiskBus::KNOWN.iter().map(|(name, _)| *name).collect();
    found
        .map(|(_, bus)| *bus)
        .ok_or_else(|| format!("there is no bus {name} for disks; take one of {}", names.join(", ")))
}

fn new_size(text: &str) -> Result<u64, String> {
    let bytes = size::parse(text).map_err(|why| format!("size={text} is {why}"))?;
    if bytes == 0 {
        return Err("a new disk needs some bytes; write it like size=20G".to_owned());
    }
    Ok(bytes)
}

fn serial(text: &str) -> Result<String, String> {
    // ATA and virtio have 20 characters of ASCII.
    if text.is_empty() || text.len() > 20 || !text.chars().all(|c| c.is_ascii_graphic()) {
        return Err(format!("serial={text} is no serial number; give it 1 to 20 letters and digits"));
    }
    Ok(text.to_owned())
}

/// A kind of drive in `--boot`.
pub(crate) fn boot(text: &str) -> Result<Drive, String> {
    match text {
        "disk" => Ok(Drive::Disk),
        "cdrom" => Ok(Drive::Cd),
        _ => Err("there is no such thing to boot from; take disk, cdrom, or both with a comma".to_owned()),
    }
}

/// The board of a VM that names none: the newest, unless a disk wants what only an older one has.
pub(crate) fn board(run: &Run) -> String {
    const USUAL: &str = "q35-1";
    let drives = choices(run);
    let old = |drive: &DriveChoice| drive.bus.unwrap_or_else(|| DiskBus::usual(USUAL)) == DiskBus::Ide;
    if drives.iter().any(old) { "pc-1".to_owned() } else { USUAL.to_owned() }
}

/// All drives, the one without an option first.
pub(crate) fn choices(run: &Run) -> Vec<DriveChoice> {
    let image = run.image.iter().map(|path| {
        let drive = if is_disc(path) { Drive::Cd } else { Drive::Disk };
        DriveChoice::new(path.clone(), drive)
    });
    image.chain(run.disk.iter().cloned()).chain(run.cdrom.iter().cloned()).collect()
}

/// Whether a file holds the file system of a CD or DVD: its volume descriptors start at sector 16, of 2048 bytes, with a
/// type and `CD001` (ECMA-119, 9.1).
fn is_disc(path: &Path) -> bool {
    use std::os::unix::fs::FileExt;
    let mut mark = [0; 5];
    let file =
        std::fs::metadata(path).ok().filter(|about| about.is_file()).and_then(|_| std::fs::File::open(path).ok());
    file.is_some_and(|file| file.read_exact_at(&mut mark, 16 * 2048 + 1).is_ok()) && &mark == b"CD001"
}

/// Whether a file is a Linux kernel (the header of the boot protocol).
fn is_kernel(path: &Path) -> bool {
    use std::os::unix::fs::FileExt;
    let mut mark = [0; 4];
    let file =
        std::fs::metadata(path).ok().filter(|about| about.is_file()).and_then(|_| std::fs::File::open(path).ok());
    file.is_some_and(|file| file.read_exact_at(&mut mark, 0x202).is_ok()) && &mark == b"HdrS"
}

/// Opens the drives; images that are not there are made where the user gives their size.
pub(crate) fn open(run: &Run, board: &str) -> Result<Vec<Disk>, Failure> {
    if let Some(path) = run.image.as_ref().filter(|path| is_kernel(path)) {
        return Err(Failure::input(path.display(), "it is a Linux kernel and no disk", "give it with --kernel"));
    }
    let choices = choices(run);
    let unlock = match &run.passphrase_file {
        Some(file) => Some(Arc::new(Passphrase::new(secret::read(file)?)) as Arc<dyn Unlock>),
        None => None,
    };
    let order = boot_order(&choices, &run.boot);
    let mut disks = Vec::new();
    for ((choice, boot), number) in choices.iter().zip(order).zip(0..) {
        disks.push(Disk {
            image: image(choice, run.snapshot, unlock.clone())?,
            serial: choice.serial.clone().unwrap_or_else(|| format!("HUSK{number:04}")),
            bus: choice.bus.unwrap_or_else(|| DiskBus::usual(board)),
            drive: choice.drive,
            boot: Some(boot),
        });
    }
    Ok(disks)
}

/// The place of each drive: those that were given one, then by kind, then as they were named. Disks come before CDs, so
/// that what a CD has installed is what boots the next time; a disk with nothing on it makes way by itself.
fn boot_order(drives: &[DriveChoice], kinds: &[Drive]) -> Vec<u32> {
    let kinds = if kinds.is_empty() { &[Drive::Disk, Drive::Cd] } else { kinds };
    let rank = |drive: &DriveChoice| kinds.iter().position(|kind| *kind == drive.drive).unwrap_or(kinds.len());
    let mut order: Vec<usize> = (0..drives.len()).collect();
    order.sort_by_key(|index| drives.get(*index).map(|drive| (drive.boot.unwrap_or(u32::MAX), rank(drive))));
    let place = |index| order.iter().position(|at| *at == index).and_then(|at| u32::try_from(at).ok());
    (0..drives.len()).map(|index| place(index).unwrap_or(u32::MAX)).collect()
}

/// Opens one image.
fn image(choice: &DriveChoice, snapshot: bool, unlock: Option<Arc<dyn Unlock>>) -> Result<Arc<dyn Image>, Failure> {
    let path = &choice.path;
    let snapshot = choice.drive == Drive::Disk && (snapshot || choice.snapshot);
    let there = path.try_exists().unwrap_or(true);
    if let Some(size) = choice.size.filter(|_| !there) {
        make(choice, size)?;
    }
    let with_passphrase = unlock.is_some();
    let format = choice.format.or_else(|| by_name(path));
    if format.is_none() {
        names_nothing(path)?;
    }
    let read_only = choice.read_only || snapshot;
    let opened = block_on(disk::open(OpenOptions { format, read_only, unlock, ..OpenOptions::new(path) }));
    let encrypted =
        || Failure::input(path.display(), "the image is encrypted", "give its passphrase with --passphrase-file");
    let image = match opened {
        Ok(image) => image,
        Err(Error::Locked { .. }) if !with_passphrase => return Err(encrypted()),
        Err(error) if !there => {
            let advice =
                if choice.drive == Drive::Disk { ", or give a size as in size=20G to have it made" } else { "" };
            return Err(Failure::new(format!("{}{advice}", img::failed(&error)), crate::failure::BAD_INPUT));
        }
        Err(Error::Host { path, cause, .. }) if !read_only && cause.kind() == ErrorKind::ReadOnlyFilesystem => {
            let fix = "add readonly, or snapshot to forget what is written";
            return Err(Failure::input(path.display(), "its file system is read-only", fix));
        }
        Err(error) => return Err(img::failed(&error)),
    };
    let info = image.info();
    if info.encrypted && !with_passphrase {
        return Err(encrypted());
    }
    // An empty file is an empty drive.
    if info.size == 0 && choice.drive == Drive::Disk {
        return Err(Failure::input(path.display(), "the disk has no bytes", "make it larger with 'husk img resize'"));
    }
    if info.corrupt && !read_only {
        let fix = "repair it with 'husk img check --repair', or add readonly";
        return Err(Failure::input(path.display(), "the image is marked as damaged", fix));
    }
    if info.read_only && !read_only {
        let cause = format!("{} images are only read", info.format);
        let fix = "add snapshot to forget what is written, or convert it with 'husk img convert'";
        return Err(Failure::input(path.display(), cause, fix));
    }
    if !snapshot {
        return Ok(image);
    }
    block_on(disk::temporary(image, &temporary_folder())).map_err(|error| img::failed(&error))
}

/// Where what is forgotten is kept meanwhile: it may become large, and /tmp is often memory.
fn temporary_folder() -> PathBuf {
    let told = std::env::var_os("TMPDIR").filter(|value| !value.is_empty()).map(PathBuf::from);
    told.unwrap_or_else(|| PathBuf::from("/var/tmp"))
}

/// Makes an image.
fn make(choice: &DriveChoice, size: u64) -> Result<(), Failure> {
    let path = &choice.path;
    let format = choice.format.unwrap_or_else(|| img::by_ending(path));
    if choice.read_only {
        return Err(Failure::input(
            path.display(),
            "there is no image, and nothing can be written",
            "leave readonly out",
        ));
    }
    if !matches!(format, Format::Raw | Format::Qcow2) {
        let cause = format!("no new image of the format {} is made here", format.name());
        return Err(Failure::input(path.display(), cause, "make it a qcow2, or use 'husk img create'"));
    }
    block_on(disk::create(&CreateOptions::new(path, format, size))).map_err(|error| img::failed(&error))?;
    tracing::info!("{}: made, {}, {}", path.display(), format.name(), size::show(size));
    Ok(())
}

/// The format that a name tells, of those that name other files. A guest can write what it likes into a raw disk, but it
/// names no file of the host.
fn by_name(path: &Path) -> Option<Format> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    match ending.to_ascii_lowercase().as_str() {
        "qcow2" => Some(Format::Qcow2),
        "vmdk" => Some(Format::Vmdk),
        _ => None,
    }
}

/// Refuses an image of which nobody but its own first bytes says that it may name files of the host. It may have been a raw
/// disk once, of a guest that wanted to read them.
fn names_nothing(path: &Path) -> Result<(), Failure> {
    let alone = OpenOptions { read_only: true, alone: true, unlocked: true, ..OpenOptions::new(path) };
    // What is wrong with it otherwise is told when it is opened.
    let Ok(image) = block_on(disk::open(alone)) else { return Ok(()) };
    let info = image.info();
    let data = info.details.iter().any(|(name, _)| *name == "data file");
    let cause = match info.backing {
        Some(backing) => {
            format!("nobody but the image itself says that it is {}, and it names {}", info.format, backing.name)
        }
        None if data => {
            format!("nobody but the image itself says that it is {}, and it names a data file", info.format)
        }
        // What it names does not show.
        None if info.format == Format::Vmdk.name() => {
            format!("nobody but the image itself says that it is {}, whose data may be in other files", info.format)
        }
        None => return Ok(()),
    };
    let fix = format!("add format={} if no guest can have written that", info.format);
    Err(Failure::input(path.display(), cause, fix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_disks_are_read() {
        let choice = disk("a,,b.img,format=raw,bus=ide,size=20G,readonly,snapshot,serial=X1,boot=2").unwrap();
        assert_eq!(choice.path, Path::new("a,b.img"));
        assert_eq!((choice.format, choice.bus, choice.size), (Some(Format::Raw), Some(DiskBus::Ide), Some(20 << 30)));
        assert!(choice.read_only && choice.snapshot);
        assert_eq!((choice.serial.as_deref(), choice.boot), (Some("X1"), Some(2)));
        let disc = cd("x.iso,boot=0").unwrap();
        assert!(disc.read_only && disc.format == Some(Format::Raw) && disc.drive == Drive::Cd);
    }

    #[test]
    fn wrong_options_of_disks_are_named() {
        for (text, says) in [
            ("", "give the file"),
            (",readonly", "give the file"),
            ("x,format=qcow3", "qcow3 is unknown"),
            ("x,bus=sasi", "take one of ide"),
            ("x,size=many", "size=many"),
            ("x,size=0", "size=20G"),
            ("x,serial=", "1 to 20"),
            ("x,serial=123456789012345678901", "1 to 20"),
            ("x,boot=first", "0 is the first"),
            ("x,readonly=on", "no option readonly=on"),
            ("x,", "no option ;"),
        ] {
            assert!(disk(text).is_err_and(|why| why.contains(says)), "{text}: {:?}", disk(text));
        }
        assert!(cd("x,size=2G").is_err() && boot("floppy").is_err());
    }

    #[test]
    fn the_boot_order_is_by_place_then_kind_then_order() {
        let drive = |text: &str| disk(text).unwrap();
        let drives = [drive("a"), cd("b").unwrap(), drive("c,boot=0"), drive("d")];
        assert_eq!(boot_order(&drives, &[]), [1, 3, 0, 2]);
        assert_eq!(boot_order(&drives, &[Drive::Cd]), [2, 1, 0, 3]);
        assert_eq!(boot_order(&drives, &[Drive::Cd, Drive::Disk]), [2, 1, 0, 3]);
    }
}
