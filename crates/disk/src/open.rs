//! Opening whatever is there, with everything behind it.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::file::{Access, HostFile};
use crate::image::{Image, read_at};
use crate::import::Foreign;
use crate::probed::{FIRST, LAST, ProbedRaw};
use crate::qcow2::{self, Encryption, Qcow2};
use crate::raw::Raw;

/// Most images in a chain.
const MOST_CHAIN: usize = 200;

/// A format of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// The disk's bytes and nothing else.
    Raw,
    /// QEMU's format.
    Qcow2,
    /// A raw disk encrypted by LUKS.
    Luks,
    /// VMware's, for reading.
    Vmdk,
    /// VirtualBox's, for reading.
    Vdi,
    /// Microsoft's old one (also `vpc`), for reading.
    Vhd,
    /// Microsoft's new one, for reading.
    Vhdx,
}

impl Format {
    /// As commands and headers name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Luks => "luks",
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
            Self::Vhd => "vpc",
            Self::Vhdx => "vhdx",
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        Ok(match name {
            "raw" | "file" | "host_device" => Self::Raw,
            "qcow2" => Self::Qcow2,
            "luks" => Self::Luks,
            "vmdk" => Self::Vmdk,
            "vdi" => Self::Vdi,
            "vpc" | "vhd" => Self::Vhd,
            "vhdx" => Self::Vhdx,
            _ => {
                return Err(format!(
                    "the format {name} is unknown; raw, qcow2, luks, vmdk, vdi, vpc and vhdx are known"
                ));
            }
        })
    }
}

/// Gives the key of an encrypted image.
pub trait Unlock: Send + Sync {
    /// The cipher of a qcow2 image whose header of LUKS is `header`.
    ///
    /// # Errors
    /// A wrong passphrase, a damaged header.
    fn qcow2(&self, path: &Path, header: &[u8]) -> Result<Encryption>;

    /// The disk inside of a plain LUKS image.
    ///
    /// # Errors
    /// A wrong passphrase, a damaged header.
    fn luks(&self, path: &Path, file: Arc<dyn Image>) -> Result<Arc<dyn Image>>;
}

/// How an image is opened.
#[derive(Clone)]
pub struct OpenOptions {
    /// The file.
    pub path: PathBuf,
    /// Its format; by its first bytes when it is not told. A guest could write a header of another format into a raw disk,
    /// and name any file of the host as its backing file there: such writes to a disk whose format was not told are
    /// refused, but who can tells the format.
    pub format: Option<Format>,
    /// For reading only.
    pub read_only: bool,
    /// Reads even what another process writes; for reading only.
    pub unlocked: bool,
    /// Without the images behind it, and without repairing it first: for its description and for checks.
    pub alone: bool,
    /// Another backing file than the one that the image names.
    pub backing: Option<Arc<dyn Image>>,
    /// Backing files that do not tell their format are probed. Else they must tell it.
    pub probe_backing: bool,
    /// The key, for encrypted images.
    pub unlock: Option<Arc<dyn Unlock>>,
}

impl OpenOptions {
    /// The image at `path`, its format by its first bytes, for reading and writing.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            format: None,
            read_only: false,
            unlocked: false,
            alone: false,
            backing: None,
            probe_backing: false,
            unlock: None,
        }
    }
}

/// The format that a file's first bytes show; raw when they show none.
///
/// # Errors
/// Refusals of the host.
pub async fn probe(file: &dyn Image) -> Result<Format> {
    let mut first = [0; FIRST];
    read_at(file, 0, &mut first).await?;
    if qcow2::looks_like(&first) {
        return Ok(Format::Qcow2);
    }
    if first.starts_with(b"LUKS\xba\xbe") {
        return Ok(Format::Luks);
    }
    let mut end = [0; LAST];
    let size = file.info().size;
    if size >= 1024 {
        read_at(file, size - LAST as u64, &mut end).await?;
    }
    let start = first.get(..size.min(FIRST as u64) as usize).unwrap_or(&first);
    Ok(match Foreign::probe(start, &end) {
        Some(Foreign::Vmdk) => Format::Vmdk,
        Some(Foreign::Vdi) => Format::Vdi,
        Some(Foreign::Vhd) => Format::Vhd,
        Some(Foreign::Vhdx) => Format::Vhdx,
        None => Format::Raw,
    })
}

/// Opens an image with its chain of backing files.
///
/// # Errors
/// Everything that [`Error`] tells of: files that are not there, in use or damaged; backing files that are missing, loop,
/// or do not tell their format; encryption without a key.
pub async fn open(options: OpenOptions) -> Result<Arc<dyn Image>> {
    open_at(options, &mut Vec::new()).await
}

async fn open_at(options: OpenOptions, chain: &mut Vec<PathBuf>) -> Result<Arc<dyn Image>> {
    let path = options.path.clone();
    let real = std::fs::canonicalize(&path).map_err(|e| Error::host(&path, "open the image", e))?;
    if chain.contains(&real) {
        return Err(Error::invalid(&path, "the chain of backing files loops: the image is behind itself"));
    }
    if chain.len() >= MOST_CHAIN {
        return Err(Error::invalid(&path, format!("the chain of backing files has more than {MOST_CHAIN} images")));
    }
    chain.push(real);
    let access = match (options.read_only, options.unlocked) {
        (_, true) => Access::ReadUnlocked,
        (true, false) => Access::Read,
        (false, false) => Access::Write,
    };
    let file: Arc<dyn Image> = Arc::new(HostFile::open(&path, access)?);
    let format = match options.format {
        Some(format) => format,
        None => probe(&*file).await?,
    };
    match format {
        // Who only reads it decides nothing.
        Format::Raw if options.format.is_none() && access == Access::Write => {
            Ok(Arc::new(ProbedRaw::new(Arc::new(Raw::new(file)))))
        }
        Format::Raw => Ok(Arc::new(Raw::new(file))),
        Format::Qcow2 => open_qcow2(file, options, chain).await,
        Format::Luks => match &options.unlock {
            Some(unlock) => unlock.luks(&path, file),
            None => Err(Error::Locked { path, what: "the image is encrypted: give its passphrase".into() }),
        },
        Format::Vmdk => foreign(Foreign::Vmdk, file, access),
        Format::Vdi => foreign(Foreign::Vdi, file, access),
        Format::Vhd => foreign(Foreign::Vhd, file, access),
        Format::Vhdx => foreign(Foreign::Vhdx, file, access),
    }
}

/// An image of another program; files that it names are beside it.
fn foreign(format: Foreign, file: Arc<dyn Image>, access: Access) -> Result<Arc<dyn Image>> {
    let open = |path: &Path| -> Result<Arc<dyn Image>> {
        let access = if access == Access::ReadUnlocked { access } else { Access::Read };
        Ok(Arc::new(HostFile::open(path, access)?))
    };
    Ok(Arc::new(format.open(file, &open)?))
}

async fn open_qcow2(file: Arc<dyn Image>, options: OpenOptions, chain: &mut Vec<PathBuf>) -> Result<Arc<dyn Image>> {
    let path = &options.path;
    let named = qcow2::named(&*file).await?;
    let mut parts = qcow2::Parts { as_it_is: options.alone, ..qcow2::Parts::default() };
    if named.crypt_method != 0
        && let Some(unlock) = &options.unlock
    {
        // The old AES has no header.
        let (at, len) = named.crypt_header.unwrap_or_default();
        let mut header = vec![0; len.min(64 << 20) as usize];
        read_at(&*file, at, &mut header).await?;
        parts.encryption = Some(unlock.qcow2(path, &header)?);
    }
    if let Some(name) = named.data_file.as_ref().filter(|_| !options.alone) {
        if name.is_empty() {
            return Err(Error::unsupported(path, "the image does not say which its external data file is"));
        }
        let data = beside(path, name)?;
        let access = if options.unlocked {
            Access::ReadUnlocked
        } else if options.read_only {
            Access::Read
        } else {
            Access::Write
        };
        parts.data = Some(Arc::new(HostFile::open(&data, access)?));
    }
    if options.backing.is_some() {
        parts.backing = options.backing.clone();
    } else if let Some(name) = named.backing.as_ref().filter(|_| !options.alone) {
        let inner = open_backing(&options, name, named.backing_format.as_deref(), chain);
        let backing = Box::pin(inner).await;
        parts.backing = Some(backing.map_err(|cause| Error::Backing { path: path.clone(), cause: Box::new(cause) })?);
    }
    Ok(Arc::new(Qcow2::open(file, parts).await?))
}

async fn open_backing(
    options: &OpenOptions,
    name: &str,
    format: Option<&str>,
    chain: &mut Vec<PathBuf>,
) -> Result<Arc<dyn Image>> {
    let path = beside(&options.path, name)?;
    let format = match format {
        Some(format) => Some(format.parse().map_err(|e: String| Error::unsupported(&path, e))?),
        None if options.probe_backing => None,
        // A raw backing file is not to be taken for another format by what a guest once wrote into it: without a word
        // about the format only a header that is there is believed, and a raw disk is refused.
        None => {
            let what = format!(
                "{} does not tell the format of its backing file; write it in: husk img rebase --unsafe --backing-format FORMAT",
                options.path.display()
            );
            return Err(Error::unsupported(&path, what));
        }
    };
    let inner = OpenOptions {
        path,
        format,
        read_only: true,
        unlocked: options.unlocked,
        alone: false,
        backing: None,
        probe_backing: options.probe_backing,
        unlock: options.unlock.clone(),
    };
    Box::pin(open_at(inner, chain)).await
}

/// The file that an image names: relative names are relative to the image's folder.
pub(crate) fn beside(image: &Path, name: &str) -> Result<PathBuf> {
    let plain = name.strip_prefix("file:").unwrap_or(name);
    let scheme = plain.split_once(':').is_some_and(|(s, _)| !s.is_empty() && !s.contains('/'));
    if scheme {
        let what = format!("it names {name:?}, which is no file of the host: bring it here and rebase to that");
        return Err(Error::unsupported(image, what));
    }
    Ok(qcow2::folder(image).join(plain))
}
