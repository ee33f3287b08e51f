//! What the host gives a process: memory, descriptors, threads.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::page::Row;
use crate::size;

/// What a VM with its devices opens, at most.
const DESCRIPTORS: u64 = 256;

/// Memory in bytes; `None` where the host does not tell, or sets no limit.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Limits {
    total: Option<u64>,
    available: Option<u64>,
    swap_free: Option<u64>,
    /// The limit of the control group that the process is in.
    group: Option<u64>,
    /// How the kernel promises memory: 0 by rule of thumb, 1 always, 2 never more than it has.
    overcommit: Option<u64>,
    /// With overcommit 2: what it can still promise.
    promisable: Option<u64>,
    huge_page: Option<u64>,
    huge_pages_free: Option<u64>,
    /// Transparent huge pages: `always`, `madvise` or `never`.
    transparent_huge_pages: Option<String>,
    /// RLIMIT_MEMLOCK.
    locked_memory: Option<u64>,
    /// RLIMIT_AS.
    address_space: Option<u64>,
    /// RLIMIT_NOFILE.
    open_files: Option<u64>,
    /// RLIMIT_NPROC.
    processes: Option<u64>,
}

impl Limits {
    /// Reads what `/proc` and `/sys` below `root` tell about this process.
    pub(super) fn read(root: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        let number = |path: &str| text(path).trim().parse().ok();
        let (memory, limits) = (text("proc/meminfo"), text("proc/self/limits"));
        let count = |key: &str| {
            let line = memory.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let kib = |key: &str| count(key)?.checked_mul(1024);
        let limit = |key: &str| {
            let line = limits.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().next()?.parse().ok()
        };
        // The choice is the word in brackets.
        let choices = text("sys/kernel/mm/transparent_hugepage/enabled");
        let chosen =
            choices.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(word, _)| word.to_owned());
        let groups = text("proc/self/cgroup");
        let path = |prefix: &str, list: &str| {
            let of = |line: &str| {
                let mut fields = line.splitn(3, ':').skip(1);
                (fields.next() == Some(list)).then(|| fields.next().map(|path| format!("{prefix}{path}")))?
            };
            groups.lines().find_map(of)
        };
        let group = path("sys/fs/cgroup", "").and_then(|path| number(&format!("{path}/memory.max")));
        let old = || path("sys/fs/cgroup/memory", "memory").and_then(|p| number(&format!("{p}/memory.limit_in_bytes")));
        let total = kib("MemTotal");
        Self {
            total,
            available: kib("MemAvailable"),
            swap_free: kib("SwapFree"),
            // Version 1 writes a very large number for no limit.
            group: group.or_else(old).filter(|limit| total.is_none_or(|total| *limit < total)),
            overcommit: number("proc/sys/vm/overcommit_memory"),
            promisable: kib("CommitLimit").zip(kib("Committed_AS")).map(|(most, now)| most.saturating_sub(now)),
            huge_page: kib("Hugepagesize"),
            huge_pages_free: count("HugePages_Free"),
            transparent_huge_pages: chosen,
            locked_memory: limit("Max locked memory"),
            address_space: limit("Max address space"),
            open_files: limit("Max open files"),
            processes: limit("Max processes"),
        }
    }

    /// The memory that a VM can have without the host's swapping.
    fn room(&self) -> Option<u64> {
        let promisable = self.promisable.filter(|_| self.overcommit == Some(2));
        [self.available, self.group, self.address_space, promisable].into_iter().flatten().min()
    }

    /// The rows of the page.
    pub(super) fn rows(&self) -> Vec<Row> {
        let shown = |bytes: Option<u64>| bytes.map_or_else(|| "unknown".to_owned(), size::show);
        let limit = |bytes: Option<u64>| bytes.map_or_else(|| "no limit".to_owned(), size::show);
        let mut rows = vec![
            Row::plain("memory", format!("{} free of {}", shown(self.available), shown(self.total))),
            Row::plain("swap", format!("{} free", shown(self.swap_free))),
        ];
        if let Some(group) = self.group {
            let fix = "raise memory.max of its control group, or the container's limit";
            rows.push(Row::note("control group", format!("takes no more than {}", size::show(group))).with_fix(fix));
        }
        rows.push(match (self.overcommit, self.promisable) {
            (Some(2), promisable) => {
                let what = format!("never: {} can still be promised", shown(promisable));
                Row::note("overcommit", what).with_fix("for larger VMs: sudo sysctl vm.overcommit_memory=0")
            }
            (Some(1), _) => Row::plain("overcommit", "always"),
            (Some(_), _) => Row::plain("overcommit", "by rule of thumb"),
            (None, _) => Row::plain("overcommit", "unknown"),
        });
        let transparent = self.transparent_huge_pages.as_deref();
        rows.push(match transparent {
            Some("never") => Row::note("huge pages", "transparent ones are off: guests run slower")
                .with_fix("echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"),
            Some(mode) => Row::good("huge pages", format!("transparent: {mode}")),
            None => Row::note("huge pages", "this kernel has no transparent ones"),
        });
        if let (Some(free), Some(bytes)) = (self.huge_pages_free, self.huge_page) {
            rows.push(Row::plain("", format!("reserved: {free} of {} free", size::show(bytes))));
        }
        rows.push(Row::plain("locked memory", limit(self.locked_memory)));
        rows.push(Row::plain("address space", limit(self.address_space)));
        rows.push(match self.open_files {
            Some(count) if count < DESCRIPTORS => Row::bad("open files", format!("only {count}"), "ulimit -n 1024"),
            count => Row::good("open files", count.map_or_else(|| "no limit".to_owned(), |count| count.to_string())),
        });
        let processes = self.processes.map_or_else(|| "no limit".to_owned(), |count| count.to_string());
        rows.push(Row::plain("processes", processes));
        if let Some(room) = self.room() {
            rows.push(Row::plain("room for a VM", format!("about {}", size::show(room))));
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use testkit::folder::Folder;

    use super::*;

    fn text(limits: &Limits) -> String {
        let mut page = super::super::page::Page::default();
        page.section("Memory", limits.rows());
        page.to_string()
    }

    const MEMORY: &str = "MemTotal:  8388608 kB\nMemAvailable: 4194304 kB\nSwapFree: 0 kB\nCommitLimit: 2097152 kB\n\
        Committed_AS: 1048576 kB\nHugePages_Free: 3\nHugepagesize: 2048 kB\n";

    #[test]
    fn a_generous_host() {
        let files = [
            ("proc/meminfo", MEMORY),
            ("proc/self/limits", "Max locked memory   unlimited  unlimited  bytes\nMax open files  1024 4096 files\n"),
            ("proc/sys/vm/overcommit_memory", "0\n"),
            ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
        ];
        let limits = Limits::read(&Folder::with("limits-generous", &files));
        assert_eq!((limits.total, limits.room()), (Some(8 << 30), Some(4 << 30)));
        assert_eq!((limits.locked_memory, limits.open_files), (None, Some(1024)));
        let text = text(&limits);
        assert!(text.contains("4 GiB free of 8 GiB") && text.contains("transparent: madvise"), "{text}");
        assert!(text.contains("reserved: 3 of 2 MiB free") && !text.contains("=>"), "{text}");
    }

    #[test]
    fn a_strict_host_is_told_what_to_do() {
        let files = [
            ("proc/meminfo", MEMORY),
            ("proc/self/limits", "Max locked memory  65536  65536  bytes\nMax open files  20 20 files\n"),
            ("proc/sys/vm/overcommit_memory", "2\n"),
            ("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n"),
            ("proc/self/cgroup", "4:memory:/old\n0::/box\n"),
            ("sys/fs/cgroup/box/memory.max", "536870912\n"),
        ];
        let limits = Limits::read(&Folder::with("limits-strict", &files));
        assert_eq!((limits.group, limits.room()), (Some(512 << 20), Some(512 << 20)));
        let text = text(&limits);
        for part in
            ["1 GiB can still be promised", "only 20", "ulimit -n", "memory.max", "transparent_hugepage", "64 KiB"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn old_control_groups_count_too() {
        let files = [
            ("proc/meminfo", MEMORY),
            ("proc/self/cgroup", "4:memory:/old\n0::/\n"),
            ("sys/fs/cgroup/memory/old/memory.limit_in_bytes", "1073741824\n"),
        ];
        assert_eq!(Limits::read(&Folder::with("limits-old", &files)).group, Some(1 << 30));
        let files = [
            ("proc/meminfo", MEMORY),
            ("proc/self/cgroup", "4:memory:/old\n"),
            ("sys/fs/cgroup/memory/old/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(Limits::read(&Folder::with("limits-none", &files)).group, None);
        assert_eq!(Limits::read(Path::new("/nowhere")), Limits::default());
    }
}
