//! `husk img create` and `husk img convert`: new images.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use disk::file::HostFile;
use disk::luks::{LuksImage, Passphrase};
use disk::qcow2::Compression;
use disk::{Format, Image, OpenOptions, Unlock, block_on};

use super::args::{Convert, Create, Opening};
use super::copy::{self, Into};
use super::options::{self, Wanted};
use super::target::Target;
use super::{open, secret};
use crate::failure::Failure;
use crate::{print, size};

/// The format of a name's ending.
pub(crate) fn by_ending(path: &Path) -> Format {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
    match ending.as_str() {
        "raw" | "img" | "iso" => Format::Raw,
        "luks" => Format::Luks,
        "vmdk" => Format::Vmdk,
        "vdi" => Format::Vdi,
        "vhd" | "vpc" => Format::Vhd,
        "vhdx" => Format::Vhdx,
        _ => Format::Qcow2,
    }
}

/// A passphrase where one is needed, and none where none is.
fn passphrase(
    path: &Path,
    wanted: &Wanted,
    file: Option<&PathBuf>,
    option: &str,
) -> Result<Option<Passphrase>, Failure> {
    match (&wanted.luks, file) {
        (Some(_), Some(file)) => Ok(Some(Passphrase::new(secret::read(file)?))),
        (Some(_), None) => {
            Err(Failure::input(path.display(), "encryption needs a passphrase", format!("give it with {option}")))
        }
        (None, Some(_)) => {
            let fix = "make it luks, or a qcow2 with -o encrypt.format=luks";
            Err(Failure::input(option, "the new image is not encrypted", fix))
        }
        (None, None) => Ok(None),
    }
}

/// Notes the image behind the new one, which is opened for that.
fn put_behind(
    wanted: &mut Wanted,
    path: &Path,
    backing: &Path,
    format: Option<Format>,
    opening: &Opening,
) -> Result<Arc<dyn Image>, Failure> {
    if wanted.create.format != Format::Qcow2 {
        let cause = format!("{} images have no other behind them", wanted.create.format.name());
        return Err(Failure::input(path.display(), cause, "make it a qcow2"));
    }
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    let image = open::read(&folder.join(backing), format, opening)?;
    let Some(name) = backing.to_str() else {
        return Err(Failure::input(backing.display(), "the name is not in UTF-8", "rename it"));
    };
    wanted.create.layout.backing = Some((name.to_owned(), Some(image.info().format.to_owned())));
    Ok(image)
}

/// Makes the file of a new image, and opens it to be filled.
fn make(target: &Target, mut wanted: Wanted, passphrase: Option<Passphrase>) -> Result<Arc<dyn Image>, Failure> {
    let told = |error: disk::Error| target.failed(&error);
    let create = &mut wanted.create;
    let Some(passphrase) = passphrase else {
        block_on(disk::create(create)).map_err(told)?;
        let options = OpenOptions { format: Some(create.format), ..OpenOptions::new(target.temporary()) };
        return block_on(disk::open(options)).map_err(told);
    };
    let parameters = wanted.luks.unwrap_or_default();
    if create.format == Format::Luks {
        let file = Arc::new(HostFile::create(target.temporary()).map_err(told)?);
        let disk_size = create.size.unwrap_or_default();
        let image = LuksImage::create(file, disk_size, &parameters, passphrase.bytes()).map_err(told)?;
        return Ok(Arc::new(image));
    }
    let made = disk::luks::create(&parameters, passphrase.bytes());
    let (header, _) = made.map_err(|error| target.failed(&error.of(target.temporary())))?;
    create.layout.crypt_header = Some(header);
    block_on(disk::create(create)).map_err(told)?;
    let unlock = Some(Arc::new(passphrase) as Arc<dyn Unlock>);
    let options = OpenOptions { format: Some(create.format), unlock, ..OpenOptions::new(target.temporary()) };
    block_on(disk::open(options)).map_err(told)
}

fn whole_sectors(path: &Path, bytes: u64) -> Result<u64, Failure> {
    if bytes.is_multiple_of(512) {
        return Ok(bytes);
    }
    Err(Failure::input(path.display(), "a disk has whole sectors of 512 bytes", "give a multiple of that"))
}

/// Makes a new, empty image.
pub(crate) fn create(args: &Create) -> Result<ExitCode, Failure> {
    let format = args.format.unwrap_or_else(|| by_ending(&args.file));
    let disk_size = whole_sectors(&args.file, args.size.unwrap_or_default())?;
    let target = Target::new(&args.file, args.force)?;
    let mut wanted = options::read(&args.file, target.temporary(), format, disk_size, &args.options)?;
    let mut shown = disk_size;
    if let Some(backing) = &args.backing {
        // What is behind an encrypted overlay need not be encrypted, nor with the same passphrase; its size is in the clear.
        let opening = Opening::default();
        let behind = put_behind(&mut wanted, &args.file, backing, args.backing_format, &opening)?;
        shown = args.size.unwrap_or_else(|| behind.info().size.next_multiple_of(512));
        wanted.create.size = Some(shown);
    } else if args.size.is_none() {
        return Err(Failure::input(args.file.display(), "a new image needs a size", "give it one, as in 20G"));
    }
    let passphrase = passphrase(&args.file, &wanted, args.passphrase_file.as_ref(), "--passphrase-file")?;
    let image = make(&target, wanted, passphrase)?;
    block_on(image.close()).map_err(|error| target.failed(&error))?;
    drop(image);
    target.finish()?;
    if args.quiet {
        return Ok(ExitCode::SUCCESS);
    }
    print(format!("{}: {}, {}\n", args.file.display(), format.name(), size::show(shown)).as_bytes())
}

/// Copies an image into a new one.
pub(crate) fn convert(args: &Convert) -> Result<ExitCode, Failure> {
    let format = args.output_format.unwrap_or_else(|| by_ending(&args.target));
    let source = open::read(&args.source, args.format, &args.opening)?;
    let disk_size = source.info().size.next_multiple_of(512);
    let target = Target::new(&args.target, args.force)?;
    let mut wanted = options::read(&args.target, target.temporary(), format, disk_size, &args.options)?;
    if let Some(how) = &args.compress {
        if format != Format::Qcow2 {
            let cause = format!("{} images are not compressed", format.name());
            return Err(Failure::input("--compress", cause, "make it a qcow2"));
        }
        if wanted.luks.is_some() || wanted.create.layout.data_file.is_some() {
            let cause = "encrypted images and external data files are not compressed";
            return Err(Failure::input("--compress", cause, "leave it out"));
        }
        if how == "zstd" {
            wanted.create.layout.compression = Compression::Zstd;
        }
    }
    let behind = match &args.backing {
        Some(backing) => Some(put_behind(&mut wanted, &args.target, backing, args.backing_format, &args.opening)?),
        None => None,
    };
    let key = args.target_passphrase_file.as_ref();
    let passphrase = passphrase(&args.target, &wanted, key, "--target-passphrase-file")?;
    let noise = format == Format::Luks;
    let image = make(&target, wanted, passphrase)?;
    let done = match (&behind, args.compress.as_ref().and(image.as_qcow2())) {
        (Some(behind), _) => {
            let all = |_: &disk::Extent| true;
            copy::copy_difference(&*source, Some(&**behind), &*image, args.telling, all)
        }
        (None, Some(packed)) => copy::copy(&*source, Into::Packed(packed), args.telling),
        (None, None) if noise => copy::copy(&*source, Into::Noise(&*image), args.telling),
        (None, None) => copy::copy(&*source, Into::Empty(&*image), args.telling),
    };
    done.and_then(|()| block_on(image.close())).map_err(|error| target.failed(&error))?;
    drop(image);
    target.finish()?;
    if args.telling.quiet {
        return Ok(ExitCode::SUCCESS);
    }
    let on_host =
        std::fs::metadata(&args.target).map_or(0, |about| std::os::unix::fs::MetadataExt::blocks(&about) * 512);
    let (path, disk_size, on_host) = (args.target.display(), size::show(disk_size), size::show(on_host));
    print(format!("{path}: {}, {disk_size}, {on_host} on this host\n", format.name()).as_bytes())
}
