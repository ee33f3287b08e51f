//! The wiring: a board's parts on its buses, with the addresses and interrupts that the board's data give.

mod boot_order;
mod chipset;
mod disks;
mod flash;
mod irq;
mod misc;
mod serial;
mod video;

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devices::CharOut;
use devices::chipset::{AcpiPm, I8259Pair, Ioapic};
use devices::misc::FwCfg;
use devices::optical::Tray;
use display::Picture;
use engine::Partition;
use machine::firmware::{Items, ShadowRam};
use machine::pci::{Bdf, PciBus, PciFunction};
use machine::{Board, Bus, Device, Shared};
use memory::GuestMemory;

use self::boot_order::BootOrder;
use crate::control::Control;
use crate::input::Ps2Input;
use crate::{Config, Disk, Error, Payload, SerialPort, Variables};

/// The devices of PCI bus 0 that are free for what a VM is given.
const FIRST_SLOT: u8 = 2;
const LAST_SLOT: u8 = 0x1b;

/// The machine around the CPUs.
pub(crate) struct Hardware {
    pub(crate) ports: Arc<Bus>,
    pub(crate) mmio: Arc<Bus>,
    pub(crate) pic: Shared<I8259Pair>,
    pub(crate) ioapic: Shared<Ioapic>,
    pub(crate) pm: Shared<AcpiPm>,
    pub(crate) pci: Arc<PciBus>,
    pub(crate) serial: Vec<SerialPort>,
    /// What the display shows.
    pub(crate) picture: Option<Arc<dyn Picture>>,
    /// What types and points from the outside.
    pub(crate) input: Arc<Ps2Input>,
    /// The trays of the drives for discs, by serial numbers.
    pub(crate) trays: Vec<(String, Arc<Tray>)>,
    /// Every device, in the order in which they are reset.
    devices: Vec<Arc<Mutex<dyn Device>>>,
}

/// What the machine is connected to.
pub(crate) struct Outside<'a> {
    pub(crate) partition: &'a Arc<dyn Partition>,
    pub(crate) memory: &'a GuestMemory,
    /// What firmware is told, if there is any.
    pub(crate) items: Option<&'a Items>,
    /// Where the flash chip with the firmware's variables is, and what is in it.
    pub(crate) flash: Option<(Range<u64>, Variables)>,
    pub(crate) serial: Vec<Box<dyn CharOut>>,
    pub(crate) debug: Option<Box<dyn CharOut>>,
    pub(crate) disks: Vec<Disk>,
    /// The ROM of the display.
    pub(crate) video_rom: Option<Payload>,
    pub(crate) control: &'a Arc<Control>,
}

impl Hardware {
    /// Builds the parts of `board`.
    pub(crate) fn build(board: &'static Board, config: &Config, outside: Outside<'_>) -> Result<Self, Error> {
        let Outside { partition, memory, items, flash, serial, debug, disks, video_rom, control } = outside;
        let mut wiring = Wiring {
            board,
            cpus: config.cpus.count,
            partition: Arc::clone(partition),
            memory: memory.clone(),
            free_slot: FIRST_SLOT,
            boot_order: BootOrder::default(),
            trays: Vec::new(),
            ports: Arc::default(),
            mmio: Arc::default(),
            devices: Vec::new(),
        };
        let shadow = items.map(|_| {
            let (memory, partition) = (memory.clone(), Arc::clone(partition));
            ShadowRam::new(&memory.clone(), move || {
                if let Err(error) = partition.layout_changed(&memory) {
                    tracing::error!(%error, "shadow RAM");
                }
            })
        });
        let (chipset, irqs) = chipset::build(&mut wiring, config, shadow)?;
        flash::build(&mut wiring, &chipset.pm, flash)?;
        let picture = video::build(&mut wiring, &chipset.pci, config.video, video_rom)?;
        disks::build(&mut wiring, &chipset.pci, &irqs, disks)?;
        if let Some(items) = items {
            let mut items = items.clone();
            items.add_boot_order(&std::mem::take(&mut wiring.boot_order).paths());
            let at = board.ports.fw_cfg;
            wiring.at_ports(&FwCfg::new(&items, memory.clone()), &[ports(at, 2), ports(at + 4, 8)])?;
        }
        let serial = serial::build(&mut wiring, &irqs, serial)?;
        misc::build(&mut wiring, config, debug, control)?;
        Ok(Self {
            ports: wiring.ports,
            mmio: wiring.mmio,
            pic: chipset.pic,
            ioapic: chipset.ioapic,
            pm: chipset.pm,
            pci: chipset.pci,
            serial,
            input: Ps2Input::new(chipset.keyboard),
            picture,
            trays: wiring.trays,
            devices: wiring.devices,
        })
    }

    /// Brings every device to the state of power-on.
    pub(crate) fn reset(&self) {
        self.devices.iter().for_each(|device| lock(device).reset());
        self.pci.sync_all();
    }

    /// Brings every device to a standstill.
    pub(crate) fn pause(&self) {
        for device in &self.devices {
            let _drained = lock(device).pause();
        }
    }

    /// Lets every device go on.
    pub(crate) fn resume(&self) {
        self.devices.iter().for_each(|device| lock(device).resume());
    }
}

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A machine that is being wired.
struct Wiring {
    board: &'static Board,
    cpus: u32,
    partition: Arc<dyn Partition>,
    memory: GuestMemory,
    /// The number of the next device on PCI bus 0 that nothing is at.
    free_slot: u8,
    /// What firmware can boot from.
    boot_order: BootOrder,
    /// The trays of the drives for discs, by serial numbers.
    trays: Vec<(String, Arc<Tray>)>,
    ports: Arc<Bus>,
    mmio: Arc<Bus>,
    devices: Vec<Arc<Mutex<dyn Device>>>,
}

impl Wiring {
    /// Takes a device into the machine, its windows at these ports.
    fn at_ports<D: Device + 'static>(&mut self, device: &Shared<D>, windows: &[Range<u16>]) -> Result<(), Error> {
        self.devices.push(Arc::clone(device) as _);
        windows.iter().zip(0..).try_for_each(|(ports, window)| self.map_ports(device, ports, window))
    }

    /// Gives these ports to a device, as its window `window`.
    fn map_ports<D: Device + 'static>(&self, device: &Shared<D>, ports: &Range<u16>, window: u8) -> Result<(), Error> {
        Ok(self.ports.map(u64::from(ports.start)..u64::from(ports.end), Arc::clone(device) as _, window)?)
    }

    /// The next free place on PCI bus 0: the chipset has the lowest and the highest ones.
    fn next_slot(&mut self) -> Result<Bdf, Error> {
        let slot = self.free_slot;
        if slot > LAST_SLOT {
            return Err(Error::Slots { most: LAST_SLOT - FIRST_SLOT + 1 });
        }
        self.free_slot += 1;
        Ok(Bdf::root(slot, 0))
    }

    /// Takes a PCI function into the machine.
    fn add_function<F: PciFunction + 'static>(
        &mut self,
        pci: &PciBus,
        at: Bdf,
        function: &Shared<F>,
    ) -> Result<(), Error> {
        self.devices.push(Arc::clone(function) as _);
        Ok(pci.add(at, Arc::clone(function))?)
    }

    /// Takes a device into the machine, its window 0 at these addresses.
    fn at_memory<D: Device + 'static>(&mut self, device: &Shared<D>, range: Range<u64>) -> Result<(), Error> {
        self.devices.push(Arc::clone(device) as _);
        Ok(self.mmio.map(range, Arc::clone(device) as _, 0)?)
    }
}

/// `len` ports from `first` on.
fn ports(first: u16, len: u16) -> Range<u16> {
    first..first + len
}
