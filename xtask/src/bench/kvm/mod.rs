//! `cargo xtask bench-kvm`: Husk on KVM beside QEMU on KVM, in one run in the lab (see [`crate::lab`]).

mod measure;
mod report;
mod tiny;
mod trace;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::lab::{self, Ending, Item, Job};
use crate::{guest, shell};

/// How it is measured.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// On this machine, which has a sound /dev/kvm, instead of in the lab
    #[arg(long)]
    here: bool,
    /// A `husk` that is built already
    #[arg(long, value_name = "PATH")]
    husk: Option<PathBuf>,
    /// The QEMU to compare with
    #[arg(long, value_name = "PATH", default_value = "qemu-system-x86_64", requires = "here")]
    qemu: PathBuf,
    /// A folder of QEMU's firmware
    #[arg(long, value_name = "FOLDER", requires = "here")]
    firmware: Vec<PathBuf>,
    /// The folder of the guest
    #[arg(long, value_name = "FOLDER", requires = "here")]
    guest: Option<PathBuf>,
    /// Where the figures go [default: docs/kvm.json, and a table in docs/KVM.md]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// QEMU's firmware that its machines with a direct boot need.
const FIRMWARE: [&str; 7] = [
    "bios-256k.bin",
    "bios-microvm.bin",
    "kvmvapic.bin",
    "linuxboot_dma.bin",
    "multiboot_dma.bin",
    "pvh.bin",
    "qboot.rom",
];

/// How long the lab may take.
const LIMIT: Duration = Duration::from_secs(1200);

/// Measures and keeps the figures; prints a table unless they go elsewhere.
pub(crate) fn run(options: &Options) -> Result<()> {
    let husk = match &options.husk {
        Some(husk) => std::path::absolute(husk)?,
        None => shell::build_husk("release")?,
    };
    let text = if options.here { here(options, husk)? } else { in_lab(options, husk)? };
    match &options.json {
        Some(path) => shell::write(path, text.as_bytes())?,
        None => {
            println!("{}", report::table(&text)?);
            let docs = shell::root().join("docs");
            shell::write(&docs.join("kvm.json"), text.as_bytes())?;
            shell::write(&docs.join("KVM.md"), report::page(&text)?.as_bytes())?;
        }
    }
    Ok(())
}

fn here(options: &Options, husk: PathBuf) -> Result<String> {
    let guest = match &options.guest {
        Some(folder) => folder.clone(),
        None => kernels()?,
    };
    let place = measure::Place { husk, qemu: options.qemu.clone(), firmware: options.firmware.clone(), guest };
    Ok(format!("{:#}\n", measure::all(&place, options.rounds)?))
}

/// The folder of the default guest, with its kernel as `vmlinux` too.
fn kernels() -> Result<PathBuf> {
    guest::assemble(guest::Choice::Cloud, false)?;
    let folder = guest::folder("cloud");
    let image = guest::read(&folder.join("vmlinuz"))?;
    let kernel = lab::unpacked(&image).context("the guest's kernel cannot be unpacked here")?;
    shell::write(&folder.join("vmlinux"), &kernel)?;
    Ok(folder)
}

fn in_lab(options: &Options, husk: PathBuf) -> Result<String> {
    let guest = kernels()?;
    let (qemu, firmware) = lab::qemu()?;
    let folders = if firmware.is_empty() {
        ["/usr/share/qemu", "/usr/share/seabios"].map(PathBuf::from).to_vec()
    } else {
        firmware
    };
    let this = std::env::current_exe().context("cannot find this program")?;
    let mut items = vec![Item::named(husk, "husk"), Item::named(this, "xtask"), Item::named(qemu, "qemu")];
    for name in ["vmlinuz", "vmlinux", "initrd"] {
        items.push(Item::named(guest.join(name), &format!("guest/{name}")));
    }
    for name in FIRMWARE {
        let found = folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file());
        items.push(Item::named(found.with_context(|| format!("QEMU has no {name}"))?, &format!("fw/{name}")));
    }
    let command = format!(
        "./xtask bench-kvm --here --husk /lab/husk --qemu /lab/qemu --firmware /lab/fw --guest /lab/guest --rounds {} \
         --json /out/kvm.json",
        options.rounds
    );
    let out = shell::root().join("target/lab/out");
    let job =
        Job { items, command, environment: Vec::new(), timeout: LIMIT, cpus: 2, memory: lab::MEMORY, out: Some(out) };
    let outcome = lab::run(&job, &mut |bytes| eprint!("{}", String::from_utf8_lossy(bytes)))?;
    if outcome.ending != Ending::Status(0) {
        bail!("nothing was measured: {:?}", outcome.ending);
    }
    let path = shell::root().join("target/lab/out/kvm.json");
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}
