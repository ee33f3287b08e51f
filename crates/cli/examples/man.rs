//! Writes the man pages of `husk` into a folder, or tells with `--check` whether those there are current.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (folder, check) = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [folder] => (folder, false),
        [folder, "--check"] => (folder, true),
        _ => {
            eprintln!("usage: man FOLDER [--check]");
            return ExitCode::from(2);
        }
    };
    let mut command = cli::command().disable_help_subcommand(true);
    command.build();
    match pages("", &command, Path::new(folder), check) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("man: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The page of a command and those of the commands below it.
fn pages(above: &str, command: &clap::Command, folder: &Path, check: bool) -> Result<(), String> {
    let name = if above.is_empty() { command.get_name().to_owned() } else { format!("{above}-{}", command.get_name()) };
    let mut page = Vec::new();
    let man = clap_mangen::Man::new(command.clone()).title(name.as_str());
    man.render(&mut page).map_err(|e| format!("cannot render {name}: {e}"))?;
    let path = folder.join(format!("{name}.1"));
    if check {
        if std::fs::read(&path).ok().as_deref() != Some(&page) {
            return Err(format!("{} is not current: run `cargo xtask man`", path.display()));
        }
    } else {
        std::fs::create_dir_all(folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
        std::fs::write(&path, page).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    }
    command.get_subcommands().try_for_each(|sub| pages(&name, sub, folder, check))
}
