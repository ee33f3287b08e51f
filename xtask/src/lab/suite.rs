//! The tests that run in the lab: the very programs that run on the host's software engine, told to use `/dev/kvm`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Ending, Item, Job, MEMORY, run};
use crate::{guest, shell};

/// A program of tests.
struct Program {
    package: &'static str,
    /// The name of the file of tests, or of the library for its own tests.
    name: &'static str,
    /// What of it is left out, and why.
    without: &'static [(&'static str, &'static str)],
}

const PROGRAMS: &[Program] = &[
    Program {
        package: "cli",
        name: "boot",
        without: &[
            ("the_guests_clock_agrees_with_the_hosts", "it measures time, of which the lab has its own"),
            ("the_cloud_kernel_boots_with_4_cpus", "the lab has 2 CPUs"),
            ("the_generic_kernel_boots_with_4_cpus", "the lab has 2 CPUs"),
            ("the_workout_gives_what_it_gives_on_the_host", "it takes minutes on an emulated CPU"),
            ("pasted_text_arrives_whole", "it takes minutes on an emulated CPU"),
            (
                "the_i386_kernel",
                "32-bit kernels hang under the lab's nested paging; one under QEMU's own -accel kvm did, too",
            ),
        ],
    },
    Program {
        package: "testkit",
        name: "moving",
        without: &[("linux_goes_on", "it takes minutes on an emulated CPU, or hangs there")],
    },
    Program { package: "engine-kvm", name: "engine_kvm", without: &[] },
    Program { package: "engine-kvm", name: "failures", without: &[] },
    Program { package: "engine-kvm", name: "interrupts", without: &[] },
    Program { package: "engine-kvm", name: "io", without: &[] },
    Program { package: "engine-kvm", name: "kicks", without: &[] },
    Program { package: "engine-kvm", name: "memory_log", without: &[] },
    Program { package: "engine-kvm", name: "modes", without: &[] },
];

/// Programs that stay outside, and why.
const OUTSIDE: &[(&str, &str)] = &[
    ("bare of testkit", "some of its faults and alignment checks come out otherwise on the emulated CPU"),
    ("oracle of engine-kvm", "the emulated CPU is no reference: it does not check all that a CPU checks"),
    ("engine_choice of cli", "it needs more commands than the lab has"),
];

/// How long a program may take: far more than it does.
const LIMIT: Duration = Duration::from_secs(400);

/// Builds the tests in `profile`, runs those whose name contains `filter` in the lab, and passes on what they print. Gives
/// what could not be run to its end, since the lab has died over it each time: that says nothing of the tests.
pub(crate) fn tests(profile: &str, filter: Option<&str>, output: &mut dyn FnMut(&[u8])) -> Result<Vec<String>> {
    let husk = shell::build_husk(profile)?;
    let mut items = vec![Item::named(husk, "husk")];
    for kind in ["cloud", "generic", "i386", "workout"] {
        items.push(Item::named(guest::folder(kind), &format!("guests/{kind}")));
    }
    let built = built(profile)?;
    for (name, why) in OUTSIDE {
        shell::say(&format!("not in the lab: {name}: {why}"));
    }
    let mut programs = Vec::new();
    for program in PROGRAMS {
        let path = built.iter().find(|(package, name, _)| package == program.package && name == program.name);
        let (_, _, path) = path.with_context(|| format!("{} has no tests {}", program.package, program.name))?;
        let file = format!("{}-{}", program.package, program.name);
        items.push(Item::named(path, &file));
        let mut command = format!("echo '──── {} of {}'\n./{file} --test-threads=1 ", program.name, program.package);
        for (test, why) in program.without {
            shell::say(&format!("not in the lab: {test}: {why}"));
            command += &format!("--skip {test} ");
        }
        command += filter.unwrap_or_default();
        programs.push((file, command));
    }
    let mut lost = Vec::new();
    for program in &programs {
        // The emulation of virtualization is not sound: now and then it breaks a guest, or its own host.
        match attempt(&items, program, output)? {
            Verdict::Passed => {}
            Verdict::Lost => lost.push(program.0.clone()),
            Verdict::Failed => {
                shell::say(&format!("failed in the lab, and tried once more in a new one: {}", program.0));
                match attempt(&items, program, output)? {
                    Verdict::Passed => {}
                    Verdict::Lost => lost.push(program.0.clone()),
                    Verdict::Failed => bail!("tests failed in the lab, twice: {}", program.0),
                }
            }
        }
    }
    Ok(lost)
}

/// What came of a program of tests.
enum Verdict {
    Passed,
    Failed,
    /// The lab has died meanwhile, twice.
    Lost,
}

/// Runs one program, a file and its command, in a lab of its own.
fn attempt(items: &[Item], (file, command): &(String, String), output: &mut dyn FnMut(&[u8])) -> Result<Verdict> {
    let environment = vec![
        ("CI", "true".to_owned()),
        ("HUSK_TEST_ENGINE", "kvm".to_owned()),
        ("HUSK_BIN", "/lab/husk".to_owned()),
        ("HUSK_GUESTS", "/lab/guests".to_owned()),
    ];
    let command = command.clone();
    let (items, out) = (items.to_vec(), None);
    let job = Job { items, command, environment, timeout: LIMIT, cpus: 2, memory: MEMORY, out };
    let outcome = run(&job, output)?;
    for line in &outcome.complaints {
        shell::say(&format!("the lab's kernel complains: {line}"));
    }
    Ok(match outcome.ending {
        Ending::Status(0) if outcome.complaints.is_empty() => Verdict::Passed,
        Ending::Status(_) => Verdict::Failed,
        Ending::TimeLimit => bail!("the tests of {file} took longer than {} s in the lab", LIMIT.as_secs()),
        Ending::Died => Verdict::Lost,
    })
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
