//! A VM from the outside.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};

use devices::CharOut;
use devices::optical::Tray;
use disk::Image;
use display::Picture;
use engine::{Engine, EngineConfig, Partition};
use machine::loader::Entry;
use machine::{Board, acpi};
use memory::GuestMemory;
use x86::CpuModel;

use crate::boot::{Boot, Given};
use crate::config::MAX_SERIAL_PORTS;
use crate::control::{Control, CpuStats, Job};
use crate::cpu::{CpuSeat, panic_text};
use crate::guest_panic::PanicTap;
use crate::hardware::{Hardware, Outside, lock};
use crate::model::cpu_model;
use crate::pins::Pins;
use crate::socket::Socket;
use crate::{Config, Disk, Error, OnGuestPanic, Outcome, Payload, SerialPort, Variables};

/// What the caller has opened for a VM.
pub struct Supplies {
    /// The engine that runs its code.
    pub engine: Arc<dyn Engine>,
    /// The firmware; without it the kernel is entered by itself.
    pub firmware: Option<Payload>,
    /// What holds the firmware's variables, where that has a flash chip of its own for them.
    pub variables: Option<Variables>,
    /// The kernel; with firmware there may be none.
    pub kernel: Option<Payload>,
    /// The initial RAM disk.
    pub initrd: Option<Payload>,
    /// The disks, in the order of their places.
    pub disks: Vec<Disk>,
    /// The ROM with which firmware uses the display; without it only the guest does.
    pub video_rom: Option<Payload>,
    /// Files for firmware and guest by the firmware configuration, with their names there.
    pub files: Vec<(String, Payload)>,
    /// Where the serial ports' output goes: COM1, COM2...
    pub serial: Vec<Box<dyn CharOut>>,
    /// Where the debug port's output goes; without it there is no such port.
    pub debug: Option<Box<dyn CharOut>>,
}

/// One virtual machine. Its methods may be called from any thread.
pub struct Vm {
    machine: Arc<Machine>,
    /// Taken by [`Vm::start`].
    start: Mutex<Option<Vec<CpuSeat>>>,
}

/// What the controller works with.
struct Machine {
    board: &'static Board,
    config: Config,
    memory: GuestMemory,
    model: CpuModel,
    socket: Arc<Socket>,
    /// Held by who moves the guest.
    moving: Mutex<()>,
    hardware: Hardware,
    control: Arc<Control>,
    boot: Mutex<Boot>,
    entry: Arc<Mutex<Option<Entry>>>,
    /// What the guest writes to: closed when the VM has ended.
    images: Vec<Arc<dyn Image>>,
}

impl Vm {
    /// Builds a VM with its guest loaded; nothing runs yet.
    ///
    /// # Errors
    /// [`Error`] names what is wrong and what to do.
    pub fn build(config: Config, supplies: Supplies) -> Result<Self, Error> {
        let board = Board::named(&config.board)?;
        let model = cpu_model(&config.cpus, supplies.engine.limits())?;
        check(&config, board, &*supplies.engine, supplies.serial.len())?;
        let contents = acpi::Contents {
            cpus: config.cpus.count,
            ram: config.memory,
            serial_ports: supplies.serial.len(),
            panic_port: config.on_guest_panic == OnGuestPanic::End,
        };
        let (mut boot, memory, items) = Boot::prepare(
            board,
            &config,
            &contents,
            Given {
                firmware: supplies.firmware,
                kernel: supplies.kernel,
                initrd: supplies.initrd,
                files: supplies.files,
                variables: supplies.variables.as_ref().map(|all| (all.name().to_owned(), all.bytes())),
            },
        )?;
        let entry = Arc::new(Mutex::new(boot.load(&memory, board, &config)?));

        let engine_config = EngineConfig { vcpus: config.cpus.count, name: config.name.clone() };
        let socket = Arc::new(Socket::new(supplies.engine.create(&engine_config, &memory)?));
        let partition: Arc<dyn Partition> = Arc::clone(&socket) as _;
        let control = Arc::new(Control::new(config.cpus.count));
        let mut serial = supplies.serial;
        if config.on_guest_panic == OnGuestPanic::End && !serial.is_empty() {
            let console = serial.remove(0);
            serial.insert(0, Box::new(PanicTap::new(console, Arc::clone(&control))));
        }
        let written = supplies.disks.iter().map(|disk| Arc::clone(&disk.image));
        let images = written.chain(supplies.variables.as_ref().and_then(Variables::image)).collect();
        let outside = Outside {
            partition: &partition,
            memory: &memory,
            items: items.as_ref(),
            flash: boot.flash().zip(supplies.variables),
            serial,
            debug: supplies.debug,
            disks: supplies.disks,
            video_rom: supplies.video_rom,
            control: &control,
        };
        let hardware = Hardware::build(board, &config, outside)?;
        let pins = Arc::new(Pins {
            ports: Arc::clone(&hardware.ports),
            mmio: Arc::clone(&hardware.mmio),
            pic: Arc::clone(&hardware.pic),
            ioapic: Arc::clone(&hardware.ioapic),
            on_reset: config.on_reset,
            control: Arc::clone(&control),
        });
        let seat = |id| CpuSeat {
            id,
            model: model.clone(),
            partition: Arc::clone(&partition),
            pins: Arc::clone(&pins),
            control: Arc::clone(&control),
            entry: Arc::clone(&entry),
            on_triple_fault: config.on_triple_fault,
        };
        let seats = (0..config.cpus.count).map(seat).collect();
        let boot = Mutex::new(boot);
        let moving = Mutex::default();
        let machine = Machine { board, config, memory, model, socket, moving, hardware, control, boot, entry, images };
        let machine = Arc::new(machine);
        Ok(Self { machine, start: Mutex::new(Some(seats)) })
    }

    /// Starts the VM: one thread per virtual CPU and the controller.
    ///
    /// # Errors
    /// [`Error::Thread`] when the host refuses a thread; the VM has then ended. [`Error::Started`] the second time.
    pub fn start(&self) -> Result<(), Error> {
        let seats = lock(&self.start).take().ok_or(Error::Started)?;
        let machine = Arc::clone(&self.machine);
        let mut cpus = Vec::new();
        let mut refused = None;
        for seat in seats {
            let (id, name) = (seat.id, format!("cpu{}", seat.id));
            match Builder::new().name(name.clone()).spawn(move || seat.occupy()) {
                Ok(thread) => cpus.push(thread),
                Err(source) => {
                    refused = Some(Error::Thread { name, source });
                    machine.control.gone(id);
                    machine.control.end(Outcome::Failed("a thread was refused".into()));
                    break;
                }
            }
        }
        let controller = Arc::clone(&machine);
        if let Err(source) = Builder::new().name("vm".into()).spawn(move || controller.control_threads(cpus)) {
            machine.control.end(Outcome::Failed("a thread was refused".into()));
            machine.control.done(Job::End);
            refused = Some(Error::Thread { name: "vm".into(), source });
        }
        refused.map_or(Ok(()), Err)
    }

    /// Stops the CPUs, the devices and virtual time, and returns when they stand still.
    pub fn pause(&self) {
        self.machine.control.set_pause(true);
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.machine.control.set_pause(false);
    }

    /// Has the guest go on on another engine, in the middle of its work; a VM that was paused stays so. When it cannot, it
    /// goes on where it is.
    ///
    /// # Errors
    /// [`Error::Beyond`] when the engine cannot do what the guest has been told its CPUs can; [`Error::EngineCpus`] when
    /// it has not as many; [`Error::Move`] when it does not take the guest's state; [`Error::NotRunning`].
    pub fn move_to(&self, engine: &dyn Engine) -> Result<(), Error> {
        let machine = &self.machine;
        let _one = lock(&machine.moving);
        let (limits, count) = (engine.limits(), machine.config.cpus.count);
        let missing: Vec<_> =
            machine.model.missing_from(&limits.ceiling).iter().map(|feature| format!("{feature:?}")).collect();
        if !missing.is_empty() {
            return Err(Error::Beyond { model: machine.model.name(), missing });
        }
        if count > limits.max_vcpus {
            return Err(Error::EngineCpus { count, most: limits.max_vcpus, engine: engine.name() });
        }
        if lock(&self.start).is_some() {
            return Err(Error::NotRunning);
        }
        machine.control.set_held(true);
        let moved = machine.move_to(engine);
        machine.control.set_held(false);
        moved
    }

    /// Resets the machine, whatever the guest thinks of it.
    pub fn reset(&self) {
        self.machine.control.reset();
    }

    /// Presses the power button: what comes of it is the guest's affair.
    pub fn power_button(&self) {
        lock(&self.machine.hardware.pm).press_power_button();
    }

    /// Pulls the plug.
    pub fn power_off(&self) {
        self.machine.control.end(Outcome::Stopped);
    }

    /// Waits until the VM has ended and its threads are gone.
    #[must_use]
    pub fn wait(&self) -> Outcome {
        self.machine.control.wait()
    }

    /// The memory.
    pub(crate) fn memory(&self) -> &GuestMemory {
        &self.machine.memory
    }

    /// The trays of the drives for discs, by serial numbers.
    pub(crate) fn trays(&self) -> &[(String, Arc<Tray>)] {
        &self.machine.hardware.trays
    }

    /// The outside end of a serial port, 0 for COM1.
    #[must_use]
    pub fn serial(&self, port: usize) -> Option<SerialPort> {
        self.machine.hardware.serial.get(port).cloned()
    }

    /// What the display shows, if there is one.
    #[must_use]
    pub fn picture(&self) -> Option<Arc<dyn Picture>> {
        self.machine.hardware.picture.clone()
    }

    /// The keyboard and the pointer, from the outside.
    #[must_use]
    pub fn input(&self) -> Arc<dyn display::Input> {
        Arc::clone(&self.machine.hardware.input) as _
    }

    /// What the engine has counted, for each CPU.
    #[must_use]
    pub fn stats(&self) -> Vec<CpuStats> {
        self.machine.control.stats()
    }
}

impl Machine {
    /// Moves the guest of a paused machine.
    fn move_to(&self, engine: &dyn Engine) -> Result<(), Error> {
        if !self.control.is_paused() {
            return Err(Error::NotRunning);
        }
        let failed = |reason: String| Error::Move { engine: engine.name(), reason };
        let config = EngineConfig { vcpus: self.config.cpus.count, name: self.config.name.clone() };
        let partition = engine.take_over(&config, &self.memory, self.socket.clock());
        let partition = partition.map_err(|error| failed(error.to_string()))?;
        self.socket.hold();
        let moved = self.control.move_cpus(Arc::clone(&partition));
        self.socket.release(moved.is_ok().then_some(partition));
        moved.map_err(failed)
    }

    /// The controller's thread.
    fn control_threads(&self, cpus: Vec<JoinHandle<()>>) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.work())) {
            self.control.end(Outcome::Failed(format!("controller: {}", panic_text(&*panic))));
        }
        for cpu in cpus {
            // A CPU's panic has been caught and told in its own thread.
            let _ = cpu.join();
        }
        self.socket.clock().pause();
        // What devices are at comes to its end, and what images hold back gets into their files: others have them open.
        self.hardware.pause();
        for image in &self.images {
            if let Err(error) = disk::block_on(image.close()) {
                tracing::error!("{error}");
            }
        }
        self.hardware.serial.iter().for_each(SerialPort::close);
        self.control.done(Job::End);
    }

    fn work(&self) {
        loop {
            let job = self.control.next_job();
            tracing::debug!(?job, "controller");
            match job {
                Job::Reset => {
                    self.socket.clock().pause();
                    if let Err(error) = self.reset() {
                        self.control.end(Outcome::Failed(format!("reset: {error}")));
                        continue;
                    }
                    if !self.control.is_paused() {
                        self.socket.clock().resume();
                    }
                }
                Job::Pause => {
                    self.socket.clock().pause();
                    self.hardware.pause();
                }
                Job::Resume => {
                    self.hardware.resume();
                    self.socket.clock().resume();
                }
                Job::End => return,
            }
            self.control.done(job);
        }
    }

    fn reset(&self) -> Result<(), Error> {
        let mut boot = lock(&self.boot);
        // At first all is as it was built, and what was typed already is not to be lost.
        if !boot.take_fresh() {
            self.hardware.reset();
            *lock(&self.entry) = boot.load(&self.memory, self.board, &self.config)?;
            boot.take_fresh();
        }
        Ok(())
    }
}

fn check(config: &Config, board: &Board, engine: &dyn Engine, serial_ports: usize) -> Result<(), Error> {
    let (count, most) = (config.cpus.count, engine.limits().max_vcpus);
    if count == 0 || count > board.max_cpus {
        return Err(Error::Cpus { count, most: board.max_cpus.min(most) });
    }
    if count > most {
        return Err(Error::EngineCpus { count, most, engine: engine.name() });
    }
    if config.memory < board.min_ram || config.memory > board.max_ram {
        let (least, most) = (board.min_ram, board.max_ram);
        return Err(Error::Memory { bytes: config.memory, board: board.name, least, most });
    }
    if serial_ports > MAX_SERIAL_PORTS {
        return Err(Error::SerialPorts { count: serial_ports, most: MAX_SERIAL_PORTS });
    }
    Ok(())
}
