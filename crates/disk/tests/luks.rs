//! LUKS, both ways against `qemu-img`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use disk::file::{Access, HostFile};
use disk::luks::{Hash, LuksImage, Mode, Parameters};
use disk::{Erase, Error, Image, block_on, read_at, write_at};

const PASSPHRASE: &str = "correct horse";

fn folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("luks-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn qemu_img(args: &[&str]) {
    let secret = format!("secret,id=s,data={PASSPHRASE}");
    let (verb, rest) = args.split_first().unwrap();
    let run = || {
        let output = Command::new("qemu-img").args([verb, "--object", &secret]).args(rest).output();
        output.expect("qemu-img runs: install qemu-utils")
    };
    let mut output = run();
    // It measures how fast it derives keys, and gives up when a tick of the clock is too coarse for that.
    for _ in 0..20 {
        if !String::from_utf8_lossy(&output.stderr).contains("accurate CPU usage") {
            break;
        }
        output = run();
    }
    assert!(output.status.success(), "qemu-img {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn open(path: &Path, access: Access) -> disk::Result<LuksImage> {
    LuksImage::open(Arc::new(HostFile::open(path, access)?), PASSPHRASE.as_bytes())
}

fn content(len: usize) -> Vec<u8> {
    (0..len as u32).map(|n| (n ^ (n >> 8).wrapping_mul(31)) as u8).collect()
}

#[test]
fn what_qemu_img_encrypts_opens() {
    let folder = folder("theirs");
    let (raw, image) = (folder.join("raw"), folder.join("image"));
    let content = content(1 << 20);
    std::fs::write(&raw, &content).unwrap();
    for options in [
        "cipher-alg=aes-256,cipher-mode=xts,ivgen-alg=plain64,hash-alg=sha256",
        "cipher-alg=aes-128,cipher-mode=xts,ivgen-alg=plain64,hash-alg=sha1",
        "cipher-alg=aes-256,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256,hash-alg=sha512",
        "cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=plain,hash-alg=sha1",
    ] {
        let options = format!("{options},key-secret=s,iter-time=10");
        let (from, to) = (raw.to_str().unwrap(), image.to_str().unwrap());
        qemu_img(&["convert", "-f", "raw", "-O", "luks", "-o", &options, from, to]);
        let opened = open(&image, Access::Read).unwrap_or_else(|error| panic!("{options}: {error}"));
        assert_eq!(opened.info().size, content.len() as u64);
        let mut bytes = vec![0; content.len()];
        block_on(read_at(&opened, 0, &mut bytes)).unwrap();
        assert!(bytes == content, "{options}");
        let mut few = [0; 700];
        block_on(read_at(&opened, 1000, &mut few)).unwrap();
        assert_eq!(few, content[1000..1700]);
        drop(opened);
        let file = Arc::new(HostFile::open(&image, Access::Read).unwrap());
        let wrong = LuksImage::open(file, b"battery staple").err().unwrap();
        assert!(matches!(wrong, Error::Locked { .. }) && wrong.to_string().contains("passphrase is wrong"), "{wrong}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_is_encrypted_here_opens_in_qemu_img() {
    let folder = folder("ours");
    let (raw, image) = (folder.join("raw"), folder.join("image"));
    for (mode, key_len, hash) in [
        ("xts-plain64", 64, Hash::Sha256),
        ("xts-plain64", 32, Hash::Sha1),
        ("cbc-essiv:sha256", 32, Hash::Sha256),
        ("cbc-plain64", 16, Hash::Sha512),
    ] {
        let _ = std::fs::remove_file(&image);
        let parameters =
            Parameters { mode: Mode::by_name(mode).unwrap(), key_len, hash, effort: Duration::from_millis(10) };
        let file = Arc::new(HostFile::create(&image).unwrap());
        let made = LuksImage::create(file, 1 << 20, &parameters, PASSPHRASE.as_bytes()).unwrap();
        // Whole, then some bytes across sectors, within one, and zeros.
        let mut content = content(1 << 20);
        block_on(write_at(&made, 0, &content)).unwrap();
        for (at, len) in [(100, 3000), (5000, 7), (8191, 2), (8192, 513), ((1 << 20) - 5, 5)] {
            content[at..at + len].fill(0x77);
            block_on(write_at(&made, at as u64, &vec![0x77; len])).unwrap();
        }
        content[70_000..140_001].fill(0);
        block_on(made.erase(70_000, 70_001, Erase::Zero)).unwrap();
        block_on(made.resize((1 << 20) + 4096)).unwrap();
        content.resize((1 << 20) + 4096, 0);
        block_on(made.flush()).unwrap();
        drop(made);
        let from = format!("driver=luks,key-secret=s,file.filename={}", image.display());
        qemu_img(&["convert", "--image-opts", "-O", "raw", &from, raw.to_str().unwrap()]);
        assert!(std::fs::read(&raw).unwrap() == content, "{mode} {key_len}");
        let again = open(&image, Access::Write).unwrap();
        let mut bytes = vec![0; content.len()];
        block_on(read_at(&again, 0, &mut bytes)).unwrap();
        assert!(bytes == content, "{mode} {key_len}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn broken_images_are_refused() {
    let folder = folder("broken");
    let image = folder.join("image");
    let parameters = Parameters { effort: Duration::from_millis(1), ..Parameters::default() };
    let file = Arc::new(HostFile::create(&image).unwrap());
    drop(LuksImage::create(file, 1 << 20, &parameters, PASSPHRASE.as_bytes()).unwrap());
    let whole = std::fs::read(&image).unwrap();
    for len in [0, 6, 100, 592, 5000, 300_000] {
        std::fs::write(&image, &whole[..len]).unwrap();
        assert!(open(&image, Access::Read).is_err(), "cut to {len}");
    }
    let file = Arc::new(HostFile::create(&folder.join("odd")).unwrap());
    let odd = LuksImage::create(file, 1000, &parameters, PASSPHRASE.as_bytes());
    assert!(matches!(odd, Err(Error::Invalid { .. })));
    std::fs::remove_dir_all(folder).unwrap();
}
