//! The command line of `husk img`.

use std::path::PathBuf;

use clap::{Args as Group, Subcommand, ValueHint};
use disk::Format;

use super::values::{self, Change, Pair};

/// What is done with images.
#[derive(Debug, Subcommand)]
pub(crate) enum Img {
    /// Make a new image
    #[command(after_long_help = CREATE_HELP)]
    Create(Create),
    /// Say what an image is
    Info(Info),
    /// Copy an image into another format
    #[command(after_long_help = CONVERT_HELP)]
    Convert(Convert),
    /// Look for damage, and repair it
    Check(Check),
    /// Make the disk larger or smaller
    Resize(Resize),
    /// List, make, apply and delete the snapshots inside of a qcow2 image
    Snapshot(Snapshot),
    /// Write what an overlay holds into the image behind it
    Commit(Commit),
    /// Put another image behind an overlay
    Rebase(Rebase),
    /// Say where the data of a disk is, and where its holes are
    Map(Map),
    /// Compare two disks by what a guest would read
    Compare(Compare),
}

/// How an image is opened.
#[derive(Debug, Clone, Default, Group)]
pub(crate) struct Opening {
    /// The file with the passphrase of an encrypted image, of which a line end at its end is no part; `-` is standard
    /// input, /dev/fd/3 an open descriptor
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Read an image that is in use; what is read may be older than what is written meanwhile, or contradict itself
    #[arg(short = 'U', long)]
    pub(crate) force_share: bool,
}

/// How much is said on the way.
#[derive(Debug, Clone, Copy, Default, Group)]
pub(crate) struct Telling {
    /// Show the progress even if standard error is no terminal
    #[arg(short, long, conflicts_with = "quiet")]
    pub(crate) progress: bool,
    /// Say nothing but errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Create {
    /// The image to make
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// The size of its disk: 20G, 512M; a plain number counts bytes [default: that of the backing image]
    #[arg(value_name = "SIZE", value_parser = values::bytes)]
    pub(crate) size: Option<u64>,
    /// Its format: qcow2, raw or luks [default: by the name's ending, or qcow2]
    #[arg(short, long, value_name = "FORMAT", value_parser = values::format)]
    pub(crate) format: Option<Format>,
    /// The image behind it, whose content it has until that is overwritten; relative to the new image's folder
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) backing: Option<PathBuf>,
    /// The format of the image behind it [default: what is found there]
    #[arg(short = 'F', long, value_name = "FORMAT", requires = "backing", value_parser = values::format)]
    pub(crate) backing_format: Option<Format>,
    /// Options of the format
    #[arg(short, long = "option", value_name = "NAME=VALUE[,NAME=VALUE]...", value_delimiter = ',', value_parser = values::pair)]
    pub(crate) options: Vec<Pair>,
    /// The file with the passphrase for encryption, of which a line end at its end is no part; `-` is standard input,
    /// /dev/fd/3 an open descriptor
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Replace a file that is there
    #[arg(long)]
    pub(crate) force: bool,
    /// Say nothing but errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Info {
    /// The image
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Its format [default: what is found there]
    #[arg(short, long, value_name = "FORMAT", value_parser = values::format)]
    pub(crate) format: Option<Format>,
    /// Go through the images behind it as well
    #[arg(long)]
    pub(crate) chain: bool,
    /// For programs, with the names that qemu-img gives
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) opening: Opening,
}

#[derive(Debug, Group)]
pub(crate) struct Convert {
    /// The image to read
    #[arg(value_name = "SOURCE", value_hint = ValueHint::FilePath)]
    pub(crate) source: PathBuf,
    /// The image to make
    #[arg(value_name = "TARGET", value_hint = ValueHint::FilePath)]
    pub(crate) target: PathBuf,
    /// The format of the source [default: what is found there]
    #[arg(short, long, value_name = "FORMAT", value_parser = values::format)]
    pub(crate) format: Option<Format>,
    /// The format of the target: qcow2, raw or luks [default: by the name's ending, or qcow2]
    #[arg(short = 'O', long, value_name = "FORMAT", value_parser = values::format)]
    pub(crate) output_format: Option<Format>,
    /// Compress a qcow2: zlib is read everywhere, zstd is faster
    #[arg(short, long, value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "zlib", value_parser = ["zlib", "zstd"])]
    pub(crate) compress: Option<String>,
    /// Options of the target's format
    #[arg(short, long = "option", value_name = "NAME=VALUE[,NAME=VALUE]...", value_delimiter = ',', value_parser = values::pair)]
    pub(crate) options: Vec<Pair>,
    /// Put this image behind the target, and copy only what differs from it
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) backing: Option<PathBuf>,
    /// The format of the image behind the target [default: what is found there]
    #[arg(short = 'F', long, value_name = "FORMAT", requires = "backing", value_parser = values::format)]
    pub(crate) backing_format: Option<Format>,
    /// The file with the passphrase for the encryption of the target
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) target_passphrase_file: Option<PathBuf>,
    /// Replace a file that is there
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) opening: Opening,
    #[command(flatten)]
    pub(crate) telling: Telling,
}

#[derive(Debug, Group)]
pub(crate) struct Check {
    /// The image
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Its format [default: what is found there]
    #[arg(short, long, value_name = "FORMAT", value_parser = values::format)]
    pub(crate) format: Option<Format>,
    /// Repair what is found: `leaks` alone, which cost space and nothing else, or `all`
    #[arg(short, long, value_name = "WHAT", value_parser = ["leaks", "all"])]
    pub(crate) repair: Option<String>,
    /// For programs, with the names that qemu-img gives
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) opening: Opening,
    /// Say nothing but errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Resize {
    /// The image
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// The new size, or by how much it is larger or smaller: 30G, +10G, -5G; a plain number counts bytes
    #[arg(value_name = "[+-]SIZE", allow_hyphen_values = true, value_parser = values::change)]
    pub(crate) size: Change,
    /// Its format [default: what is found there]
    #[arg(short, long, value_name = "FORMAT", value_parser = values::format)]
    pub(crate) format: Option<Format>,
    /// Make it smaller: what is behind the new end is lost
    #[arg(long)]
    pub(crate) shrink: bool,
    #[command(flatten)]
    pub(crate) opening: Opening,
    /// Say nothing but errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Group)]
#[group(id = "what", required = false, multiple = false)]
pub(crate) struct SnapshotVerb {
    /// List them: what is done by default
    #[arg(short, long)]
    pub(crate) list: bool,
    /// Make one of this name
    #[arg(short, long, value_name = "NAME")]
    pub(crate) create: Option<String>,
    /// Go back to one: what was written since is lost
    #[arg(short, long, value_name = "SNAPSHOT")]
    pub(crate) apply: Option<String>,
    /// Delete one
    #[arg(short, long, value_name = "SNAPSHOT")]
    pub(crate) delete: Option<String>,
}

#[derive(Debug, Group)]
pub(crate) struct Snapshot {
    /// The image
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) verb: SnapshotVerb,
    /// For programs
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) opening: Opening,
    /// Say nothing but errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Commit {
    /// The overlay
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) opening: Opening,
    #[command(flatten)]
    pub(crate) telling: Telling,
}

#[derive(Debug, Group)]
pub(crate) struct Rebase {
    /// The overlay
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// The image to put behind it, relative to its folder; '' for none: then it holds everything itself
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) backing: String,
    /// The format of that image [default: what is found there]
    #[arg(short = 'F', long, value_name = "FORMAT", value_parser = values::format)]
    pub(crate) backing_format: Option<Format>,
    /// Change the name only: the new image is known to hold the same, as when it was moved
    #[arg(short = 'u', long = "unsafe")]
    pub(crate) trust: bool,
    #[command(flatten)]
    pub(crate) opening: Opening,
    #[command(flatten)]
    pub(crate) telling: Telling,
}

#[derive(Debug, Group)]
pub(crate) struct Map {
    /// The image
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Its format [default: what is found there]
    #[arg(short, long, value_name = "FORMAT", value_parser = values::format)]
    pub(crate) format: Option<Format>,
    /// For programs, with the names that qemu-img gives
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) opening: Opening,
}

#[derive(Debug, Group)]
pub(crate) struct Compare {
    /// An image
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) first: PathBuf,
    /// Another
    #[arg(value_name = "OTHER", value_hint = ValueHint::FilePath)]
    pub(crate) second: PathBuf,
    /// The format of the first [default: what is found there]
    #[arg(short, long, value_name = "FORMAT", value_parser = values::format)]
    pub(crate) format: Option<Format>,
    /// The format of the second [default: what is found there]
    #[arg(short = 'F', long, value_name = "FORMAT", value_parser = values::format)]
    pub(crate) other_format: Option<Format>,
    /// Disks of different sizes differ, even if the longer one has zeros there
    #[arg(short, long)]
    pub(crate) strict: bool,
    #[command(flatten)]
    pub(crate) opening: Opening,
    #[command(flatten)]
    pub(crate) telling: Telling,
}

/// The end of the long help of `husk img`.
pub(crate) const HELP: &str = "\
Formats:
  raw                   the disk's bytes and nothing else
  qcow2                 QEMU's: grows as needed, snapshots, compression, overlays, encryption
  luks                  a raw disk, encrypted; what cryptsetup and QEMU write
  vmdk vdi vhd vhdx     VMware's, VirtualBox's, Hyper-V's: read only, for convert

Exit codes:
  0        done
  1        check has found damage, or compare a difference
  2        bad input: nothing has been changed
  3        Husk itself or the host has failed
  128 + n  ended by signal n; a target that was not complete is gone";

const CREATE_HELP: &str = "\
Options of qcow2:
  compat=1.1|0.10        the version: 3 or 2
  cluster_size=SIZE      512 to 2M [default: 64k]
  refcount_bits=N        1 to 64, a power of two [default: 16]
  lazy_refcounts=on|off  fewer writes, a check after a crash
  extended_l2=on|off     allocation by 32nds of a cluster
  preallocation=off|metadata|falloc|full
  compression_type=zlib|zstd
  data_file=FILE         the data in a file of its own; data_file_raw=on|off
  encrypt.format=luks    encrypted; takes --passphrase-file
Options of raw:
  preallocation=off|falloc|full
Options of encryption (with `encrypt.` in front of them for qcow2):
  cipher-alg=aes-256|aes-192|aes-128, cipher-mode=xts|cbc, ivgen-alg=plain64|plain|essiv,
  hash-alg=sha256|sha1|sha512, iter-time=MILLISECONDS

Examples:
  husk img create disk.qcow2 20G
  husk img create disk.qcow2 20G -o cluster_size=128k,lazy_refcounts=on
  husk img create overlay.qcow2 -b base.qcow2
  husk img create secret.qcow2 20G -o encrypt.format=luks --passphrase-file FILE";

const CONVERT_HELP: &str = "\
The target appears when it is complete: until then it is a temporary file beside it, which is removed on failure.

Examples:
  husk img convert machine.vmdk machine.qcow2
  husk img convert disk.raw disk.qcow2 --compress=zstd
  husk img convert disk.qcow2 disk.raw";
