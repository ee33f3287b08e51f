//! The programs of Husk's benchmark: one static binary that runs on the host and in guests alike.
//!
//! As the first process of a guest it prepares the machine and serves; see [`server`] for what is said on its standard
//! input and output.

mod codegen;
mod cpu;
mod float;
mod init;
mod integer;
mod memory;
mod server;
mod system;
mod workload;

use std::process::ExitCode;

const USAGE: &str = "\
usage: bench list                 prints the workloads: group, name, what it does
       bench run NAME [UNITS]     runs units of a workload, prints the checksum and the time of a unit
       bench check [TEXT...]      runs two units of each workload with one of the texts in group/name, prints checksums
       bench serve                takes orders from the standard input, as `cargo xtask bench` gives them";

fn main() -> ExitCode {
    if std::process::id() == 1 {
        init::run();
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        // What workloads start to see how fast programs start.
        ["nothing"] => {}
        ["list"] => {
            workload::all().for_each(|(group, workload)| println!("{group}\t{}\t{}", workload.name, workload.what));
        }
        ["run", name] => return server::by_hand(name, 1),
        ["run", name, units] => match units.parse() {
            Ok(units) => return server::by_hand(name, units),
            Err(error) => {
                eprintln!("bench: {units}: {error}");
                return ExitCode::from(2);
            }
        },
        ["check", ref texts @ ..] => return server::check(texts),
        ["serve"] => server::serve(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
