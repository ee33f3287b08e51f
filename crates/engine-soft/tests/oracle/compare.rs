//! Where two outcomes of a case disagree, and a report of it.

use std::fmt::Write as _;

use iced_x86::{Code, Decoder, DecoderOptions, Formatter, IntelFormatter};

use super::case::{Case, Outcome, arena};
use super::generate::Made;

const GPR: [&str; 16] =
    ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

/// The places where `host` and `subject` disagree, none when they agree.
pub(crate) fn differences(made: &Made, case: &Case, host: &Outcome, subject: &Outcome) -> Vec<String> {
    let mut list = Vec::new();
    let undefined = &made.undefined;
    // The trap, or the hole behind the code.
    let ran = |outcome: &Outcome| outcome.vector == 3 || outcome.rip == case.rip + u64::from(case.code_len);
    if undefined.fault_is_open && ran(host) != ran(subject) {
        return list;
    }
    let mut differ = |name: &str, host: u64, subject: u64| {
        if host != subject {
            list.push(format!("{name}: host {host:#x}, engine {subject:#x}"));
        }
    };
    let fault = host.vector != 3;
    let open_order = undefined.order && host.vector != 3 && subject.vector != 3;
    // An undefined instruction that may be longer than 15 bytes raises #GP or #UD, as far as the CPU knows its length.
    let long = made.code == Code::INVALID && case.code_len > 6;
    let open_length = long && [6, 13].contains(&host.vector) && [6, 13].contains(&subject.vector);
    if !open_order && !open_length {
        differ("vector", host.vector.into(), subject.vector.into());
        differ("error code", host.error_code.into(), subject.error_code.into());
        differ("cr2", host.cr2, subject.cr2);
    }
    differ("rip", host.rip, subject.rip);
    let flags = if host.vector == 3 { undefined.flags } else { undefined.flags_on_fault };
    differ("rflags", host.rflags & !flags, subject.rflags & !flags);
    for (index, name) in GPR.iter().enumerate() {
        let on_fault = if fault { undefined.gpr_on_fault[index] } else { 0 };
        let mask = !(undefined.gpr[index] | on_fault);
        differ(name, host.gpr[index] & mask, subject.gpr[index] & mask);
    }
    let word = |bytes: &[u8; 832], at: usize, len: usize| {
        bytes[at..at + len].iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte))
    };
    let x87 = !(undefined.x87_on_fault && fault);
    let mxcsr = !(undefined.mxcsr_on_fault && fault);
    for (name, at, len, compared) in
        [("fcw", 0, 2, x87), ("fsw", 2, 2, x87), ("ftw", 4, 1, x87), ("mxcsr", 24, 4, mxcsr)]
    {
        if compared {
            differ(name, word(&host.xsave, at, len), word(&subject.xsave, at, len));
        }
    }
    for register in (0..8).filter(|_| x87) {
        let at = 32 + register * 16;
        differ(&format!("st{register} significand"), word(&host.xsave, at, 8), word(&subject.xsave, at, 8));
        differ(&format!("st{register} exponent"), word(&host.xsave, at + 8, 2), word(&subject.xsave, at + 8, 2));
    }
    if !(undefined.vectors_on_fault && fault) {
        for register in 0..16 {
            for part in 0..4 {
                let at = if part < 2 { 160 } else { 576 - 16 } + register * 16 + part * 8;
                differ(&format!("ymm{register}[{part}]"), word(&host.xsave, at, 8), word(&subject.xsave, at, 8));
            }
        }
    }
    if !(undefined.memory_on_fault && fault) {
        differ("memory", host.memory, subject.memory);
        for page in 0..arena::DATA_PAGES {
            differ(&format!("blocks changed in page {page}"), host.changed[page], subject.changed[page]);
        }
    }
    list
}

/// What differs between two images of the data pages.
pub(crate) fn memory_differences(host: &[u8], subject: &[u8]) -> String {
    let mut text = String::new();
    let mut count = 0;
    for (at, (a, b)) in host.iter().zip(subject).enumerate() {
        if a != b {
            count += 1;
            if count <= 24 {
                let _ = writeln!(text, "    {:#x}: host {a:02x}, engine {b:02x}", arena::DATA + at as u64);
            }
        }
    }
    if count > 24 {
        let _ = writeln!(text, "    and {} bytes more", count - 24);
    }
    text
}

/// The first two bytes of the code behind its prefixes.
pub(crate) fn opcode(case: &Case) -> &[u8] {
    let is_prefix =
        |byte: &u8| matches!(byte, 0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3 | 0x2e | 0x36 | 0x3e | 0x26 | 0x40..=0x4f);
    let start = case.code().iter().position(|byte| !is_prefix(byte)).unwrap_or_default();
    &case.code()[start..case.code().len().min(start + 2)]
}

/// The code of a case, disassembled.
pub(crate) fn disassemble(case: &Case) -> String {
    let mut formatter = IntelFormatter::new();
    let mut text = String::new();
    let mut decoder = Decoder::with_ip(64, case.code(), case.rip, DecoderOptions::NONE);
    while decoder.can_decode() {
        let at = decoder.position();
        let instruction = decoder.decode();
        let bytes: Vec<String> =
            case.code()[at..at + instruction.len()].iter().map(|byte| format!("{byte:02x}")).collect();
        let mut line = String::new();
        formatter.format(&instruction, &mut line);
        let _ = writeln!(text, "    {:#x}: {:30} {line}", instruction.ip(), bytes.join(" "));
    }
    text
}

/// The state that a case starts from, and the one in which the host ends.
pub(crate) fn describe(case: &Case, host: &Outcome) -> String {
    let mut text = disassemble(case);
    for (index, name) in GPR.iter().enumerate() {
        let _ = write!(text, "    {name:3} {:016x} -> {:016x}", case.gpr[index], host.gpr[index]);
        if index % 2 == 1 {
            text.push('\n');
        }
    }
    let _ = writeln!(
        text,
        "    rflags {:x} -> {:x}  rip {:x} -> {:x}  vector {} error {:x} cr2 {:x}",
        case.rflags, host.rflags, case.rip, host.rip, host.vector, host.error_code, host.cr2
    );
    let hex = |bytes: &[u8]| bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect::<String>();
    for (name, at, len) in [("fcw", 0, 2), ("fsw", 2, 2), ("ftw", 4, 1), ("mxcsr", 24, 4)] {
        let _ = write!(text, "    {name} {} -> {}", hex(&case.xsave[at..at + len]), hex(&host.xsave[at..at + len]));
    }
    text.push('\n');
    for register in 0..8 {
        let at = 32 + register * 16..42 + register * 16;
        let _ = writeln!(text, "    st{register} {} -> {}", hex(&case.xsave[at.clone()]), hex(&host.xsave[at]));
    }
    for register in 0..16 {
        let low = 160 + register * 16..176 + register * 16;
        let high = 576 + register * 16..592 + register * 16;
        let _ = writeln!(
            text,
            "    ymm{register:<2} {}_{} -> {}_{}",
            hex(&case.xsave[high.clone()]),
            hex(&case.xsave[low.clone()]),
            hex(&host.xsave[high]),
            hex(&host.xsave[low])
        );
    }
    for (at, bytes) in case.patches() {
        let _ = writeln!(text, "    [{:x}] = {}", arena::DATA + at as u64, hex(&bytes[..bytes.len().min(64)]));
    }
    text
}
