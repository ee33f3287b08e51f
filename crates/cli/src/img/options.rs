//! The options of a new image, `-o NAME=VALUE`.

use std::path::Path;
use std::time::Duration;

use disk::luks::{Hash, Mode, Numbering, Parameters};
use disk::qcow2::Compression;
use disk::{CreateOptions, Format, Preallocation};

use super::values::{Pair, bytes};
use crate::failure::Failure;

/// What is asked of a new image.
pub(crate) struct Wanted {
    /// What `disk` makes.
    pub(crate) create: CreateOptions,
    /// How it is encrypted, if it is.
    pub(crate) luks: Option<Parameters>,
}

/// Of encryption; each may be named or left to its default.
#[derive(Default)]
struct Cipher {
    bits: Option<usize>,
    cbc: Option<bool>,
    numbering: Option<Numbering>,
    hash: Option<Hash>,
    effort: Option<Duration>,
}

/// Reads the options for an image of this format, made at `temporary` and shown as `path`.
pub(crate) fn read(
    path: &Path,
    temporary: &Path,
    format: Format,
    size: u64,
    pairs: &[Pair],
) -> Result<Wanted, Failure> {
    if !matches!(format, Format::Raw | Format::Qcow2 | Format::Luks) {
        let cause = format!("{} images are only read", format.name());
        return Err(Failure::input(path.display(), cause, "make a qcow2 or raw one"));
    }
    let mut create = CreateOptions::new(temporary, format, size);
    let mut cipher = Cipher::default();
    let mut encrypted = format == Format::Luks;
    for Pair { name, value } in pairs {
        let wrong = |cause: String| Failure::input(format!("-o {name}={value}"), cause, "see 'husk img create --help'");
        let taken = match (format, name.as_str()) {
            (Format::Qcow2, "encrypt.format") => {
                if value != "luks" {
                    return Err(wrong("there is no such encryption".to_owned()));
                }
                encrypted = true;
                true
            }
            (Format::Qcow2, name) if name.starts_with("encrypt.") => {
                set_cipher(&mut cipher, &name["encrypt.".len()..], value).map_err(wrong)?
            }
            (Format::Qcow2, name) => set_qcow2(&mut create, name, value).map_err(wrong)?,
            (Format::Luks, name) => set_cipher(&mut cipher, name, value).map_err(wrong)?,
            (_, "preallocation") => {
                set_preallocation(&mut create, value).map_err(wrong)?;
                create.preallocation != Preallocation::Metadata
            }
            _ => false,
        };
        if !taken {
            return Err(wrong(format!("{} images have no such option", format.name())));
        }
    }
    let luks = encrypted.then(|| parameters(&cipher));
    Ok(Wanted { create, luks })
}

fn switch(value: &str) -> Result<bool, String> {
    match value {
        "on" | "yes" | "true" => Ok(true),
        "off" | "no" | "false" => Ok(false),
        _ => Err("it is on or off".to_owned()),
    }
}

fn set_preallocation(create: &mut CreateOptions, value: &str) -> Result<(), String> {
    create.preallocation = match value {
        "off" => Preallocation::Off,
        "metadata" => Preallocation::Metadata,
        "falloc" => Preallocation::Falloc,
        "full" => Preallocation::Full,
        _ => return Err("it is off, metadata, falloc or full".to_owned()),
    };
    Ok(())
}

fn set_qcow2(create: &mut CreateOptions, name: &str, value: &str) -> Result<bool, String> {
    let layout = &mut create.layout;
    match name {
        "compat" => {
            layout.version = match value {
                "1.1" | "v3" => 3,
                "0.10" | "v2" => 2,
                _ => return Err("it is 1.1 or 0.10".to_owned()),
            };
        }
        "cluster_size" => layout.cluster = bytes(value)?.try_into().map_err(|_| "it is 2M at most".to_owned())?,
        "refcount_bits" => layout.refcount_bits = value.parse().map_err(|_| "it is a number".to_owned())?,
        "lazy_refcounts" => layout.lazy_refcounts = switch(value)?,
        "extended_l2" => layout.extended_l2 = switch(value)?,
        "preallocation" => set_preallocation(create, value)?,
        "compression_type" => {
            layout.compression = match value {
                "zlib" => Compression::Zlib,
                "zstd" => Compression::Zstd,
                _ => return Err("it is zlib or zstd".to_owned()),
            };
        }
        "data_file" => layout.data_file = Some((value.to_owned(), layout.data_file.take().is_some_and(|(_, raw)| raw))),
        "data_file_raw" => {
            let name = layout.data_file.take().map(|(name, _)| name).unwrap_or_default();
            layout.data_file = Some((name, switch(value)?));
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn set_cipher(cipher: &mut Cipher, name: &str, value: &str) -> Result<bool, String> {
    match name {
        "cipher-alg" => {
            let bits = match value {
                "aes-128" => 128,
                "aes-192" => 192,
                "aes-256" => 256,
                _ => return Err("it is aes-256, aes-192 or aes-128".to_owned()),
            };
            cipher.bits = Some(bits);
        }
        "cipher-mode" => {
            cipher.cbc = Some(match value {
                "xts" => false,
                "cbc" => true,
                _ => return Err("it is xts or cbc".to_owned()),
            });
        }
        "ivgen-alg" => {
            cipher.numbering = Some(match value {
                "plain64" => Numbering::Plain64,
                "plain" => Numbering::Plain,
                "essiv" => Numbering::Essiv(Hash::Sha256),
                _ => return Err("it is plain64, plain or essiv".to_owned()),
            });
        }
        "hash-alg" => cipher.hash = Some(Hash::by_name(value).map_err(|error| error.to_string())?),
        "iter-time" => {
            let time = value.parse().ok().filter(|time| (1..=3_600_000).contains(time));
            cipher.effort = Some(Duration::from_millis(time.ok_or("it is a number of milliseconds, up to an hour")?));
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn parameters(cipher: &Cipher) -> Parameters {
    let cbc = cipher.cbc.unwrap_or(false);
    let numbering = cipher.numbering.unwrap_or(if cbc { Numbering::Essiv(Hash::Sha256) } else { Numbering::Plain64 });
    let bytes = cipher.bits.unwrap_or(256) / 8;
    let defaults = Parameters::default();
    Parameters {
        mode: if cbc { Mode::Cbc(numbering) } else { Mode::Xts(numbering) },
        // XTS has two keys.
        key_len: if cbc { bytes } else { bytes * 2 },
        hash: cipher.hash.unwrap_or(defaults.hash),
        effort: cipher.effort.unwrap_or(defaults.effort),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(format: Format, text: &str) -> Result<Wanted, String> {
        let pairs: Vec<Pair> = text.split(',').map(|pair| super::super::values::pair(pair).unwrap()).collect();
        read("x".as_ref(), "y".as_ref(), format, 1 << 20, &pairs).map_err(|failure| failure.to_string())
    }

    #[test]
    fn options_are_read() {
        let text = "compat=0.10,cluster_size=4k,lazy_refcounts,compression_type=zstd,preallocation=metadata";
        let Wanted { create, luks } = wanted(Format::Qcow2, text).ok().unwrap();
        assert_eq!((create.layout.version, create.layout.cluster), (2, 4096));
        assert!(create.layout.lazy_refcounts && luks.is_none());
        assert_eq!(create.preallocation, Preallocation::Metadata);
        let luks = wanted(Format::Qcow2, "encrypt.format=luks,encrypt.cipher-alg=aes-128").ok().unwrap().luks.unwrap();
        assert_eq!((luks.mode.name(), luks.key_len), ("xts-plain64".to_owned(), 32));
        let luks = wanted(Format::Luks, "cipher-mode=cbc,iter-time=5").ok().unwrap().luks.unwrap();
        assert_eq!((luks.mode.name(), luks.key_len), ("cbc-essiv:sha256".to_owned(), 32));
    }

    #[test]
    fn wrong_options_are_named() {
        for (format, text, says) in [
            (Format::Qcow2, "clustersize=4k", "no such option"),
            (Format::Qcow2, "compat=2", "1.1 or 0.10"),
            (Format::Qcow2, "cluster_size=x", "not a size"),
            (Format::Qcow2, "cluster_size=5G", "2M at most"),
            (Format::Qcow2, "encrypt.format=aes", "no such encryption"),
            (Format::Qcow2, "encrypt.secret=x", "no such option"),
            (Format::Raw, "cluster_size=4k", "raw images have no such option"),
            (Format::Raw, "preallocation=metadata", "raw images have no such option"),
            (Format::Luks, "iter-time=0", "milliseconds"),
            (Format::Vmdk, "x=y", "only read"),
        ] {
            let said = wanted(format, text).err().unwrap();
            assert!(said.contains(says), "{text}: {said}");
        }
    }
}
