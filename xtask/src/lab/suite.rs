//! The tests that run in the lab: the very programs that run on the host's software engine, told to use `/dev/kvm`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Ending, Item, Job, MEMORY, run_once};
use crate::{guest, shell};

/// A program of tests.
struct Program {
    package: &'static str,
    /// The name of the file of tests, or of the library for its own tests.
    name: &'static str,
    /// What of it is left out, and why.
    without: &'static [(&'static str, &'static str)],
    /// Each test has a lab of its own: those that boot kernels, for the longer one runs the likelier the lab dies.
    apart: bool,
}

/// What runs in one lab.
struct Portion {
    /// What it is, for people.
    name: String,
    /// The line for the lab's shell.
    command: String,
}

const PROGRAMS: &[Program] = &[
    Program {
        package: "cli",
        name: "boot",
        without: &[
            ("the_guests_clock_agrees_with_the_hosts", "it measures time, of which the lab has its own"),
            ("a_guest_panic_is_told", "the engine has no part in it"),
            ("a_signal_stops_the_vm_and_restores_the_terminal", "the engine has no part in it"),
            ("what_comes_from_a_pipe_is_typed_and_its_end_ends_nothing", "the engine has no part in it"),
            ("the_cloud_kernel_boots_on_lesser_cpus", "the lab's CPU is one itself"),
            ("the_cloud_kernel_decompresses_itself_if_asked", "it differs from the other boots for a few instructions"),
            ("the_cloud_kernel_boots_with_4_cpus", "the lab has 2 CPUs"),
            ("the_generic_kernel_boots_with_4_cpus", "the lab has 2 CPUs"),
            ("the_workout_gives_what_it_gives_on_the_host", "it takes minutes on an emulated CPU"),
            ("pasted_text_arrives_whole", "it takes minutes on an emulated CPU"),
            (
                "the_i386_kernel",
                "32-bit kernels hang under the lab's nested paging; one under QEMU's own -accel kvm did, too",
            ),
        ],
        apart: true,
    },
    Program {
        package: "testkit",
        name: "moving",
        without: &[("linux_goes_on", "it takes minutes on an emulated CPU, or hangs there")],
        apart: false,
    },
    Program { package: "engine-kvm", name: "engine_kvm", without: &[], apart: false },
    Program { package: "engine-kvm", name: "breakpoints", without: &[], apart: false },
    Program { package: "engine-kvm", name: "failures", without: &[], apart: false },
    Program { package: "engine-kvm", name: "interrupts", without: &[], apart: false },
    Program { package: "engine-kvm", name: "io", without: &[], apart: false },
    Program { package: "engine-kvm", name: "kicks", without: &[], apart: false },
    Program { package: "engine-kvm", name: "memory_log", without: &[], apart: false },
    Program { package: "engine-kvm", name: "modes", without: &[], apart: false },
];

/// Programs that stay outside, and why.
const OUTSIDE: &[(&str, &str)] = &[
    ("bare of testkit", "some of its faults and alignment checks come out otherwise on the emulated CPU"),
    ("oracle of engine-kvm", "the emulated CPU is no reference: it does not check all that a CPU checks"),
    ("engine_choice of cli", "it needs more commands than the lab has"),
];

/// How long a portion may take: far more than it does.
const LIMIT: Duration = Duration::from_secs(100);

/// How long all may take, after which no portion is begun.
const BUDGET: Duration = Duration::from_secs(300);

/// How many labs a portion is tried in. The emulation of virtualization is not sound: now and then, after a minute or two
/// of it, it breaks a guest, or its own kernel.
const TRIES: u32 = 3;

/// Builds the tests in `profile`, runs those whose name contains `filter` in the lab, and passes on what they print. Gives
/// what is not known, with the reason: the lab has died over it each time, or there was no time left.
pub(crate) fn tests(profile: &str, filter: Option<&str>, output: &mut dyn FnMut(&[u8])) -> Result<Vec<String>> {
    let husk = shell::build_husk(profile)?;
    let mut items = vec![Item::named(husk, "husk")];
    for kind in ["cloud", "generic"] {
        items.push(Item::named(guest::folder(kind), &format!("guests/{kind}")));
    }
    let built = built(profile)?;
    for (name, why) in OUTSIDE {
        shell::say(&format!("not in the lab: {name}: {why}"));
    }
    let mut portions = Vec::new();
    for program in PROGRAMS {
        let path = built.iter().find(|(package, name, _)| package == program.package && name == program.name);
        let (_, _, path) = path.with_context(|| format!("{} has no tests {}", program.package, program.name))?;
        items.push(Item::named(path, &format!("{}-{}", program.package, program.name)));
        for (test, why) in program.without {
            shell::say(&format!("not in the lab: {test}: {why}"));
        }
        portions.extend(program.portions(path, filter.unwrap_or_default())?);
    }
    let (start, mut unknown) = (Instant::now(), Vec::new());
    for portion in &portions {
        if start.elapsed() > BUDGET {
            unknown.push(format!("{} (no time left)", portion.name));
        } else if !passes(&items, portion, output)? {
            unknown.push(format!("{} (the lab has died over it)", portion.name));
        }
    }
    Ok(unknown)
}

impl Program {
    /// What of the program runs, lab by lab: tests whose name contains `filter`.
    fn portions(&self, path: &Path, filter: &str) -> Result<Vec<Portion>> {
        let Self { package, name, without, apart } = self;
        let run = |what: &str, arguments: &str| Portion {
            name: what.to_owned(),
            command: format!("echo '──── {what}'\n./{package}-{name} --test-threads=1 {arguments}"),
        };
        if !apart {
            let skipped: String = without.iter().map(|(test, _)| format!("--skip {test} ")).collect();
            return Ok(vec![run(&format!("{name} of {package}"), &format!("{skipped}{filter}"))]);
        }
        let list = shell::output(shell::command(path).args(["--list", "--format", "terse"]))?;
        let tests = list.lines().filter_map(|line| line.strip_suffix(": test"));
        let wanted =
            tests.filter(|test| test.contains(filter) && !without.iter().any(|(without, _)| test.contains(without)));
        Ok(wanted.map(|test| run(&format!("{test} of {package}"), &format!("--exact {test}"))).collect())
    }
}

/// Whether the portion has passed. If not, that says nothing of it: the lab has died. An error if it fails.
fn passes(items: &[Item], portion: &Portion, output: &mut dyn FnMut(&[u8])) -> Result<bool> {
    let environment = vec![
        ("CI", "true".to_owned()),
        ("HUSK_TEST_ENGINE", "kvm".to_owned()),
        ("HUSK_BIN", "/lab/husk".to_owned()),
        ("HUSK_GUESTS", "/lab/guests".to_owned()),
    ];
    let mut failures = 0;
    for attempt in 1..=TRIES {
        let job = Job {
            items: items.to_vec(),
            command: portion.command.clone(),
            environment: environment.clone(),
            timeout: LIMIT,
            cpus: 2,
            memory: MEMORY,
            out: None,
        };
        let outcome = run_once(&job, output)?;
        for line in &outcome.complaints {
            shell::say(&format!("the lab's kernel complains: {line}"));
        }
        let what = match outcome.ending {
            Ending::Status(0) if outcome.complaints.is_empty() => return Ok(true),
            Ending::Status(_) => "failed",
            Ending::TimeLimit => "took too long",
            Ending::Died => "was cut off",
        };
        failures += u32::from(outcome.ending != Ending::Died);
        shell::say(&format!("{} {what} in the lab, attempt {attempt} of {TRIES}", portion.name));
    }
    // One failure may be the lab's own.
    if failures > 1 {
        bail!("it does not pass in the lab: {}", portion.name);
    }
    Ok(false)
}

/// The programs of tests of the workspace: package, name and file of each.
fn built(profile: &str) -> Result<Vec<(String, String, PathBuf)>> {
    shell::say("building the tests");
    let mut command = shell::cargo();
    command.args(["test", "--workspace", "--no-run", "--profile", profile, "--message-format", "json", "--quiet"]);
    let text = shell::output(&mut command)?;
    Ok(text.lines().filter_map(|line| program(&serde_json::from_str(line).ok()?)).collect())
}

/// What a message of cargo says of a program of tests (The Cargo Book, External tools, Artifact messages).
fn program(message: &Value) -> Option<(String, String, PathBuf)> {
    let test = message["profile"]["test"].as_bool()? && message["reason"] == "compiler-artifact";
    let manifest = PathBuf::from(message["manifest_path"].as_str()?);
    let package = manifest.parent()?.file_name()?.to_str()?.to_owned();
    let file = message["executable"].as_str().filter(|_| test)?;
    Some((package, message["target"]["name"].as_str()?.to_owned(), PathBuf::from(file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_tests_are_found_in_what_cargo_says() {
        let message = |test, executable: Value| {
            serde_json::json!({
                "reason": "compiler-artifact", "manifest_path": "/x/crates/cli/Cargo.toml",
                "target": { "name": "boot" }, "profile": { "test": test }, "executable": executable,
            })
        };
        let wanted = ("cli".to_owned(), "boot".to_owned(), PathBuf::from("/t/boot-1"));
        assert_eq!(program(&message(true, "/t/boot-1".into())), Some(wanted));
        assert_eq!(program(&message(false, "/t/boot-1".into())), None);
        assert_eq!(program(&message(true, Value::Null)), None);
    }
}
