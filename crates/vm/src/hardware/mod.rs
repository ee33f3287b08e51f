//! The wiring: a board's parts on its buses, with the addresses and interrupts that the board's data give.

mod chipset;
mod disks;
mod irq;
mod misc;
mod serial;

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devices::CharOut;
use devices::chipset::{AcpiPm, I8259Pair, Ioapic};
use devices::ide::IdeDisk;
use devices::misc::FwCfg;
use engine::Partition;
use machine::firmware::{Items, ShadowRam};
use machine::pci::{Bdf, PciBus, PciFunction};
use machine::{Board, Bus, Device, Shared};
use memory::GuestMemory;

use crate::control::Control;
use crate::{Config, Error, SerialPort};

/// The machine around the CPUs.
pub(crate) struct Hardware {
    pub(crate) ports: Arc<Bus>,
    pub(crate) mmio: Arc<Bus>,
    pub(crate) pic: Shared<I8259Pair>,
    pub(crate) ioapic: Shared<Ioapic>,
    pub(crate) pm: Shared<AcpiPm>,
    pub(crate) pci: Arc<PciBus>,
    pub(crate) serial: Vec<SerialPort>,
    /// Every device, in the order in which they are reset.
    devices: Vec<Arc<Mutex<dyn Device>>>,
}

/// The characters that leave the machine.
pub(crate) struct Outputs {
    pub(crate) serial: Vec<Box<dyn CharOut>>,
    pub(crate) debug: Option<Box<dyn CharOut>>,
}

impl Hardware {
    /// Builds the parts of `board` around `partition`; `items` is what firmware is told, if there is any.
    pub(crate) fn build(
        board: &'static Board,
        config: &Config,
        partition: &Arc<dyn Partition>,
        (memory, items): (&GuestMemory, Option<&Items>),
        (outputs, disks): (Outputs, Vec<IdeDisk>),
        control: &Arc<Control>,
    ) -> Result<Self, Error> {
        let mut wiring = Wiring {
            board,
            partition: Arc::clone(partition),
            ports: Arc::default(),
            mmio: Arc::default(),
            devices: Vec::new(),
        };
        let shadow = items.map(|_| {
            let (memory, partition) = (memory.clone(), Arc::clone(partition));
            ShadowRam::new(memory.clone(), move || {
                if let Err(error) = partition.layout_changed(&memory) {
                    tracing::error!(%error, "shadow RAM");
                }
            })
        });
        let (chipset, irqs) = chipset::build(&mut wiring, config, shadow)?;
        if let Some(items) = items {
            let at = board.ports.fw_cfg;
            wiring.at_ports(&FwCfg::new(items, memory.clone()), &[ports(at, 2), ports(at + 4, 8)])?;
        }
        disks::build(&mut wiring, &chipset.pci, &irqs, disks, memory)?;
        let serial = serial::build(&mut wiring, &irqs, outputs.serial)?;
        misc::build(&mut wiring, config, outputs.debug, control)?;
        Ok(Self {
            ports: wiring.ports,
            mmio: wiring.mmio,
            pic: chipset.pic,
            ioapic: chipset.ioapic,
            pm: chipset.pm,
            pci: chipset.pci,
            serial,
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
    partition: Arc<dyn Partition>,
    ports: Arc<Bus>,
    mmio: Arc<Bus>,
    devices: Vec<Arc<Mutex<dyn Device>>>,
}

impl Wiring {
    /// Takes a device into the machine, its windows at these ports.
    fn at_ports<D: Device + 'static>(&mut self, device: &Shared<D>, windows: &[Range<u16>]) -> Result<(), Error> {
        self.devices.push(Arc::clone(device) as _);
        for (ports, window) in windows.iter().zip(0..) {
            self.ports.map(u64::from(ports.start)..u64::from(ports.end), Arc::clone(device) as _, window)?;
        }
        Ok(())
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
