//! One virtual CPU's state as the interpreter keeps it.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use engine::CpuIo;
use x86::bits::{cr0, efer, rflags};
use x86::{CpuModel, DescriptorTable, Msrs, Segment};

use crate::block::BlockCache;
use crate::debug::Watch;
use crate::flags::Flags;
use crate::fpu::Fpu;
use crate::jit::{Context, Jit};
use crate::lockstep::Journal;
use crate::mmu::Mmu;
use crate::partition::Shared;
use crate::pending::{Pending, Slot};
use crate::stats::{Stats, ticks};

/// Indices into [`Cpu::regs`].
#[allow(dead_code, reason = "the whole set, named once")]
pub(crate) mod reg {
    pub(crate) const RAX: usize = 0;
    pub(crate) const RCX: usize = 1;
    pub(crate) const RDX: usize = 2;
    pub(crate) const RBX: usize = 3;
    pub(crate) const RSP: usize = 4;
    pub(crate) const RBP: usize = 5;
    pub(crate) const RSI: usize = 6;
    pub(crate) const RDI: usize = 7;
    pub(crate) const R11: usize = 11;
    /// Always zero: stands for "no register" in addresses.
    pub(crate) const NONE: usize = 16;
}

/// Indices into [`Cpu::seg`].
pub(crate) mod sreg {
    pub(crate) const ES: usize = 0;
    pub(crate) const CS: usize = 1;
    pub(crate) const SS: usize = 2;
    pub(crate) const DS: usize = 3;
    pub(crate) const FS: usize = 4;
    pub(crate) const GS: usize = 5;
}

/// An exception has been raised; what it is stands in [`Cpu::fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Raised;

/// The result of a step that may raise an exception.
pub(crate) type Exec<T = ()> = Result<T, Raised>;

/// An exception that has been raised but not yet delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Fault {
    pub(crate) vector: u8,
    pub(crate) error_code: Option<u32>,
}

/// The size of the code that is being run, as CS and EFER.LMA say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum CodeSize {
    Bits16 = 16,
    Bits32 = 32,
    Bits64 = 64,
}

/// Why the run loop has to leave the straight line after the current instruction.
pub(crate) mod leave {
    /// The rest of the block may be stale: go back to the block lookup.
    pub(crate) const BLOCK: u8 = 1;
    /// The CPU has halted or shut down.
    pub(crate) const IDLE: u8 = 2;
    /// A stop for the machine is in [`super::Cpu::stop`].
    pub(crate) const STOP: u8 = 4;
}

/// The CPU. One per vCPU thread; nothing in it is shared but `slot` and `shared`.
#[repr(C)]
pub(crate) struct Cpu {
    /// The general-purpose registers, and zeros from [`reg::NONE`] on: a power of two, so that no index needs a check.
    pub(crate) regs: [u64; 32],
    /// While an instruction runs: the address of the next one. A handler that jumps writes it.
    pub(crate) rip: u64,
    /// CF, PF, AF, ZF, SF and OF, lazily.
    pub(crate) flags: Flags,
    /// The other bits of RFLAGS; the six above and bit 1 are zero here. IF and VM change through
    /// [`Cpu::set_system_flags`] only.
    pub(crate) system_flags: u64,
    /// [`leave`] bits, looked at after each instruction.
    pub(crate) leave: u8,
    /// The current privilege level; kept by whoever loads CS or SS.
    pub(crate) cpl: u8,
    /// What CS and EFER make of the code; kept by [`Cpu::update_mode`].
    pub(crate) code_size: CodeSize,
    /// Which table of the software TLB data accesses use; kept by [`Cpu::update_mode`].
    pub(crate) data_table: u8,
    /// The interrupt bits of [`Pending`] that would be taken now; kept by [`Cpu::update_mode`].
    pub(crate) interest: u32,
    /// STI or a load of SS holds interrupts back until after the next instruction.
    pub(crate) shadow: bool,
    /// ES, CS, SS, DS, FS, GS. In 64-bit mode the bases of the first four read as they are but count as zero.
    pub(crate) seg: [Segment; 6],
    pub(crate) ldt: Segment,
    pub(crate) tr: Segment,
    pub(crate) gdt: DescriptorTable,
    pub(crate) idt: DescriptorTable,
    pub(crate) cr0: u64,
    pub(crate) cr2: u64,
    pub(crate) cr3: u64,
    pub(crate) cr4: u64,
    /// DR0 to DR3, DR6, DR7.
    pub(crate) dr: [u64; 6],
    pub(crate) xcr0: u64,
    pub(crate) msrs: Msrs,
    /// The exception that goes with a [`Raised`].
    pub(crate) fault: Fault,
    /// HLT has been executed and nothing has woken the CPU since.
    pub(crate) halted: bool,
    pub(crate) nmi_blocked: bool,
    /// What the state that was loaded has on its way; delivered when a run begins.
    pub(crate) injecting: Option<x86::Event>,
    /// After INIT: waits for a start-up IPI.
    pub(crate) wait_for_sipi: bool,
    /// Set by the delivery of an event: the instruction that it comes from is not single-stepped.
    pub(crate) delivered: bool,
    /// The page of the local APIC's registers, all ones when they are not in memory.
    pub(crate) lapic_page: u64,
    /// What the run is to return, with [`leave::STOP`].
    pub(crate) stop: Option<engine::Stop>,
    pub(crate) fpu: Fpu,
    pub(crate) mmu: Mmu,
    pub(crate) blocks: BlockCache,
    /// Watched addresses: the guest's debug registers and the debugger's breakpoints.
    pub(crate) watch: Watch,
    pub(crate) model: CpuModel,
    pub(crate) id: u32,
    pub(crate) slot: Arc<Slot>,
    pub(crate) shared: Arc<Shared>,
    /// The machine's side of the pins during a run.
    pub(crate) io: Option<NonNull<dyn CpuIo>>,
    pub(crate) stats: Stats,
    /// Open while a run may have to be taken back: see [`crate::lockstep`].
    pub(crate) journal: Option<Box<Journal>>,
    /// Why the engine cannot go on, with [`leave::STOP`].
    pub(crate) failure: Option<String>,
    /// What translated code and its callers tell each other.
    pub(crate) jit: Context,
    /// The translator, if there is one.
    pub(crate) translator: Option<Box<Jit>>,
}

impl Cpu {
    /// RFLAGS as the guest sees it.
    #[inline]
    pub(crate) fn rflags(&self) -> u64 {
        self.flags.bits() | self.system_flags | rflags::ONE
    }

    /// Sets all of RFLAGS; the caller has masked what may not change.
    #[inline]
    pub(crate) fn set_rflags(&mut self, value: u64) {
        self.flags.set_bits(value);
        self.set_system_flags(value & !(rflags::STATUS | rflags::ONE));
    }

    /// Sets the bits of RFLAGS that are not arithmetic's.
    #[inline]
    pub(crate) fn set_system_flags(&mut self, value: u64) {
        self.system_flags = value & !(rflags::STATUS | rflags::ONE);
        self.update_mode();
        // Interrupts, single step and the address mode are looked at between blocks.
        self.leave |= leave::BLOCK;
    }

    /// Derives code size, TLB table and interest in interrupts from the registers that decide them. To be called after
    /// a change of CS, CPL, CR0, CR4, EFER or the system flags. Also ends the block.
    pub(crate) fn update_mode(&mut self) {
        let cs = &self.seg[sreg::CS];
        self.code_size = if self.long_mode() && cs.has(Segment::LONG) {
            CodeSize::Bits64
        } else if self.protected() && !self.v86() && cs.has(Segment::DB) {
            CodeSize::Bits32
        } else if !self.protected() && cs.has(Segment::DB) {
            // A 32-bit code segment kept while leaving protected mode: "unreal" code stays 32-bit.
            CodeSize::Bits32
        } else {
            CodeSize::Bits16
        };
        let table = Mmu::table_for(self.cpl, self.cr0, self.cr4, self.system_flags);
        if table != self.data_table {
            self.data_table = table;
            self.jit.close_window();
        }
        self.interest = Pending::ALWAYS | if self.system_flags & rflags::IF != 0 { Pending::MASKABLE } else { 0 };
        if self.nmi_blocked {
            self.interest &= !Pending::NMI;
        }
        self.leave |= leave::BLOCK;
    }

    /// CR0.PE.
    #[inline]
    pub(crate) fn protected(&self) -> bool {
        self.cr0 & cr0::PE != 0
    }

    /// Virtual-8086 mode.
    #[inline]
    pub(crate) fn v86(&self) -> bool {
        self.system_flags & rflags::VM != 0
    }

    /// Real mode or virtual-8086 mode: segments are paragraphs.
    #[inline]
    pub(crate) fn paragraph_segments(&self) -> bool {
        !self.protected() || self.v86()
    }

    /// EFER.LMA: 64-bit or compatibility mode.
    #[inline]
    pub(crate) fn long_mode(&self) -> bool {
        self.msrs.efer & efer::LMA != 0
    }

    /// 64-bit mode.
    #[inline]
    pub(crate) fn is64(&self) -> bool {
        self.code_size == CodeSize::Bits64
    }

    /// IOPL.
    #[inline]
    pub(crate) fn iopl(&self) -> u8 {
        ((self.system_flags & rflags::IOPL) >> 12) as u8
    }

    /// Calls out to the machine. Meanwhile other vCPUs need not wait for this one: a device may take its time, or want
    /// a lock.
    pub(crate) fn call_out<R>(&mut self, call: impl FnOnce(&dyn CpuIo) -> R) -> R {
        let in_guest = self.slot.in_guest.swap(false, Ordering::SeqCst);
        let start = ticks();
        let result = match self.io {
            // SAFETY: set from a reference that outlives the run, and cleared when the run ends.
            Some(io) => call(unsafe { io.as_ref() }),
            None => call(&crate::run::Nowhere),
        };
        self.stats.device_ticks += ticks().saturating_sub(start);
        self.slot.in_guest.store(in_guest, Ordering::SeqCst);
        self.serve_shootdown();
        // The next instruction already sees the memory that the device has mapped.
        if self.slot.pending().load(Ordering::Relaxed) & Pending::LAYOUT != 0 {
            self.leave |= leave::BLOCK;
        }
        result
    }

    /// Raises exception `vector` without an error code.
    #[cold]
    pub(crate) fn raise(&mut self, vector: u8) -> Raised {
        self.fault = Fault { vector, error_code: None };
        Raised
    }

    /// Raises exception `vector` with an error code.
    #[cold]
    pub(crate) fn raise_code(&mut self, vector: u8, error_code: u32) -> Raised {
        self.fault = Fault { vector, error_code: Some(error_code) };
        Raised
    }

    /// #UD.
    #[cold]
    pub(crate) fn ud(&mut self) -> Raised {
        self.raise(x86::bits::vector::UD)
    }

    /// #GP with an error code: zero, or a selector.
    #[cold]
    pub(crate) fn gp(&mut self, error_code: u16) -> Raised {
        self.raise_code(x86::bits::vector::GP, u32::from(error_code))
    }

    /// #SS with an error code: zero, or a selector.
    #[cold]
    pub(crate) fn ss(&mut self, error_code: u16) -> Raised {
        self.raise_code(x86::bits::vector::SS, u32::from(error_code))
    }

    /// Ends the run with an error: the engine itself has failed.
    #[cold]
    pub(crate) fn fail(&mut self, why: String) {
        self.failure = Some(why);
        self.stop_with(engine::Stop::Kicked);
    }

    /// Ends the run with `stop` after this instruction.
    pub(crate) fn stop_with(&mut self, stop: engine::Stop) {
        self.stop = Some(stop);
        self.leave |= leave::STOP;
    }
}
