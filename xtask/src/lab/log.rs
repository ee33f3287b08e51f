//! What the lab's kernel has to say about a run.

/// What is logged when the lab is up: what comes behind it is about the command.
pub(super) const MARK: &str = "husk-lab: the command starts";

/// Warnings and worse (`Documentation/admin-guide/dynamic-debug-howto.rst` and `syslog(2)`: levels 0 to 4).
const WARNING: u32 = 4;

/// What only a kernel in trouble says, whatever the level.
const TROUBLE: [&str; 7] =
    ["WARNING:", "BUG:", "Oops", "Call Trace", "soft lockup", "rcu_sched self-detected", "hung_task"];

/// The kernel's complaints since the command has started, in a log as `dmesg -r` prints it: warnings and worse, and
/// traces of any level.
pub(super) fn complaints(log: &str) -> Vec<String> {
    let since = log.rsplit_once(MARK).map_or("", |(_, since)| since);
    since.lines().filter(|line| complains(line)).map(|line| line.trim().to_owned()).collect()
}

/// What only tells that the emulation is slow.
const SLOW: &str = "hrtimer: interrupt took";

fn complains(line: &str) -> bool {
    if line.contains(SLOW) {
        return false;
    }
    let level = line.trim_start().strip_prefix('<').and_then(|rest| rest.split_once('>'));
    // The lower three bits are the level, the rest who has written it.
    let bad = level.and_then(|(n, _)| n.parse::<u32>().ok()).is_some_and(|n| n >> 3 == 0 && n & 7 <= WARNING);
    bad || TROUBLE.iter().any(|words| line.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_bad_and_came_during_the_run_counts() {
        let log = format!(
            "<4>[    0.1] MDS: vulnerable\n<12>[    1.0] {MARK}\n<6>[    2.0] kvm: a word\n\
             <3>[    3.0] kvm [7]: vcpu0 unhandled rdmsr\n<14>[    4.0] a program\n<6>[    5.0] Call Trace:\n"
        );
        assert_eq!(complaints(&log), ["<3>[    3.0] kvm [7]: vcpu0 unhandled rdmsr", "<6>[    5.0] Call Trace:"]);
        assert!(complaints("<3>[ 0.1] an error before\n").is_empty());
        assert!(complaints(&format!("{MARK}\n<4>[ 1.0] hrtimer: interrupt took 11812020 ns\n")).is_empty());
    }
}
