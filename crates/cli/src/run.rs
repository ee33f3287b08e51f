//! `husk run`.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use base::{Interrupt, Interrupts, RawMode};
use vm::{CharOut, Config, Cpus, Outcome, Payload, Supplies, Vm};

use crate::args::Run;
use crate::console::{self, Output};
use crate::control;
use crate::default_guest;
use crate::drives;
use crate::engines::{self, Chosen};
use crate::failure::{BAD_INPUT, Failure, INTERNAL, cause};
use crate::firmware;
use crate::size;
use crate::stats;
use crate::values::{Control, Destination, Firmware};
use crate::video;
use crate::vnc;

/// The exit code when the guest has failed.
const GUEST_FAILED: u8 = 1;
/// A reader of standard output that takes nothing for this long at the end has lost its interest.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// SIGPIPE, which never comes as a signal.
const SIGPIPE: i32 = 13;

/// What has ended the run from outside.
enum Cause {
    /// A signal, by its number.
    Signal(i32),
    /// Standard output takes no more.
    Output(Failure),
}

/// What has ended the run from outside, if something has.
type Ended = Arc<Mutex<Option<Cause>>>;

pub(crate) fn run(args: Run) -> Result<ExitCode, Failure> {
    base::name_thread(&args.name);
    let ended = Ended::default();
    let running = Arc::<OnceLock<Arc<Vm>>>::default();
    let output = output(&running, &ended)?;
    let (vm, chosen) = build(&args, &output)?;
    let vm = Arc::new(vm);
    // Set once, here.
    let _ = running.set(Arc::clone(&vm));
    listen_to_signals(&vm, &output, &ended)?;

    let first_stdio = serial_ports(&args).iter().position(|port| *port == Destination::Stdio);
    announce(&chosen);
    let raw = if first_stdio.is_some() { enter_raw_mode()? } else { None };
    if raw.is_some() {
        output.put(b"Ctrl-A x stops the VM, Ctrl-A h shows all keys.\r\n");
    }
    // Gone when the VM has ended.
    let _place = open_control(&args, &vm, chosen.engine.name())?;
    let _socket = args.vnc.as_ref().map(|choice| vnc::start(choice, &args.name, &vm)).transpose()?;
    vm.start().map_err(|e| failure(&e))?;
    if let Some(port) = first_stdio.and_then(|index| vm.serial(index)) {
        console::read_input(Arc::clone(&vm), port, Arc::clone(&output))?;
    }
    let outcome = vm.wait();
    output.flush(LAST_WORDS);
    drop(raw);
    if tracing::enabled!(tracing::Level::INFO) {
        stats::lines(&vm.stats()).iter().for_each(|line| tracing::info!("{line}"));
    }
    if args.stats {
        // With standard error gone there is nobody to tell.
        let _ = io::stderr().write_all(stats::table(&vm.stats()).as_bytes());
    }
    let cause = ended.lock().unwrap_or_else(PoisonError::into_inner).take();
    tell(&args.name, outcome, cause, chosen.engine.name())
}

/// Opens the control socket, if there is to be one and can be.
fn open_control(args: &Run, vm: &Arc<Vm>, engine: &'static str) -> Result<Option<control::Place>, Failure> {
    if args.control == Control::None {
        return Ok(None);
    }
    let mut place = match control::Place::take(&args.name) {
        Ok(place) => place,
        Err(control::NoPlace::Taken) => {
            let fix = "take another name, or --control none";
            return Err(Failure::input(format!("--name {}", args.name), "a VM of this name runs already", fix));
        }
        Err(control::NoPlace::Refused(folder, error)) => {
            // The VM runs as well without.
            tracing::info!("no control socket in {}: {}", folder.display(), cause(&error));
            return Ok(None);
        }
    };
    if let Some(listener) = place.listener() {
        let refused = |e: io::Error| Failure::internal(format!("control socket: {}; try --control none", cause(&e)));
        control::serve(listener, Arc::clone(vm), engine).map_err(refused)?;
    }
    tracing::info!("its name for other commands is {}", place.name());
    Ok(Some(place))
}

fn serial_ports(args: &Run) -> &[Destination] {
    if args.serial.is_empty() { &[Destination::Stdio] } else { &args.serial }
}

/// Opens what the VM needs and builds it.
fn build(args: &Run, output: &Arc<Output>) -> Result<(Vm, Chosen), Failure> {
    let drives = args.image.is_some() || !args.disk.is_empty() || !args.cdrom.is_empty();
    let memory = args.memory.unwrap_or_else(|| usual_memory(drives && args.kernel.is_none()));
    if let Some(host) = base::memory_bytes().filter(|host| memory > *host) {
        let cause = format!("the host has only {}", size::show(host));
        return Err(Failure::input(format!("--memory {}", size::show(memory)), cause, "give the VM less"));
    }
    let board = args.machine.clone().unwrap_or_else(|| drives::board(args));
    let (kernel, initrd) = match &args.kernel {
        Some(kernel) => (Some(kernel.clone()), args.initrd.clone()),
        None if args.firmware.is_some() || drives => (None, None),
        None => {
            let guest = default_guest::find()?;
            (Some(guest.kernel), Some(args.initrd.clone().unwrap_or(guest.initrd)))
        }
    };
    if kernel.is_none() && (args.initrd.is_some() || args.append.is_some()) {
        return Err(Failure::input("--initrd and --append", "there is no kernel that they are for", "add --kernel"));
    }
    // Who gives a disk and no kernel wants to boot from it.
    let firmware = args.firmware.as_ref().or(kernel.is_none().then_some(&Firmware::Bios));
    let card = video::card(args.vga, firmware.is_some() || args.vnc.is_some());
    let video_rom = firmware.filter(|_| card != vm::Video::None).and_then(video::rom);
    let config = Config {
        name: args.name.clone(),
        board: board.clone(),
        cpus: Cpus {
            count: args.cpus,
            model: args.cpu.clone().unwrap_or_else(|| vm::DEFAULT_CPU_MODEL.to_owned()),
            // Who names no model has not asked for all that is in it.
            relaxed: args.cpu_relaxed || args.cpu.is_none(),
        },
        memory,
        append: args.append.clone().unwrap_or_else(|| default_append(args.kernel.is_none())),
        entry: args.entry,
        debug_exit: args.debug_exit,
        video: card,
        on_reset: args.reboot,
        on_triple_fault: args.triple_fault,
        on_guest_panic: args.guest_panic,
        ..Config::default()
    };
    let kernel = kernel.map(|path| open("kernel", &path)).transpose()?;
    let initrd = initrd.map(|path| open("initrd", &path)).transpose()?;
    let variables_file = args.firmware_vars.as_deref();
    let (firmware, variables) = match firmware {
        Some(firmware) => firmware::open(firmware, variables_file).map(|(code, variables)| (Some(code), variables))?,
        None => firmware::without(&args.fw_cfg, variables_file).map(|()| (None, None))?,
    };
    let counted = args.stats || tracing::enabled!(tracing::Level::INFO);
    let chosen = engines::choose(&args.engine.0, counted, &args.kvm_device)?;
    let supplies = Supplies {
        firmware,
        variables,
        kernel,
        initrd,
        disks: drives::open(args, &board)?,
        video_rom,
        files: firmware::files(&args.fw_cfg)?,
        engine: Arc::clone(&chosen.engine),
        serial: serial_ports(args).iter().map(|port| destination(port, output)).collect::<Result<_, _>>()?,
        debug: match &args.debug_port {
            Destination::None => None,
            some => Some(destination(some, output)?),
        },
    };
    let vm = Vm::build(config, supplies).map_err(|error| match &error {
        vm::Error::Engine(_) if !error.is_input() => {
            Failure::internal(engines::with_advice(chosen.engine.name(), error.to_string()))
        }
        _ => failure(&error),
    })?;
    Ok((vm, chosen))
}

/// Says which engine it is, on standard error: the console is the guest's. Who has chosen knows it already.
fn announce(chosen: &Chosen) {
    let line = chosen.line();
    if chosen.automatic && tracing::enabled!(tracing::Level::WARN) {
        // With standard error gone there is nobody to tell.
        let _ = writeln!(io::stderr(), "{line}");
    } else {
        tracing::info!("{line}");
    }
}

/// The command line for a user who gives none. A serial line does not tell the size of the terminal at its other end, so the
/// default guest, which understands it, is told here.
fn default_append(default_guest: bool) -> String {
    let mut append = String::from("console=ttyS0");
    if default_guest && io::stdin().is_terminal() {
        if let Some(size) = base::window_size(io::stdin()) {
            append.push_str(&format!(" LINES={} COLUMNS={}", size.rows, size.columns));
        }
        let plain = |name: &String| name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+".contains(c));
        if let Some(kind) = std::env::var("TERM").ok().filter(|name| !name.is_empty()).filter(plain) {
            append.push_str(&format!(" TERM={kind}"));
        }
    }
    append
}

fn failure(error: &vm::Error) -> Failure {
    Failure::new(error.to_string(), if error.is_input() { BAD_INPUT } else { INTERNAL })
}

/// The memory of a VM for which none is named: a system on a disk wants more than a kernel with its initial RAM disk.
fn usual_memory(system: bool) -> u64 {
    const KERNEL: u64 = 512 << 20;
    const SYSTEM: u64 = 2 << 30;
    if !system {
        return KERNEL;
    }
    // In whole MiB.
    let quarter = base::memory_bytes().map_or(SYSTEM, |host| (host / 4) & !((1 << 20) - 1));
    quarter.clamp(KERNEL, SYSTEM)
}

pub(crate) fn open(what: &str, path: &Path) -> Result<Payload, Failure> {
    let name = format!("{what} {}", path.display());
    match base::open_at_once(path) {
        Ok(file) => Ok(Payload::file(name, file)),
        Err(error) => Err(Failure::input(name, cause(&error), "check the path and its permissions")),
    }
}

fn destination(to: &Destination, output: &Arc<Output>) -> Result<Box<dyn CharOut>, Failure> {
    match to {
        Destination::Stdio => Ok(output.port()),
        Destination::None => Ok(Box::new(|_: &[u8]| {})),
        Destination::File(path) => {
            let name = path.display().to_string();
            let refused =
                |e| Failure::input(format!("port file {name}"), cause(&e), "check the folder and its permissions");
            Ok(console::file_port(File::create(path).map_err(refused)?, name.clone()))
        }
    }
}

fn output(running: &Arc<OnceLock<Arc<Vm>>>, ended: &Ended) -> Result<Arc<Output>, Failure> {
    let (running, ended) = (Arc::clone(running), Arc::clone(ended));
    let gone = move |error: io::Error| {
        tracing::info!("standard output: {error}; the VM is stopped");
        // A reader that has gone away ends the VM, as SIGPIPE ends other commands.
        let gone_away = error.kind() == io::ErrorKind::BrokenPipe;
        let cause = if gone_away { Cause::Signal(SIGPIPE) } else { Cause::Output(Failure::output(&error)) };
        ended.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(cause);
        if let Some(vm) = running.get() {
            vm.power_off();
        }
    };
    let refused = |e: io::Error| Failure::output(&e);
    let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(refused)?;
    Output::start(File::from(stdout), gone).map_err(refused)
}

/// Puts the terminal into raw mode if standard input is one, and has a panic of any thread give it back.
fn enter_raw_mode() -> Result<Option<RawMode>, Failure> {
    if !io::stdin().is_terminal() {
        return Ok(None);
    }
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        RawMode::restore();
        before(panic);
    }));
    RawMode::enter(io::stdin()).map_err(|e| Failure::internal(format!("terminal: {}; use a pipe instead", cause(&e))))
}

fn listen_to_signals(vm: &Arc<Vm>, output: &Arc<Output>, ended: &Ended) -> Result<(), Failure> {
    let refused = |e: io::Error| Failure::internal(format!("signals: {}; check the limits of the process", cause(&e)));
    let mut interrupts = Interrupts::take().map_err(refused)?;
    let (vm, output, ended) = (Arc::clone(vm), Arc::clone(output), Arc::clone(ended));
    let listen = move || {
        while let Some(interrupt) = interrupts.wait() {
            let signal = match interrupt {
                Interrupt::Continue => {
                    RawMode::renew();
                    continue;
                }
                Interrupt::Terminate(signal) => signal,
            };
            let cause = Cause::Signal(signal);
            let first = ended.lock().unwrap_or_else(PoisonError::into_inner).replace(cause).is_none();
            if !first {
                // Whoever asks twice does not want to wait.
                RawMode::restore();
                std::process::exit(128 + signal);
            }
            output.abandon();
            vm.power_off();
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(listen).map(drop).map_err(refused)
}

/// The line and the exit code for what became of the VM.
fn tell(name: &str, outcome: Outcome, cause: Option<Cause>, engine: &str) -> Result<ExitCode, Failure> {
    match outcome {
        Outcome::PowerOff | Outcome::Reset => Ok(ExitCode::SUCCESS),
        Outcome::Stopped => match cause {
            Some(Cause::Output(failure)) => Err(failure),
            Some(Cause::Signal(signal)) => Ok(u8::try_from(128 + signal).map_or(ExitCode::SUCCESS, ExitCode::from)),
            None => Ok(ExitCode::SUCCESS),
        },
        Outcome::Exit(code) => Ok(ExitCode::from(code)),
        Outcome::TripleFault(registers) => {
            let cause = "triple fault: the CPU could not deliver an exception, and shut down";
            Err(Failure::new(format!("VM {name}: {cause}; {registers}"), GUEST_FAILED))
        }
        Outcome::GuestPanic(line) => Err(Failure::new(format!("VM {name}: guest panic: {line}"), GUEST_FAILED)),
        Outcome::Failed(what) => Err(Failure::internal(format!("VM {name}: {}", engines::with_advice(engine, what)))),
    }
}
