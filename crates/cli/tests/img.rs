//! `husk img` as its users meet it: what it makes is what `qemu-img` reads, and the other way round; and what is wrong gets one
//! line and leaves nothing behind.

use std::path::PathBuf;
use std::process::{Command, Output};

const HUSK: &str = env!("CARGO_BIN_EXE_husk");
const MIB: usize = 1 << 20;

/// A folder of the test's own.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("img-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn husk(&self, args: &[&str]) -> Output {
        Command::new(HUSK).arg("img").args(args).current_dir(&self.0).env_remove("RUST_LOG").output().unwrap()
    }

    /// Must work; answers with what it prints.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.husk(args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "husk img {args:?}: {error}");
        assert!(error.is_empty(), "husk img {args:?} says {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Must fail with this code and one line that has these parts.
    fn fails(&self, code: i32, args: &[&str], parts: &[&str]) {
        let output = self.husk(args);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "husk img {args:?}: {error}");
        assert!(output.stdout.is_empty(), "husk img {args:?} writes to standard output");
        assert!(error.starts_with("husk: ") && error.lines().count() == 1, "husk img {args:?}: {error:?}");
        for part in parts {
            assert!(error.contains(part), "husk img {args:?} does not say {part:?}: {error}");
        }
        self.nothing_unfinished();
    }

    fn refused(&self, args: &[&str], parts: &[&str]) {
        self.fails(2, args, parts);
    }

    fn nothing_unfinished(&self) {
        for entry in std::fs::read_dir(&self.0).unwrap() {
            let name = entry.unwrap().file_name().to_string_lossy().into_owned();
            assert!(!name.contains("unfinished"), "{name} is left behind");
        }
    }

    fn qemu_img(&self, args: &[&str]) -> String {
        let run = || {
            let output = Command::new("qemu-img").args(args).current_dir(&self.0).output();
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
        String::from_utf8(output.stdout).unwrap()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.0.join(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.0.join(name)).unwrap()
    }

    /// Bytes that the host spends on a file.
    fn on_host(&self, name: &str) -> u64 {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(self.0.join(name)).unwrap().blocks() * 512
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A disk of data, text and holes.
fn content(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for n in 0..24 {
        let (at, span) = (next() as usize % len, next() as usize % (150 << 10));
        for byte in &mut bytes[at..(at + span).min(len)] {
            *byte = if n % 3 == 0 { next() as u8 } else { b"husk"[n % 4] };
        }
    }
    bytes
}

#[test]
fn what_is_converted_reads_the_same_to_qemu_img() {
    let folder = Folder::new("ours");
    folder.write("disk.raw", &content(8 * MIB, 5));
    for (format, options) in [
        ("qcow2", &[][..]),
        ("qcow2", &["-o", "compat=0.10"]),
        ("qcow2", &["-o", "cluster_size=512"]),
        ("qcow2", &["-o", "cluster_size=2M,lazy_refcounts=on,refcount_bits=64"]),
        ("qcow2", &["-o", "extended_l2=on,cluster_size=128k"]),
        ("qcow2", &["-o", "preallocation=metadata,refcount_bits=1"]),
        ("qcow2", &["--compress"]),
        ("qcow2", &["--compress=zstd"]),
        ("qcow2", &["--compress=zlib", "-o", "cluster_size=4k"]),
        ("raw", &[]),
    ] {
        let args = [&["convert", "--force", "-O", format, "disk.raw", "copy"], options].concat();
        folder.ok(&args);
        let same = folder.qemu_img(&["compare", "-f", "raw", "-F", format, "disk.raw", "copy"]);
        assert!(same.contains("identical"), "{options:?}: {same}");
        if format == "qcow2" {
            folder.qemu_img(&["check", "copy"]);
            assert!(folder.ok(&["check", "copy"]).contains("nothing wrong"), "{options:?}");
        } else {
            assert!(folder.on_host("copy") <= folder.on_host("disk.raw") && folder.on_host("copy") < 8 << 20);
        }
        assert_eq!(folder.ok(&["compare", "disk.raw", "copy"]), "the disks are the same\n");
        folder.ok(&["convert", "--force", "copy", "back.raw"]);
        assert!(folder.read("back.raw") == folder.read("disk.raw"), "{options:?}");
    }
    folder.nothing_unfinished();
}

#[test]
fn what_qemu_img_makes_is_converted() {
    let folder = Folder::new("theirs");
    folder.write("disk.raw", &content(8 * MIB, 77));
    for (format, options) in [
        ("qcow2", &["-c"][..]),
        ("qcow2", &["-c", "-o", "compression_type=zstd"]),
        ("qcow2", &["-o", "cluster_size=512,compat=0.10"]),
        ("qcow2", &["-o", "extended_l2=on"]),
        ("vmdk", &[]),
        ("vmdk", &["-o", "subformat=streamOptimized"]),
        ("vmdk", &["-o", "subformat=twoGbMaxExtentFlat"]),
        ("vdi", &[]),
        ("vpc", &["-o", "force_size=on"]),
        ("vpc", &["-o", "force_size=on,subformat=fixed"]),
        ("vhdx", &[]),
    ] {
        let args = [&["convert", "-f", "raw", "-O", format], options, &["disk.raw", "theirs"]].concat();
        let _ = std::fs::remove_file(folder.0.join("theirs"));
        folder.qemu_img(&args);
        folder.ok(&["convert", "--force", "theirs", "copy.qcow2"]);
        let same = folder.qemu_img(&["compare", "-f", "raw", "-F", "qcow2", "disk.raw", "copy.qcow2"]);
        assert!(same.contains("identical"), "{format} {options:?}: {same}");
        assert!(folder.ok(&["info", "theirs"]).contains(format), "{format}");
        folder.ok(&["map", "--json", "theirs"]);
    }
    let vmdk = ["resize", "theirs", "+1M"];
    folder.refused(&vmdk, &["theirs", "read only", "convert"]);
    folder.refused(&["convert", "disk.raw", "new.vmdk"], &["vmdk", "only read", "qcow2"]);
}

#[test]
fn encryption_both_ways() {
    let folder = Folder::new("luks");
    let content = content(2 * MIB, 9);
    folder.write("disk.raw", &content);
    folder.write("secret", b"sesame\n");
    folder.write("wrong", b"barley");
    let qemu = |verb: &[&str]| {
        let object = ["--object", "secret,id=s,data=sesame"];
        folder.qemu_img(&[&verb[..1], &object, &verb[1..]].concat())
    };
    for (format, options, ending) in [
        ("qcow2", "encrypt.format=luks,encrypt.iter-time=20", "encrypt.key-secret"),
        ("luks", "iter-time=20", "key-secret"),
        ("luks", "iter-time=20,cipher-mode=cbc,cipher-alg=aes-128", "key-secret"),
    ] {
        let make = ["convert", "--force", "-O", format, "-o", options, "disk.raw", "ours"];
        folder.ok(&[&make[..], &["--target-passphrase-file", "secret"]].concat());
        let told = format!("driver={format},{ending}=s,file.filename=ours");
        qemu(&["convert", "--image-opts", "-O", "raw", &told, "out.raw"]);
        assert!(folder.read("out.raw") == content, "{options}");
        // A byte that a guest wrote must not lie there in the clear.
        assert!(
            !folder.read("ours").windows(16).any(|part| part == b"kkkkkkkkkkkkkkkk" || part == b"ssssssssssssssss")
        );
        let same = folder.ok(&["compare", "--passphrase-file", "secret", "ours", "disk.raw"]);
        assert_eq!(same, "the disks are the same\n");
        folder.refused(&["compare", "ours", "disk.raw"], &["ours", "encrypted", "--passphrase-file"]);
        folder
            .refused(&["compare", "--passphrase-file", "wrong", "ours", "disk.raw"], &["ours", "passphrase is wrong"]);
        assert!(folder.ok(&["info", "ours"]).contains("encrypted"));

        let defaults = if format == "qcow2" { "encrypt.format=luks,encrypt.iter-time=100" } else { "iter-time=100" };
        let theirs = format!("{defaults},{ending}=s");
        qemu(&["convert", "-f", "raw", "-O", format, "-o", &theirs, "disk.raw", "theirs"]);
        let same = folder.ok(&["compare", "--passphrase-file", "secret", "theirs", "disk.raw"]);
        assert_eq!(same, "the disks are the same\n", "{format}");
    }
    folder.ok(&[
        "create",
        "e.qcow2",
        "1M",
        "-o",
        "encrypt.format=luks,encrypt.iter-time=5",
        "--passphrase-file",
        "secret",
    ]);
    assert!(folder.ok(&["check", "e.qcow2"]).contains("nothing wrong"));
    folder.refused(&["create", "x.luks", "1M"], &["x.luks", "passphrase", "--passphrase-file"]);
    folder.refused(&["create", "x.raw", "1M", "--passphrase-file", "secret"], &["not encrypted", "luks"]);
    folder.refused(&["create", "x.luks", "1M", "--passphrase-file", "gone"], &["passphrase file gone", "no such"]);
    folder.write("empty", b"\n");
    folder
        .refused(&["create", "x.luks", "1M", "--passphrase-file", "empty"], &["passphrase file empty", "it is empty"]);
}

#[test]
fn overlays_commit_and_rebase() {
    let folder = Folder::new("chain");
    let (base, other) = (content(4 * MIB, 1), content(4 * MIB, 2));
    folder.write("base.raw", &base);
    folder.write("other.raw", &other);
    folder.ok(&["create", "top.qcow2", "-b", "base.raw", "-F", "raw"]);
    assert!(folder.qemu_img(&["info", "top.qcow2"]).contains("base.raw"));
    assert_eq!(folder.ok(&["compare", "top.qcow2", "base.raw"]), "the disks are the same\n");
    // Something of its own.
    let writes = ["-c", "write -P 7 70k 300k", "-c", "write -z 1M 64k", "top.qcow2"];
    let output = Command::new("qemu-io").args(writes).current_dir(&folder.0).output().unwrap();
    assert!(output.status.success());
    let mut content = base.clone();
    content[70 << 10..370 << 10].fill(7);
    content[MIB..MIB + (64 << 10)].fill(0);
    folder.write("expected.raw", &content);
    let same =
        |image: &str| assert_eq!(folder.ok(&["compare", image, "expected.raw"]), "the disks are the same\n", "{image}");
    same("top.qcow2");

    folder.ok(&["rebase", "-b", "other.raw", "-F", "raw", "top.qcow2"]);
    same("top.qcow2");
    folder.qemu_img(&["check", "top.qcow2"]);
    assert!(folder.qemu_img(&["compare", "top.qcow2", "expected.raw", "-F", "raw"]).contains("identical"));
    folder.ok(&["rebase", "-b", "", "top.qcow2"]);
    assert!(!folder.ok(&["info", "top.qcow2"]).contains("backing"));
    same("top.qcow2");
    folder.ok(&["rebase", "--unsafe", "-b", "other.raw", "-F", "raw", "top.qcow2"]);
    same("top.qcow2");

    folder.ok(&["convert", "-b", "base.raw", "-F", "raw", "expected.raw", "thin.qcow2"]);
    same("thin.qcow2");
    assert!(folder.on_host("thin.qcow2") < 1 << 20, "it holds more than the difference");
    folder.ok(&["commit", "thin.qcow2"]);
    assert!(folder.read("base.raw") == content);
    same("thin.qcow2");

    folder.refused(&["commit", "base.raw"], &["base.raw", "raw images have no other behind them"]);
    folder.refused(&["rebase", "-b", "top.qcow2", "top.qcow2"], &["top.qcow2", "; "]);
    folder.refused(&["create", "x.qcow2", "-b", "nowhere.raw", "-F", "raw"], &["nowhere.raw", "no such file"]);
    folder.refused(&["create", "x.raw", "-b", "base.raw", "-F", "raw"], &["raw images have no other behind them"]);
}

#[test]
fn snapshots_sizes_and_maps() {
    let folder = Folder::new("verbs");
    folder.ok(&["create", "disk.qcow2", "16M", "-o", "cluster_size=64k"]);
    let write = |what: &str| {
        let output = Command::new("qemu-io").args(["-c", what, "disk.qcow2"]).current_dir(&folder.0).output().unwrap();
        assert!(output.status.success());
    };
    write("write -P 1 0 1M");
    folder.ok(&["snapshot", "--create", "before", "disk.qcow2"]);
    write("write -P 2 0 2M");
    let listed = folder.qemu_img(&["snapshot", "-l", "disk.qcow2"]);
    assert!(listed.contains("before"), "{listed}");
    assert!(folder.ok(&["snapshot", "disk.qcow2"]).contains("before"));
    let json = folder.ok(&["snapshot", "--json", "disk.qcow2"]);
    let list: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(list[0]["name"], "before");
    folder.ok(&["snapshot", "--apply", "before", "disk.qcow2"]);
    folder.ok(&["convert", "disk.qcow2", "disk.raw"]);
    assert_eq!(folder.read("disk.raw")[0], 1);
    assert_eq!(folder.read("disk.raw")[3 * MIB / 2], 0);
    folder.refused(&["snapshot", "--delete", "after", "disk.qcow2"], &["disk.qcow2", "after"]);
    folder.ok(&["snapshot", "--delete", "before", "disk.qcow2"]);
    folder.qemu_img(&["check", "disk.qcow2"]);
    folder.refused(&["snapshot", "--create", "x", "disk.raw"], &["disk.raw", "no snapshots", "convert it to qcow2"]);

    let map: serde_json::Value = serde_json::from_str(&folder.ok(&["map", "--json", "disk.qcow2"])).unwrap();
    assert_eq!((&map[0]["start"], &map[0]["length"], &map[0]["data"]), (&0.into(), &MIB.into(), &true.into()));
    assert_eq!(map[1]["present"], false);
    let info: serde_json::Value = serde_json::from_str(&folder.ok(&["info", "--json", "disk.qcow2"])).unwrap();
    assert_eq!((&info["virtual-size"], &info["format"]), (&(16 * MIB).into(), &"qcow2".into()));

    folder.ok(&["resize", "disk.qcow2", "+16M"]);
    folder.refused(&["resize", "disk.qcow2", "1M"], &["disk.qcow2", "32 MiB", "--shrink"]);
    folder.refused(&["resize", "disk.qcow2", "-33M"], &["disk.qcow2", "32 MiB"]);
    folder.refused(&["resize", "disk.qcow2", "100"], &["disk.qcow2", "512"]);
    folder.ok(&["resize", "--shrink", "disk.qcow2", "-30M"]);
    assert!(folder.qemu_img(&["info", "disk.qcow2"]).contains("2 MiB"));
    folder.qemu_img(&["check", "disk.qcow2"]);

    folder.write("other.raw", &[0; 1 << 20]);
    let output = folder.husk(&["compare", "disk.qcow2", "other.raw"]);
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(1), &b"the disks differ at byte 0\n"[..]));
    folder.write("longer.raw", &[0; 2 << 20]);
    assert!(folder.ok(&["compare", "longer.raw", "other.raw"]).contains("but for zeros"));
    assert_eq!(folder.husk(&["compare", "--strict", "longer.raw", "other.raw"]).status.code(), Some(1));
}

#[test]
fn damage_is_found_and_repaired() {
    let folder = Folder::new("check");
    folder.write("disk.raw", &content(4 * MIB, 3));
    folder.ok(&["convert", "disk.raw", "disk.qcow2"]);
    let mut bytes = folder.read("disk.qcow2");
    // The first refcount block loses all of its counts but those of the first clusters.
    let table = u64::from_be_bytes(bytes[48..56].try_into().unwrap()) as usize;
    let block = u64::from_be_bytes(bytes[table..table + 8].try_into().unwrap()) as usize;
    bytes[block + 20..block + 65536].fill(0);
    folder.write("disk.qcow2", &bytes);
    let output = folder.husk(&["check", "disk.qcow2"]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    folder.ok(&["check", "--repair", "all", "disk.qcow2"]);
    assert!(folder.ok(&["check", "disk.qcow2"]).contains("nothing wrong"));
    folder.qemu_img(&["check", "disk.qcow2"]);
    assert_eq!(folder.ok(&["compare", "disk.qcow2", "disk.raw"]), "the disks are the same\n");
    folder.refused(&["check", "disk.raw"], &["disk.raw", "nothing to check"]);
}

#[test]
fn bad_input_is_one_line_and_leaves_nothing() {
    let folder = Folder::new("bad");
    folder.write("disk.raw", &content(MIB, 4));
    folder.ok(&["convert", "disk.raw", "disk.qcow2"]);
    let before = folder.read("disk.qcow2");
    folder.refused(&["info", "nowhere"], &["nowhere", "no such file"]);
    folder.refused(&["info", "."], &[".", "a file or a block device"]);
    folder.refused(&["create", "disk.qcow2", "1M"], &["disk.qcow2", "there already", "--force"]);
    folder.refused(&["convert", "disk.raw", "disk.qcow2"], &["disk.qcow2", "there already", "--force"]);
    folder.refused(&["convert", "--force", "disk.qcow2", "disk.qcow2"], &["disk.qcow2", "in use"]);
    folder.refused(&["create", "new.qcow2"], &["new.qcow2", "needs a size"]);
    folder.refused(&["create", "new.qcow2", "1000"], &["512"]);
    folder.refused(&["create", "new.qcow2", "12Q"], &["12Q", "unit"]);
    folder.refused(&["create", "new.qcow2", "1M", "-f", "qcow3"], &["qcow3", "qcow2"]);
    folder.refused(&["create", "new.qcow2", "1M", "-o", "clustersize=4k"], &["clustersize", "no such option"]);
    folder.refused(&["create", "new.qcow2", "1M", "-o", "cluster_size=3000"], &["cluster"]);
    folder.refused(&["create", "nowhere/new.qcow2", "1M"], &["nowhere/new.qcow2", "no such file"]);
    folder.refused(&["convert", "-O", "raw", "--compress", "disk.raw", "x"], &["--compress", "raw"]);
    folder.refused(&["info", "-f", "qcow2", "disk.raw"], &["disk.raw"]);
    folder.refused(&["frobnicate"], &["frobnicate"]);
    assert_eq!(folder.read("disk.qcow2"), before);

    for len in [0, 71, 104, 4096, 70_000, 200_000] {
        folder.write("cut.qcow2", &before[..len]);
        folder.refused(&["convert", "-f", "qcow2", "cut.qcow2", "out.raw"], &["cut.qcow2"]);
    }

    // Chains that end nowhere, or do not end.
    folder.ok(&["create", "a.qcow2", "-b", "disk.qcow2", "-F", "qcow2"]);
    folder.ok(&["create", "b.qcow2", "-b", "a.qcow2", "-F", "qcow2"]);
    folder.ok(&["rebase", "--unsafe", "-b", "b.qcow2", "-F", "qcow2", "a.qcow2"]);
    folder.refused(&["convert", "b.qcow2", "out.raw"], &["loop"]);
    folder.ok(&["rebase", "--unsafe", "-b", "gone.qcow2", "-F", "qcow2", "a.qcow2"]);
    folder.refused(&["convert", "b.qcow2", "out.raw"], &["gone.qcow2", "no such file"]);
}

/// Disk full, by a limit on the size of files, which also counts as a failure of the host.
#[test]
fn a_full_disk_leaves_nothing() {
    let folder = Folder::new("full");
    folder.write("disk.raw", &vec![7; 4 * MIB]);
    let script = "ulimit -f 1024; trap '' XFSZ; exec \"$0\" img convert disk.raw out.qcow2";
    let output = Command::new("bash").args(["-c", script, HUSK]).current_dir(&folder.0).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{error}");
    assert!(error.starts_with("husk: out.qcow2: ") && error.lines().count() == 1, "{error}");
    assert!(!folder.0.join("out.qcow2").exists());
    folder.nothing_unfinished();
}

#[test]
fn an_image_in_use_is_refused_by_its_holder() {
    let folder = Folder::new("use");
    folder.ok(&["create", "disk.qcow2", "64M"]);
    // It waits for its standard input with the image open.
    let mut holder = Command::new("qemu-io")
        .arg("disk.qcow2")
        .current_dir(&folder.0)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut prompt = [0; 4];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut prompt).unwrap();
    let pid = holder.id().to_string();
    for args in [
        &["resize", "disk.qcow2", "1G"][..],
        &["convert", "disk.qcow2", "copy.raw"],
        &["create", "--force", "disk.qcow2", "1M"],
        &["snapshot", "--create", "x", "disk.qcow2"],
        &["check", "--repair", "all", "disk.qcow2"],
    ] {
        folder.refused(args, &["disk.qcow2", "in use", &pid, "qemu-io"]);
    }
    assert!(folder.ok(&["info", "--force-share", "disk.qcow2"]).contains("64 MiB"));
    drop(holder.stdin.take());
    holder.wait().unwrap();
    folder.ok(&["resize", "disk.qcow2", "1G"]);
}

#[test]
fn a_signal_removes_the_unfinished_target() {
    let folder = Folder::new("signal");
    let mut child = Command::new(HUSK)
        .args(["img", "create", "-o", "iter-time=3600000", "--passphrase-file", "/dev/stdin", "out.luks", "1M"])
        .current_dir(&folder.0)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // It has taken the signals when it waits for the passphrase; the key derivation of an hour follows.
    use std::io::Write;
    child.stdin.take().unwrap().write_all(b"sesame\n").unwrap();
    let unfinished = |folder: &Folder| {
        let names = std::fs::read_dir(&folder.0).unwrap();
        names.filter_map(Result::ok).any(|entry| entry.file_name().to_string_lossy().contains("unfinished"))
    };
    while !unfinished(&folder) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it began");
        std::thread::yield_now();
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    folder.nothing_unfinished();
    assert!(!folder.0.join("out.luks").exists());
}
