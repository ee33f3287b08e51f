//! The values of options: each parser answers with the cause and the fix.

use std::path::PathBuf;

use engine_soft::{SoftOptions, Translator};

use crate::size;

/// An engine that the user asks for, with its options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EngineChoice {
    /// The host's virtualization.
    Kvm,
    /// Husk's own x86-64 engine.
    Soft(SoftOptions),
}

/// The engines that the user asks for, the favourite first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Engines(pub(crate) Vec<EngineChoice>);

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

/// Whether other commands can talk to a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    /// By a socket in the user's own folder, if there can be one.
    Auto,
    /// They cannot.
    None,
}

/// The firmware that the user asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Firmware {
    /// SeaBIOS, where it is found.
    Bios,
    /// OVMF, where it is found.
    Uefi,
    /// This image.
    File(PathBuf),
}

/// A file of the firmware configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FirmwareFile {
    /// Its name there.
    pub(crate) name: String,
    /// What is in it.
    pub(crate) content: FirmwareContent,
}

/// What is in a file of the firmware configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FirmwareContent {
    /// The contents of this file.
    File(PathBuf),
    /// This text.
    Text(String),
}

/// A display.
pub(crate) fn video(text: &str) -> Result<vm::Video, String> {
    one_of(text, "display", &[("std", vm::Video::Std), ("none", vm::Video::None)])
}

/// `bios`, `uefi`, or the path of an image.
pub(crate) fn firmware(text: &str) -> Result<Firmware, String> {
    match text {
        "bios" => Ok(Firmware::Bios),
        "uefi" => Ok(Firmware::Uefi),
        "uefi-secure" => {
            Err("Secure Boot needs system-management mode, which the machine does not have; take uefi".to_owned())
        }
        "" => Err("not a firmware; take bios, uefi, or the path of an image".to_owned()),
        path => Ok(Firmware::File(path.into())),
    }
}

/// `name=NAME,file=FILE` or `name=NAME,string=TEXT`; `name=` may be left out. The text goes to the end.
pub(crate) fn firmware_file(text: &str) -> Result<FirmwareFile, String> {
    const FORM: &str = "not a firmware file; write it like name=opt/my/file,file=PATH or name=opt/my/text,string=TEXT";
    let (name, rest) = text.split_once(',').ok_or(FORM)?;
    let name = name.strip_prefix("name=").unwrap_or(name).to_owned();
    vm::check_firmware_file_name(&name).map_err(|error| error.to_string())?;
    let content = match rest.split_once('=') {
        Some(("file", path)) if !path.is_empty() => FirmwareContent::File(path.into()),
        Some(("string", text)) => FirmwareContent::Text(text.to_owned()),
        _ => return Err(FORM.to_owned()),
    };
    Ok(FirmwareFile { name, content })
}

/// Engines separated by commas, each with its options behind it: what has an equals sign is an option of the engine before.
/// `auto` is short for `kvm,soft`.
pub(crate) fn engines(text: &str) -> Result<Engines, String> {
    let (kvm, soft) = (EngineChoice::Kvm, EngineChoice::Soft(SoftOptions::default()));
    let known: [(_, &[EngineChoice]); 3] = [("auto", &[kvm, soft]), ("kvm", &[kvm]), ("soft", &[soft])];
    let mut engines = Vec::new();
    for word in text.split(',') {
        match (word.split_once('='), engines.last_mut()) {
            (None, _) => engines.extend_from_slice(one_of(word, "engine", &known)?),
            (Some((option, value)), Some(EngineChoice::Soft(options))) => soft_option(options, option, value)?,
            (Some((option, _)), Some(EngineChoice::Kvm)) => {
                return Err(format!("kvm has no options, so no {option}; leave it out or put it behind soft"));
            }
            (Some(_), None) => return Err(format!("{word} is an option of no engine; write it like soft,{word}")),
        }
    }
    Ok(Engines(engines))
}

fn soft_option(options: &mut SoftOptions, option: &str, value: &str) -> Result<(), String> {
    match option {
        "jit" => {
            let known = [("on", Translator::On), ("off", Translator::Off), ("lockstep", Translator::LockStep)];
            options.translator = one_of(value, "value of jit", &known)?;
        }
        "cache" => {
            let bytes = size::parse(value).map_err(|why| format!("cache={value} is {why}"))?;
            let bounds = SoftOptions::CODE_CACHE;
            let (least, most) = (size::show(*bounds.start() as u64), size::show(*bounds.end() as u64));
            options.code_cache =
                usize::try_from(bytes).ok().filter(|bytes| bounds.contains(bytes)).ok_or_else(|| {
                    format!("the code cache cannot have {}; give it {least} to {most}", size::show(bytes))
                })?;
        }
        _ => return Err(format!("soft has no option {option}; take one of jit, cache")),
    }
    Ok(())
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

pub(crate) fn control(text: &str) -> Result<Control, String> {
    one_of(text, "way", &[("auto", Control::Auto), ("none", Control::None)])
}

pub(crate) fn name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !text.is_empty() && !text.starts_with('.') && text.len() <= 64 && text.chars().all(good) {
        Ok(text.to_owned())
    } else {
        Err("not a name; take 1 to 64 letters, digits, '-', '_' and '.', which does not come first".to_owned())
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
    fn an_engine_takes_its_options_along() {
        let soft = |translator, code_cache| {
            EngineChoice::Soft(SoftOptions { translator, code_cache, ..SoftOptions::default() })
        };
        let usual = SoftOptions::default().code_cache;
        let kvm = EngineChoice::Kvm;
        let good = [
            ("kvm", vec![kvm]),
            ("auto", vec![kvm, soft(Translator::On, usual)]),
            ("auto,jit=off", vec![kvm, soft(Translator::Off, usual)]),
            ("soft", vec![soft(Translator::On, usual)]),
            ("soft,jit=off", vec![soft(Translator::Off, usual)]),
            ("soft,cache=64M,jit=lockstep", vec![soft(Translator::LockStep, 64 << 20)]),
            ("soft,jit=off,soft,cache=1G", vec![soft(Translator::Off, usual), soft(Translator::On, 1 << 30)]),
        ];
        for (text, list) in good {
            assert_eq!(engines(text), Ok(Engines(list)), "{text}");
        }
        let bad = [
            ("steam", "there is no such engine; take one of auto, kvm, soft"),
            ("", "there is no such engine; take one of auto, kvm, soft"),
            ("soft,", "there is no such engine; take one of auto, kvm, soft"),
            ("kvm,jit=off", "kvm has no options, so no jit; leave it out or put it behind soft"),
            ("jit=off", "jit=off is an option of no engine; write it like soft,jit=off"),
            ("soft,jit=maybe", "there is no such value of jit; take one of on, off, lockstep"),
            ("soft,jit=", "there is no such value of jit; take one of on, off, lockstep"),
            ("soft,turbo=on", "soft has no option turbo; take one of jit, cache"),
            ("soft,cache=1K", "the code cache cannot have 1 KiB; give it 1 MiB to 1 GiB"),
            ("soft,cache=2G", "the code cache cannot have 2 GiB; give it 1 MiB to 1 GiB"),
            ("soft,cache=big", "cache=big is not a size; write it like 512M or 2G"),
        ];
        for (text, why) in bad {
            assert_eq!(engines(text), Err(why.to_owned()), "{text}");
        }
    }

    #[test]
    fn values_parse_or_name_the_fix() {
        assert_eq!(board("q35"), Ok("q35-1".to_owned()));
        assert_eq!(board("q35-1"), Ok("q35-1".to_owned()));
        assert!(board("pdp-11").is_err_and(|e| e.contains("q35-1")));
        assert!(cpu_model("486").is_err_and(|e| e.contains(vm::DEFAULT_CPU_MODEL)));
        assert_eq!(destination("file:a:b"), Ok(Destination::File("a:b".into())));
        assert!(destination("file:").is_err() && destination("tcp").is_err());
        assert_eq!(firmware("bios"), Ok(Firmware::Bios));
        assert_eq!(firmware("./bios"), Ok(Firmware::File("./bios".into())));
        let text = FirmwareContent::Text("a,b=c".into());
        assert_eq!(firmware_file("name=opt/x,string=a,b=c"), Ok(FirmwareFile { name: "opt/x".into(), content: text }));
        assert!(
            ["", "opt/x", "name=x,string=a", "opt/x,file=", "opt/x,text=a"]
                .iter()
                .all(|text| firmware_file(text).is_err())
        );
        assert!(cpus("0").is_err() && cpus("-1").is_err() && cpus("4") == Ok(4));
        assert!(name("a b").is_err() && name("").is_err() && name("web-1.eu").is_ok());
    }
}
