//! Bad input gets exit code 2 and exactly one line that names the object, the cause and the fix.

use std::process::Command;

const HUSK: &str = env!("CARGO_BIN_EXE_husk");

/// Runs `husk` and returns its exit code and what it says on standard error.
fn husk(args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(HUSK).args(args).env_remove("RUST_LOG").env("HUSK_GUEST", "/nowhere").output().unwrap();
    assert!(output.stdout.is_empty(), "{args:?} wrote to standard output");
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn refused(args: &[&str], parts: &[&str]) {
    let (code, text) = husk(args);
    assert_eq!(code, Some(2), "{args:?}: {text}");
    assert!(text.ends_with('\n') && text.lines().count() == 1, "{args:?} does not say one line: {text:?}");
    assert!(text.starts_with("husk: "), "{args:?}: {text}");
    for part in parts {
        assert!(text.contains(part), "{args:?} does not name {part:?}: {text}");
    }
}

/// A file of the test's own with this content.
fn file(name: &str, bytes: &[u8]) -> String {
    let folder =
        std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("bad-input-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The header of a bzImage of boot protocol 2.15 for 64 bits, and a part of what it promises.
fn bz_image(len: usize) -> Vec<u8> {
    let mut image = vec![0u8; 0x2000];
    image[0x1f1] = 1;
    image[0x1f4..0x1f8].copy_from_slice(&0x1c0u32.to_le_bytes());
    image[0x1fe..0x202].copy_from_slice(&[0x55, 0xaa, 0xeb, 0x6a]);
    image[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
    image[0x211] = 1;
    image[0x214..0x218].copy_from_slice(&0x10_0000u32.to_le_bytes());
    image[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    image[0x230..0x234].copy_from_slice(&0x20_0000u32.to_le_bytes());
    image[0x234] = 1;
    image[0x236..0x238].copy_from_slice(&3u16.to_le_bytes());
    image[0x238..0x23c].copy_from_slice(&2047u32.to_le_bytes());
    image[0x258..0x260].copy_from_slice(&0x100_0000u64.to_le_bytes());
    image[0x260..0x264].copy_from_slice(&0x200_0000u32.to_le_bytes());
    image.truncate(len);
    image
}

#[test]
fn kernels() {
    let whole = file("whole", &bz_image(0x2000));
    refused(&["run", "--kernel", "/nowhere/vmlinuz"], &["kernel /nowhere/vmlinuz", "no such file", "check the path"]);
    refused(&["run", "--kernel", "/"], &["kernel /", "directory"]);
    let text = file("text", b"#!/bin/sh\necho I am no kernel\n");
    refused(&["run", "--kernel", &text], &[&text, "not a Linux kernel", "bzImage"]);
    refused(&["run", "--kernel", &file("empty", b"")], &["kernel", "; "]);
    refused(&["run", "--kernel", &file("cut", &bz_image(0x600))], &["truncated", "; "]);
    refused(&["run", "--kernel", &file("short", &bz_image(0x210))], &["kernel", "; "]);
    refused(&["run", "--kernel", &whole, "--entry", "pvh"], &["pvh", "use"]);
    refused(&["run"], &["default guest", "/nowhere", "cargo xtask guest"]);
}

#[test]
fn initrds() {
    let kernel = file("kernel", &bz_image(0x2000));
    refused(&["run", "--kernel", &kernel, "--initrd", "/nowhere/initrd"], &["initrd /nowhere/initrd", "no such file"]);
    refused(&["run", "--kernel", &kernel, "--initrd", "/"], &["initrd /", "directory"]);
    refused(&["run", "--kernel", &kernel, "--initrd", "/dev/zero"], &["initrd /dev/zero", "memory"]);
}

#[test]
fn sizes_of_machines() {
    let kernel = file("sizes", &bz_image(0x2000));
    refused(&["run", "--kernel", &kernel, "--memory", "1M"], &["1 MiB", "q35-1", "choose"]);
    refused(&["run", "--kernel", &kernel, "--memory", "16M"], &["16 MiB", "too little", "at least"]);
    refused(&["run", "--kernel", &kernel, "--memory", "900T"], &["900 TiB", "the host has only", "less"]);
    refused(&["run", "--memory", "5X"], &["--memory 5X", "512M"]);
    refused(&["run", "--cpus", "0"], &["--cpus 0", "1 or more"]);
    refused(&["run", "--cpus", "two"], &["--cpus two", "1 or more"]);
    refused(&["run", "--kernel", &kernel, "--cpus", "100000"], &["100000 CPUs", "give it 1 to"]);
}

#[test]
fn names() {
    refused(&["run", "--cpu", "486"], &["--cpu 486", "x86-64-v2", "x86-64-v3"]);
    refused(&["run", "--machine", "pdp-11"], &["--machine pdp-11", "q35-1"]);
    refused(&["run", "--engine", "steam"], &["--engine steam", "soft"]);
    refused(&["run", "--engine", "steam"], &["auto, kvm, soft"]);
    refused(&["run", "--engine", "kvm,jit=on"], &["--engine kvm,jit=on", "kvm has no options", "leave it out"]);
    refused(&["run", "--engine", "soft,jit=maybe"], &["--engine soft,jit=maybe", "on, off, lockstep"]);
    refused(&["run", "--engine", "soft,cache=1K"], &["--engine soft,cache=1K", "1 KiB", "1 MiB to 1 GiB"]);
    refused(&["run", "--entry", "back"], &["--entry back", "auto, boot64, boot32, pvh"]);
    refused(&["run", "--serial", "moon"], &["--serial moon", "stdio"]);
    refused(&["run", "--kernel"], &["--kernel", "missing"]);
    refused(&["run", "--reboot", "never"], &["--reboot never", "restart, exit"]);
    refused(&["walk"], &["walk", "--help"]);
    refused(&["--log", "vm=loud", "run"], &["--log vm=loud", "vm=trace"]);
}

#[test]
fn an_unreadable_file_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let path = file("secret", &bz_image(0x2000));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::File::open(&path).is_ok() {
        eprintln!("SKIPPED: this user may read everything");
        return;
    }
    refused(&["run", "--kernel", &path], &[&path, "permission denied", "permissions"]);
}
