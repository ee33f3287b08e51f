//! The values of options: each parser answers with the cause and the fix.

use std::path::PathBuf;

use clap::ValueEnum;

/// The engines that the user can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineName {
    /// Husk's own x86-64 engine
    Soft,
}

/// Where a port leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Standard input and output.
    Stdio,
    /// Nowhere.
    None,
    /// A file, output only.
    File(PathBuf),
}

pub(crate) fn cpus(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) => Err("a machine needs a CPU; give it 1 or more".to_owned()),
        Ok(n) => Ok(n),
        Err(_) => Err("not a number of CPUs; give it 1 or more".to_owned()),
    }
}

pub(crate) fn cpu_model(text: &str) -> Result<String, String> {
    let known = vm::cpu_models();
    if known.contains(&text) {
        Ok(text.to_owned())
    } else {
        Err(format!("there is no such CPU model; take one of {}", known.join(", ")))
    }
}

pub(crate) fn board(text: &str) -> Result<String, String> {
    let known = vm::boards();
    // A name without a version stands for the newest one, which comes last.
    let newest = known.iter().rfind(|name| name.rsplit_once('-').is_some_and(|(family, _)| family == text));
    match known.iter().find(|name| **name == text).or(newest) {
        Some(name) => Ok((*name).to_owned()),
        None => Err(format!("there is no such board; take one of {}", known.join(", "))),
    }
}

fn one_of<T: Copy>(text: &str, what: &str, known: &[(&str, T)]) -> Result<T, String> {
    let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
    let found = known.iter().find(|(name, _)| *name == text);
    found.map(|(_, value)| *value).ok_or_else(|| format!("there is no such {what}; take one of {}", names.join(", ")))
}

pub(crate) fn entry(text: &str) -> Result<vm::EntryMode, String> {
    use vm::EntryMode::{Auto, Boot32, Boot64, Pvh};
    one_of(text, "entry mode", &[("auto", Auto), ("boot64", Boot64), ("boot32", Boot32), ("pvh", Pvh)])
}

pub(crate) fn reboot(text: &str) -> Result<vm::OnReset, String> {
    one_of(text, "action", &[("restart", vm::OnReset::Restart), ("exit", vm::OnReset::Exit)])
}

pub(crate) fn triple_fault(text: &str) -> Result<vm::OnTripleFault, String> {
    one_of(text, "action", &[("end", vm::OnTripleFault::End), ("reset", vm::OnTripleFault::Reset)])
}

pub(crate) fn guest_panic(text: &str) -> Result<vm::OnGuestPanic, String> {
    one_of(text, "action", &[("end", vm::OnGuestPanic::End), ("ignore", vm::OnGuestPanic::Ignore)])
}

pub(crate) fn name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !text.is_empty() && text.len() <= 64 && text.chars().all(good) {
        Ok(text.to_owned())
    } else {
        Err("not a name; take 1 to 64 letters, digits, '-', '_' and '.'".to_owned())
    }
}

pub(crate) fn destination(text: &str) -> Result<Destination, String> {
    match text.split_once(':') {
        Some(("file", path)) if !path.is_empty() => Ok(Destination::File(path.into())),
        None if text == "stdio" => Ok(Destination::Stdio),
        None if text == "none" => Ok(Destination::None),
        _ => Err("a port cannot lead there; take stdio, none or file:PATH".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_parse_or_name_the_fix() {
        assert_eq!(board("q35"), Ok("q35-1".to_owned()));
        assert_eq!(board("q35-1"), Ok("q35-1".to_owned()));
        assert!(board("pdp-11").is_err_and(|e| e.contains("q35-1")));
        assert!(cpu_model("486").is_err_and(|e| e.contains(vm::DEFAULT_CPU_MODEL)));
        assert_eq!(destination("file:a:b"), Ok(Destination::File("a:b".into())));
        assert!(destination("file:").is_err() && destination("tcp").is_err());
        assert!(cpus("0").is_err() && cpus("-1").is_err() && cpus("4") == Ok(4));
        assert!(name("a b").is_err() && name("").is_err() && name("web-1.eu").is_ok());
    }
}
