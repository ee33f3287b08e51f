//! The registers of the floating-point and vector unit.

use std::arch::asm;

use x86::XsaveArea;

/// Registers of one vCPU, and the places where thunks put things. Thunks know the offsets.
#[repr(C, align(64))]
pub(crate) struct Fpu {
    /// YMM0 to YMM15.
    pub(crate) ymm: [[u8; 32]; 16],
    /// The x87 state while it is not in the host's registers: the image of FXSAVE64. Its SSE part is not used.
    pub(crate) x87: [u8; 512],
    /// Where an operand is put that cannot be accessed in place.
    pub(crate) bounce: [u8; 64],
    pub(crate) mxcsr: u32,
    /// The host's MXCSR while a thunk or translated code runs.
    pub(crate) host_mxcsr: u32,
    /// RFLAGS after an instruction that sets flags.
    pub(crate) flags: u64,
    /// The fourth register operand, as a pointer.
    pub(crate) fourth: u64,
    /// The x87 status word after the latest x87 instruction.
    pub(crate) fsw: u16,
    /// Whether the x87 state is in the host's registers.
    pub(crate) resident: bool,
    /// The address of the latest x87 instruction that is not a control instruction, and of its operand.
    pub(crate) fip: u64,
    pub(crate) fdp: u64,
}

/// FSW: an unmasked exception waits.
pub(crate) const FSW_ES: u16 = 1 << 7;
const DEFAULT_MXCSR: u32 = 0x1f80;

impl Fpu {
    pub(crate) fn new() -> Self {
        let mut fpu = Self {
            ymm: [[0; 32]; 16],
            x87: [0; 512],
            bounce: [0; 64],
            mxcsr: DEFAULT_MXCSR,
            host_mxcsr: DEFAULT_MXCSR,
            flags: 0,
            fourth: 0,
            fsw: 0,
            resident: false,
            fip: 0,
            fdp: 0,
        };
        fpu.load(&XsaveArea::default());
        fpu
    }

    /// Takes on `area`; components that XSTATE_BV leaves out are in their initial configuration.
    pub(crate) fn load(&mut self, area: &XsaveArea) {
        let a = &area.0;
        let components = a[512];
        self.mxcsr = area.mxcsr() & 0xffff;
        if components & 1 != 0 {
            let mut image = [0; 160];
            image.copy_from_slice(&a[..160]);
            self.set_x87_image(&image);
        } else {
            self.init_x87();
        }
        for (i, ymm) in self.ymm.iter_mut().enumerate() {
            *ymm = [0; 32];
            if components & 2 != 0 {
                ymm[..16].copy_from_slice(&a[160 + 16 * i..][..16]);
            }
            if components & 4 != 0 {
                ymm[16..].copy_from_slice(&a[576 + 16 * i..][..16]);
            }
        }
    }

    /// All of it, in the standard format.
    pub(crate) fn save(&mut self) -> XsaveArea {
        let mut area = XsaveArea::default();
        let a = &mut area.0;
        a[..160].copy_from_slice(&self.x87_image());
        a[24..28].copy_from_slice(&self.mxcsr.to_le_bytes());
        for (i, ymm) in self.ymm.iter().enumerate() {
            a[160 + 16 * i..][..16].copy_from_slice(&ymm[..16]);
            a[576 + 16 * i..][..16].copy_from_slice(&ymm[16..]);
        }
        area
    }

    /// The x87 part of FXSAVE64's image: control words, pointers, registers. MXCSR and its mask are zero.
    pub(crate) fn x87_image(&mut self) -> [u8; 160] {
        self.park();
        let mut image = [0; 160];
        image[..6].copy_from_slice(&self.x87[..6]);
        image[8..16].copy_from_slice(&self.fip.to_le_bytes());
        image[16..24].copy_from_slice(&self.fdp.to_le_bytes());
        for i in 0..8 {
            let at = 32 + 16 * i;
            image[at..at + 10].copy_from_slice(&self.x87[at..at + 10]);
        }
        image
    }

    /// Takes on the x87 part of FXSAVE64's image.
    pub(crate) fn set_x87_image(&mut self, image: &[u8; 160]) {
        self.park();
        self.x87[..160].copy_from_slice(image);
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&image[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        self.fip = word(8);
        self.fdp = word(16);
        // ES and B are derived from the exceptions and their masks (SDM vol. 1, 8.1.3.3).
        // Of FCW's reserved bits, bit 6 is always set and the others are not kept.
        let fcw = u16::from_le_bytes([image[0], image[1]]) & 0x1f7f | 0x40;
        self.x87[..2].copy_from_slice(&fcw.to_le_bytes());
        let fsw = u16::from_le_bytes([image[2], image[3]]) & !(FSW_ES | 1 << 15);
        self.fsw = if fsw & !fcw & 0x3f != 0 { fsw | FSW_ES | 1 << 15 } else { fsw };
        self.x87[2..4].copy_from_slice(&self.fsw.to_le_bytes());
        self.x87[6..24].fill(0);
        // The opcode, the pointers and MXCSR are kept apart; the host's MXCSR must not change.
        self.x87[24..28].copy_from_slice(&DEFAULT_MXCSR.to_le_bytes());
        self.x87[28..32].fill(0);
    }

    /// FNINIT.
    pub(crate) fn init_x87(&mut self) {
        let mut image = [0; 160];
        image[..2].copy_from_slice(&0x37fu16.to_le_bytes());
        if self.resident {
            self.park();
        }
        // FNINIT leaves the data registers as they are; only the tags say that they are empty. The image has them in
        // the order of the stack.
        image[32..].copy_from_slice(&self.x87[32..160]);
        image[32..].rotate_right(16 * usize::from(self.x87[3] >> 3 & 7));
        self.set_x87_image(&image);
    }

    /// Brings the x87 state into the host's registers.
    #[inline(always)]
    pub(crate) fn make_resident(&mut self) {
        if !self.resident {
            self.bring_in();
        }
    }

    /// What every MMX instruction does to the x87 state: the top is register 0 and no register is empty (SDM vol. 1,
    /// 9.5.1).
    #[cold]
    pub(crate) fn enter_mmx(&mut self) {
        let mut image = self.x87_image();
        // MMi is physical register i; the image has the registers in the order of the stack.
        let top = usize::from(image[3] >> 3 & 7);
        image[32..].rotate_right(16 * top);
        image[3] &= !0x38;
        image[4] = 0xff;
        self.set_x87_image(&image);
    }

    #[cold]
    fn bring_in(&mut self) {
        // SAFETY: a valid image, aligned to 64; MXCSR in it is the default, which is the host's. The vector registers
        // are declared clobbered, and no Rust code uses the x87 ones.
        unsafe {
            asm!("fxrstor64 [{}]", in(reg) self.x87.as_ptr(), options(nostack),
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _);
        }
        self.resident = true;
    }

    /// Takes the x87 state out of the host's registers.
    pub(crate) fn park(&mut self) {
        if self.resident {
            // SAFETY: `x87` has the size and alignment that FXSAVE wants. FNINIT leaves the host's unit as a new
            // thread has it.
            unsafe { asm!("fxsave64 [{}]", "fninit", in(reg) self.x87.as_mut_ptr(), options(nostack)) };
            self.resident = false;
        }
    }
}
