//! The binary `husk`: see the library.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    cli::main()
}
