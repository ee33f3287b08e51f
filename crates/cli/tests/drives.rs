//! What is wrong with a disk of `husk run` is told in one line that names the disk, the cause and the fix, before anything
//! runs.

use std::process::Command;

use testkit::folder::Folder;

const HUSK: &str = env!("CARGO_BIN_EXE_husk");

/// Runs `husk` in a folder; its exit code and what it says on standard error.
fn husk(folder: &Folder, args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(HUSK).args(args).current_dir(&**folder).env_remove("RUST_LOG").output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// `husk img` that must succeed.
fn img(folder: &Folder, args: &[&str]) {
    let (code, text) = husk(folder, &[&["img"], args].concat());
    assert_eq!(code, Some(0), "{args:?}: {text}");
}

fn refused(folder: &Folder, args: &[&str], parts: &[&str]) {
    let (code, text) =
        husk(folder, &[&["run", "--engine", "soft", "--serial", "none", "--control", "none"], args].concat());
    assert_eq!(code, Some(2), "{args:?}: {text}");
    assert!(text.ends_with('\n') && text.lines().count() == 1, "{args:?} does not say one line: {text:?}");
    for part in parts {
        assert!(text.contains(part), "{args:?} does not name {part:?}: {text}");
    }
}

#[test]
fn what_is_not_there() {
    let folder = Folder::new("drives-missing");
    refused(&folder, &["gone.qcow2"], &["gone.qcow2", "no such file", "size=20G"]);
    refused(&folder, &["--cdrom", "gone.iso"], &["gone.iso", "no such file", "check the path"]);
    refused(&folder, &["--disk", "no/new.qcow2,size=1G"], &["no/new.qcow2", "no such file"]);
    refused(&folder, &["--disk", "new.vdi,size=1G"], &["new.vdi", "vdi", "make it a qcow2"]);
    refused(&folder, &["--disk", "new.qcow2,size=1G,readonly"], &["new.qcow2", "leave readonly out"]);
    std::fs::create_dir(folder.join("folder")).unwrap();
    refused(&folder, &["folder"], &["folder", "a file or a block device"]);
    std::fs::write(folder.join("empty.img"), b"").unwrap();
    refused(&folder, &["empty.img"], &["empty.img", "no bytes", "resize"]);
}

#[test]
fn what_is_no_option() {
    let folder = Folder::new("drives-options");
    refused(&folder, &["--disk", "x,bus=sasi"], &["--disk x,bus=sasi", "ide", "virtio"]);
    refused(&folder, &["--disk", "x,format=qcow3"], &["qcow3", "raw, qcow2"]);
    refused(&folder, &["--disk", "x,readwrite"], &["readwrite", "readonly"]);
    refused(&folder, &["--cdrom", "x,size=2G"], &["size=2G", "bus=, boot="]);
    refused(&folder, &["--boot", "floppy"], &["--boot floppy", "disk, cdrom"]);
    img(&folder, &["create", "--quiet", "x.qcow2", "1M"]);
    refused(&folder, &["--machine", "q35", "--disk", "x.qcow2,bus=ide"], &["q35-1", "IDE", "--machine pc"]);
    refused(&folder, &["--disk", "x.qcow2", "--disk", "x.qcow2"], &["x.qcow2", "in use"]);
}

#[test]
fn damaged_and_hostile_images() {
    let folder = Folder::new("drives-damaged");
    img(&folder, &["create", "--quiet", "x.qcow2", "1M"]);
    let whole = std::fs::read(folder.join("x.qcow2")).unwrap();
    std::fs::write(folder.join("cut.qcow2"), &whole[..60]).unwrap();
    refused(&folder, &["cut.qcow2"], &["cut.qcow2", "damaged"]);
    let mut hostile = whole.clone();
    // The place of the first table, and its length.
    hostile[36..48].fill(0xff);
    std::fs::write(folder.join("hostile.qcow2"), &hostile).unwrap();
    refused(&folder, &["hostile.qcow2"], &["hostile.qcow2"]);
    std::fs::write(folder.join("raw.qcow2"), vec![0; 1 << 20]).unwrap();
    refused(&folder, &["raw.qcow2"], &["raw.qcow2", "does not begin with a header"]);
}

#[test]
fn images_behind_images() {
    let folder = Folder::new("drives-chains");
    img(&folder, &["create", "--quiet", "a.qcow2", "1M"]);
    img(&folder, &["create", "--quiet", "-b", "a.qcow2", "-F", "qcow2", "b.qcow2"]);
    std::fs::copy(folder.join("b.qcow2"), folder.join("b.img")).unwrap();
    refused(&folder, &["b.img"], &["b.img", "nobody but the image itself", "a.qcow2", "format=qcow2"]);
    // What a guest can write onto a raw disk of its own, to be shown another one's.
    std::fs::write(folder.join("secret.raw"), vec![7; 1 << 20]).unwrap();
    let description = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
                       RW 2048 FLAT \"secret.raw\" 0\n";
    std::fs::write(folder.join("v.img"), description).unwrap();
    refused(&folder, &["--snapshot", "v.img"], &["v.img", "nobody but the image itself", "format=vmdk"]);
    std::fs::rename(folder.join("a.qcow2"), folder.join("c.qcow2")).unwrap();
    refused(&folder, &["b.qcow2"], &["b.qcow2", "backing file", "a.qcow2", "no such file"]);
    std::fs::copy(folder.join("b.qcow2"), folder.join("a.qcow2")).unwrap();
    refused(&folder, &["b.qcow2"], &["backing file", "loops"]);
}

#[test]
fn encrypted_images() {
    let folder = Folder::with("drives-encrypted", &[("right", "abc\n"), ("wrong", "abd\n")]);
    let luks = ["-o", "encrypt.format=luks,encrypt.iter-time=1", "--passphrase-file", "right"];
    img(&folder, &[&["create", "--quiet", "x.qcow2", "1M"], &luks[..]].concat());
    refused(&folder, &["x.qcow2"], &["x.qcow2", "encrypted", "--passphrase-file"]);
    refused(&folder, &["x.qcow2", "--passphrase-file", "wrong"], &["x.qcow2", "the passphrase is wrong"]);
    refused(&folder, &["x.qcow2", "--passphrase-file", "gone"], &["gone", "no such file"]);
}

#[test]
fn what_only_a_kernel_can_use() {
    let folder = Folder::new("drives-without-kernel");
    img(&folder, &["create", "--quiet", "x.qcow2", "1M"]);
    refused(&folder, &["x.qcow2", "--append", "quiet"], &["--append", "no kernel", "--kernel"]);
}

#[test]
fn a_kernel_is_no_disk() {
    let folder = Folder::new("drives-kernel");
    let mut kernel = vec![0; 4096];
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    std::fs::write(folder.join("vmlinuz"), kernel).unwrap();
    refused(&folder, &["vmlinuz"], &["vmlinuz", "Linux kernel", "--kernel"]);
}
