//! The architectural state of one CPU, the same type for every engine.

use crate::lapic::LapicState;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Everything that a CPU remembers between two instructions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CpuState {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gpr: [u64; 16],
    /// The instruction pointer.
    pub rip: u64,
    /// RFLAGS; bit 1 is always set.
    pub rflags: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub seg: [Segment; 6],
    /// The local descriptor table register.
    pub ldt: Segment,
    /// The task register.
    pub tr: Segment,
    /// The global descriptor table.
    pub gdt: DescriptorTable,
    /// The interrupt descriptor table.
    pub idt: DescriptorTable,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// DR0 to DR3, DR6, DR7.
    pub dr: [u64; 6],
    /// XCR0.
    pub xcr0: u64,
    /// The model-specific registers.
    pub msrs: Msrs,
    /// x87, MMX, SSE and AVX state.
    pub xsave: XsaveArea,
    /// The local APIC; CR8 is in its task priority.
    pub lapic: LapicState,
    /// Whether it runs.
    pub activity: Activity,
    /// What is about to be delivered or held back.
    pub events: Events,
}

/// A segment register with its hidden part (SDM vol. 3A, 3.4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[repr(C)]
pub struct Segment {
    /// The base address.
    pub base: u64,
    /// The limit in bytes, granularity applied.
    pub limit: u32,
    /// The visible selector.
    pub selector: u16,
    /// Access rights as in bits 8 to 23 of a descriptor's second word: type, S, DPL, P, (4 bits of nothing), AVL, L, D/B,
    /// G; and [`Segment::UNUSABLE`].
    pub attr: u16,
}

impl Segment {
    /// In `attr`: the register was loaded with a null selector. One of the bits that hold limit 16..19 in a descriptor.
    pub const UNUSABLE: u16 = 1 << 8;
    /// In `attr`: accessed, for code and data.
    pub const ACCESSED: u16 = 1;
    /// In `attr`: writable data, or readable code.
    pub const WRITABLE_OR_READABLE: u16 = 1 << 1;
    /// In `attr`: expand-down data, or conforming code.
    pub const EXPAND_DOWN_OR_CONFORMING: u16 = 1 << 2;
    /// In `attr`: code.
    pub const CODE: u16 = 1 << 3;
    /// In `attr`: S, a code or data segment, not a system one.
    pub const S: u16 = 1 << 4;
    /// In `attr`: present.
    pub const PRESENT: u16 = 1 << 7;
    /// In `attr`: L, 64-bit code.
    pub const LONG: u16 = 1 << 13;
    /// In `attr`: D/B, 32-bit code or stack.
    pub const DB: u16 = 1 << 14;
    /// In `attr`: G, the limit counts pages. The limit here has it applied already.
    pub const GRANULARITY: u16 = 1 << 15;

    /// The descriptor's privilege level.
    #[must_use]
    pub const fn dpl(&self) -> u8 {
        (self.attr >> 5 & 3) as u8
    }

    /// The type field.
    #[must_use]
    pub const fn kind(&self) -> u8 {
        (self.attr & 15) as u8
    }

    /// Whether all bits of `mask` are set in the access rights.
    #[must_use]
    pub const fn has(&self, mask: u16) -> bool {
        self.attr & mask == mask
    }

    /// Whether it may be used for memory accesses.
    #[must_use]
    pub const fn is_usable(&self) -> bool {
        self.attr & Self::UNUSABLE == 0
    }

    /// The segment of real mode that `selector` stands for.
    #[must_use]
    pub const fn real(selector: u16) -> Self {
        Self {
            base: (selector as u64) << 4,
            limit: 0xffff,
            selector,
            attr: Self::PRESENT | Self::S | Self::WRITABLE_OR_READABLE | Self::ACCESSED,
        }
    }
}

/// GDTR or IDTR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DescriptorTable {
    /// The linear address of the table.
    pub base: u64,
    /// The offset of its last byte.
    pub limit: u16,
}

/// The model-specific registers that hold state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Msrs {
    /// IA32_EFER.
    pub efer: u64,
    /// IA32_APIC_BASE.
    pub apic_base: u64,
    /// The rate of the time-stamp counter in hertz, which the guest has been told or has measured: a guest goes on at this
    /// rate on whatever engine. Zero stands for the engine's own, in a state that no guest has seen.
    pub tsc_hz: u64,
    /// The time-stamp counter is the engine's clock in ticks of `tsc_hz` plus this (two's complement).
    pub tsc_offset: u64,
    /// IA32_TSC_ADJUST.
    pub tsc_adjust: u64,
    /// IA32_TSC_AUX.
    pub tsc_aux: u64,
    /// IA32_TSC_DEADLINE, zero when disarmed.
    pub tsc_deadline: u64,
    /// IA32_STAR.
    pub star: u64,
    /// IA32_LSTAR.
    pub lstar: u64,
    /// IA32_CSTAR.
    pub cstar: u64,
    /// IA32_FMASK.
    pub sfmask: u64,
    /// IA32_KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// IA32_SYSENTER_CS.
    pub sysenter_cs: u64,
    /// IA32_SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// IA32_SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// IA32_PAT.
    pub pat: u64,
    /// IA32_MISC_ENABLE.
    pub misc_enable: u64,
    /// IA32_SPEC_CTRL.
    pub spec_ctrl: u64,
    /// IA32_DEBUGCTL.
    pub debugctl: u64,
    /// IA32_MTRR_DEF_TYPE.
    pub mtrr_def_type: u64,
    /// The fixed MTRRs: 64K_00000, 16K_80000, 16K_A0000, 4K_C0000 to 4K_F8000.
    pub mtrr_fixed: [u64; 11],
    /// The variable MTRRs, base and mask.
    pub mtrr_var: [[u64; 2]; 8],
    /// IA32_MCG_STATUS.
    pub mcg_status: u64,
    /// IA32_MCG_CTL.
    pub mcg_ctl: u64,
    /// Machine-check banks: CTL, STATUS, ADDR, MISC.
    pub mc_banks: [[u64; 4]; 4],
    /// MSR_KVM_WALL_CLOCK_NEW (Linux, *KVM-specific MSRs*): where the guest had the time of day at power-on written.
    pub kvm_wall_clock: u64,
    /// MSR_KVM_SYSTEM_TIME_NEW (Linux, *KVM-specific MSRs*): where the guest wants its paravirtual clock; bit 0 enables it.
    pub kvm_system_time: u64,
    /// The paravirtual clock is the engine's clock plus this, in nanoseconds (two's complement); the same in all CPUs.
    pub kvm_clock_offset: u64,
}

/// The user-visible extended state in the standard (not compacted) format of XSAVE (SDM vol. 1, 13.4), with room for
/// x87, SSE and AVX: a legacy area of 512 bytes, a header of 64, the upper halves of YMM0 to YMM15 at 576.
#[derive(Clone, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct XsaveArea(pub [u8; 832]);

impl std::fmt::Debug for XsaveArea {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "XsaveArea(fcw {:#x}, mxcsr {:#x})", self.fcw(), self.mxcsr())
    }
}

impl Serialize for XsaveArea {
    /// As bytes.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for XsaveArea {
    /// From bytes, or a sequence of them as formats without bytes have it.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(XsaveBytes)
    }
}

/// Takes in the exactly 832 bytes of an [`XsaveArea`].
struct XsaveBytes;

impl<'de> Visitor<'de> for XsaveBytes {
    type Value = XsaveArea;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("832 bytes of XSAVE state")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<XsaveArea, E> {
        bytes.try_into().map(XsaveArea).map_err(|_| E::invalid_length(bytes.len(), &self))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<XsaveArea, A::Error> {
        let mut area = [0; 832];
        for (i, byte) in area.iter_mut().enumerate() {
            *byte = seq.next_element()?.ok_or_else(|| serde::de::Error::invalid_length(i, &self))?;
        }
        match seq.next_element::<u8>()? {
            None => Ok(XsaveArea(area)),
            Some(_) => Err(serde::de::Error::invalid_length(area.len() + 1, &self)),
        }
    }
}

impl XsaveArea {
    /// The x87 control word.
    #[must_use]
    pub fn fcw(&self) -> u16 {
        u16::from_le_bytes([self.0[0], self.0[1]])
    }

    /// The SSE control and status register.
    #[must_use]
    pub fn mxcsr(&self) -> u32 {
        u32::from_le_bytes([self.0[24], self.0[25], self.0[26], self.0[27]])
    }
}

impl Default for XsaveArea {
    /// The state after power-on (SDM vol. 3A, table 10-1): FCW 0040h, MXCSR 1F80h, the rest zero, all in XSTATE_BV.
    fn default() -> Self {
        let mut area = [0; 832];
        area[0] = 0x40;
        area[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
        // The abridged tag word: power-on leaves all registers zero and tagged valid (FTW 5555h).
        area[4] = 0xff;
        area[512] = 7;
        Self(area)
    }
}

/// Whether a CPU runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Activity {
    /// It executes instructions.
    #[default]
    Running,
    /// HLT: it waits for an interrupt.
    Halted,
    /// After INIT: it waits for a start-up IPI.
    WaitForSipi,
    /// Triple fault: it waits for a reset.
    Shutdown,
}

/// An exception, interrupt or trap on its way to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The vector.
    pub vector: u8,
    /// The error code, if the vector has one.
    pub error_code: Option<u32>,
    /// Whether it comes from an INT instruction, which checks the gate's privilege.
    pub software: bool,
}

/// What is pending at an instruction boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Events {
    /// An event whose delivery is under way.
    pub injecting: Option<Event>,
    /// STI or a load of SS holds interrupts back for one instruction.
    pub interrupt_shadow: bool,
    /// An NMI waits.
    pub nmi_pending: bool,
    /// NMIs are held back until IRET.
    pub nmi_blocked: bool,
    /// The level of the PIC's INTR pin.
    pub extint: bool,
    /// An SMI waits.
    pub smi_pending: bool,
    /// In system-management mode.
    pub smm: bool,
}

impl CpuState {
    /// The state after power-on or RESET (SDM vol. 3A, table 10-1) of the CPU with this APIC ID; the one with number 0 is the
    /// bootstrap processor. `signature` is what CPUID leaf 1 gives in EAX.
    #[must_use]
    pub fn power_on(apic_id: u32, signature: u32) -> Self {
        let data = Segment::real(0);
        let cs = Segment { base: 0xffff_0000, selector: 0xf000, attr: data.attr | Segment::CODE, ..data };
        let system = |kind| Segment { base: 0, limit: 0xffff, selector: 0, attr: Segment::PRESENT | kind };
        let mut gpr = [0; 16];
        gpr[2] = u64::from(signature);
        Self {
            gpr,
            rip: 0xfff0,
            rflags: 2,
            seg: [data, cs, data, data, data, data],
            ldt: system(2),
            tr: system(11),
            gdt: DescriptorTable { base: 0, limit: 0xffff },
            idt: DescriptorTable { base: 0, limit: 0xffff },
            cr0: 0x6000_0010,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            dr: [0, 0, 0, 0, 0xffff_0ff0, 0x400],
            xcr0: 1,
            msrs: Msrs {
                apic_base: 0xfee0_0800 | if apic_id == 0 { 0x100 } else { 0 },
                pat: 0x0007_0406_0007_0406,
                misc_enable: 1,
                ..Msrs::default()
            },
            xsave: XsaveArea::default(),
            lapic: LapicState::power_on(apic_id),
            activity: if apic_id == 0 { Activity::Running } else { Activity::WaitForSipi },
            events: Events::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_survives_serde() {
        let mut state = CpuState::power_on(3, 0x806f8);
        state.xsave.0[831] = 0xa5;
        state.gpr[15] = u64::MAX;
        state.events.injecting = Some(Event { vector: 14, error_code: Some(2), software: false });
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<CpuState>(&text).unwrap(), state);
    }

    #[test]
    fn extended_state_of_the_wrong_size_is_refused() {
        for size in [0, 831, 833] {
            let text = serde_json::to_string(&vec![0u8; size]).unwrap();
            assert!(serde_json::from_str::<XsaveArea>(&text).is_err(), "{size}");
        }
    }

    #[test]
    fn the_bootstrap_processor_starts_at_the_reset_vector() {
        let bsp = CpuState::power_on(0, 0x806f8);
        assert_eq!(bsp.seg[1].base + bsp.rip, 0xffff_fff0);
        assert_eq!((bsp.gpr[2], bsp.activity), (0x806f8, Activity::Running));
        assert_eq!(bsp.msrs.apic_base, bsp.lapic.apic_base);
        let ap = CpuState::power_on(1, 0x806f8);
        assert_eq!((ap.activity, ap.msrs.apic_base), (Activity::WaitForSipi, ap.lapic.apic_base));
    }
}
