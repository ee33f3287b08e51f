//! Everything that the CPU model offers is lowered by one of the families.

use engine::Engine;
use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, EncodingKind, Instruction, Mnemonic, OpCodeOperandKind, OpKind, Register,
};

use super::Thunks;
use crate::decode::LowerCtx;
use crate::op::Op;
use crate::{SoftEngine, SoftOptions, features, ops, system};

/// An instance of `code` with its memory operand at [RSI], or with registers only; `None` where it has no such form.
fn instance(code: Code, memory: bool) -> Option<Instruction> {
    use OpCodeOperandKind as K;
    let op = code.op_code();
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    let mut has_memory = false;
    let mut immediates = 0;
    for (i, kind) in op.op_kinds().iter().enumerate() {
        let i32 = i as u32;
        // Numbers differ from operand to operand, as the gathers demand.
        let n = i32 + 1;
        let either = matches!(
            kind,
            K::r8_or_mem | K::r16_or_mem | K::r32_or_mem | K::r64_or_mem | K::mm_or_mem | K::xmm_or_mem | K::ymm_or_mem
        );
        let register = match kind {
            _ if either && memory => None,
            K::mem | K::mem_vsib32x | K::mem_vsib64x | K::mem_vsib32y | K::mem_vsib64y if memory => None,
            K::r8_or_mem | K::r8_reg | K::r8_opcode => Some(Register::AL + n),
            K::r16_or_mem | K::r16_reg | K::r16_reg_mem | K::r16_rm | K::r16_opcode => Some(Register::AX + n),
            K::r32_or_mem | K::r32_reg | K::r32_reg_mem | K::r32_rm | K::r32_opcode | K::r32_vvvv => {
                Some(Register::EAX + n)
            }
            K::r64_or_mem | K::r64_reg | K::r64_reg_mem | K::r64_rm | K::r64_opcode | K::r64_vvvv => {
                Some(Register::RAX + n)
            }
            K::mm_or_mem | K::mm_reg | K::mm_rm => Some(Register::MM0 + n),
            K::xmm_or_mem | K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_is4 => Some(Register::XMM0 + n),
            K::ymm_or_mem | K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_is4 => Some(Register::YMM0 + n),
            K::seg_reg => Some(Register::FS),
            K::fs => Some(Register::FS),
            K::gs => Some(Register::GS),
            K::cr_reg => Some(Register::CR3),
            K::dr_reg => Some(Register::DR3),
            K::al => Some(Register::AL),
            K::cl => Some(Register::CL),
            K::ax => Some(Register::AX),
            K::dx => Some(Register::DX),
            K::eax => Some(Register::EAX),
            K::rax => Some(Register::RAX),
            K::st0 => Some(Register::ST0),
            K::sti_opcode => Some(Register::ST1),
            K::imm8 | K::imm4_m2z => {
                instruction.set_op_kind(i32, if immediates == 0 { OpKind::Immediate8 } else { OpKind::Immediate8_2nd });
                immediates += 1;
                continue;
            }
            K::imm8_const_1 => {
                instruction.set_op_kind(i32, OpKind::Immediate8);
                instruction.set_immediate8(1);
                continue;
            }
            K::imm8sex16 => {
                instruction.set_op_kind(i32, OpKind::Immediate8to16);
                continue;
            }
            K::imm8sex32 => {
                instruction.set_op_kind(i32, OpKind::Immediate8to32);
                continue;
            }
            K::imm8sex64 => {
                instruction.set_op_kind(i32, OpKind::Immediate8to64);
                continue;
            }
            K::imm16 => {
                instruction.set_op_kind(i32, OpKind::Immediate16);
                immediates += 1;
                continue;
            }
            K::imm32 => {
                instruction.set_op_kind(i32, OpKind::Immediate32);
                continue;
            }
            K::imm32sex64 => {
                instruction.set_op_kind(i32, OpKind::Immediate32to64);
                continue;
            }
            K::imm64 => {
                instruction.set_op_kind(i32, OpKind::Immediate64);
                continue;
            }
            K::seg_rDI => {
                instruction.set_op_kind(i32, OpKind::MemorySegRDI);
                continue;
            }
            K::seg_rSI => {
                instruction.set_op_kind(i32, OpKind::MemorySegRSI);
                continue;
            }
            K::es_rDI => {
                instruction.set_op_kind(i32, OpKind::MemoryESRDI);
                continue;
            }
            K::br64_1 | K::br64_4 => {
                instruction.set_op_kind(i32, OpKind::NearBranch64);
                instruction.set_near_branch64(0x40);
                continue;
            }
            _ => return None,
        };
        match register {
            Some(register) => instruction.set_op_register(i32, register),
            None => {
                has_memory = true;
                instruction.set_op_kind(i32, OpKind::Memory);
                instruction.set_memory_base(Register::RSI);
                match kind {
                    K::mem_vsib32x | K::mem_vsib64x => instruction.set_memory_index(Register::XMM9),
                    K::mem_vsib32y | K::mem_vsib64y => instruction.set_memory_index(Register::YMM9),
                    _ => {}
                }
            }
        }
        if register.is_some() {
            instruction.set_op_kind(i32, OpKind::Register);
        }
    }
    (has_memory == memory).then_some(instruction)
}

/// An operation that nobody has lowered.
fn blank() -> Op {
    Op {
        run: |_, _| Ok(()),
        next: 0,
        imm: 0,
        disp: 0,
        len: 1,
        dst: 0,
        src: 0,
        base: 0,
        index: 0,
        scale: 0,
        seg: 0,
        has: 0,
    }
}

#[test]
fn every_offered_instruction_is_lowered() {
    // What the engine offers on this host: thunks are never made of what the host lacks.
    let engine = SoftEngine::new(SoftOptions::default()).unwrap();
    let model = &engine.limits().ceiling;
    let thunks = Thunks::new().unwrap();
    let ctx = LowerCtx { bits: 64, model, thunks: &thunks };
    let (mut lowered, mut missing) = (0, Vec::new());
    for code in Code::values() {
        let op = code.op_code();
        let known =
            op.is_instruction() && op.mode64() && op.intel_decoder64() && !op.fwait() && op.decoder_option() == 0;
        if !known || !matches!(op.encoding(), EncodingKind::Legacy | EncodingKind::VEX) {
            continue;
        }
        // Undefined on purpose, or in system management mode only.
        if matches!(code.mnemonic(), Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2 | Mnemonic::Rsm) {
            continue;
        }
        for memory in [false, true] {
            let Some(made) = instance(code, memory) else { continue };
            let mut encoder = Encoder::new(64);
            if encoder.encode(&made, 0).is_err() {
                continue;
            }
            let bytes = encoder.take_buffer();
            let decoded = Decoder::with_ip(64, &bytes, 0, DecoderOptions::MPX).decode();
            if decoded.is_invalid() || !features::offered(&decoded, model) {
                continue;
            }
            lowered += 1;
            let mut op = blank();
            let mine = ops::lower(&decoded, &ctx, &mut op) || system::lower(&decoded, &ctx, &mut op);
            if !mine && !super::lower(&decoded, &ctx, &mut op) {
                missing.push(format!("{code:?} ({})", if memory { "memory" } else { "registers" }));
            }
        }
    }
    assert!(lowered > 1000, "only {lowered} forms were made");
    assert!(missing.is_empty(), "{} of {lowered}: {missing:#?}", missing.len());
}
