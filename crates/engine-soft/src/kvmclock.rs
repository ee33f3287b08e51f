//! The paravirtual clock that KVM's guests know (Linux, *KVM-specific MSRs*): two structures in guest memory from which
//! the guest works out the time by itself. Its time is that of the engine's clock.

use memory::Gpa;
use x86::Tsc;

use crate::cpu::Cpu;

/// MSR_KVM_SYSTEM_TIME: the guest wants its clock.
const ENABLED: u64 = 1;
/// `pvclock_vcpu_time_info.flags`: the clocks of all CPUs go alike.
const TSC_STABLE: u8 = 1;
const NANOS: u64 = 1_000_000_000;

/// `tsc_to_system_mul` and `tsc_shift`: nanoseconds are (ticks << shift) * mul >> 32, a negative shift goes right.
fn scale(hz: u64) -> (u32, i8) {
    // The largest multiplier of 32 bits is the most exact one: shifted, the rate is above a gigahertz, but not above two.
    let (mut rate, mut shift) = (u128::from(hz), 0i8);
    while rate <= u128::from(NANOS) {
        rate <<= 1;
        shift += 1;
    }
    while rate > 2 * u128::from(NANOS) {
        // Halves are kept by scaling the other side below.
        rate = rate.div_ceil(2);
        shift -= 1;
    }
    let nanos = u128::from(NANOS) << 32;
    let exact = if shift < 0 { (nanos << -shift) / u128::from(hz) } else { (nanos >> shift) / u128::from(hz) };
    (u32::try_from(exact).unwrap_or(u32::MAX), shift)
}

/// `struct pvclock_vcpu_time_info` but for its version: from `pad0` on.
fn time_info(tsc: u64, nanos: u64, hz: u64) -> [u8; 28] {
    let (mul, shift) = scale(hz);
    let mut info = [0; 28];
    info[4..12].copy_from_slice(&tsc.to_le_bytes());
    info[12..20].copy_from_slice(&nanos.to_le_bytes());
    info[20..24].copy_from_slice(&mul.to_le_bytes());
    info[24..26].copy_from_slice(&[shift.to_le_bytes()[0], TSC_STABLE]);
    info
}

impl Cpu {
    /// Writes MSR_KVM_SYSTEM_TIME.
    pub(crate) fn set_system_time(&mut self, value: u64) {
        self.msrs.kvm_system_time = value;
        self.tell_system_time();
    }

    /// Writes MSR_KVM_WALL_CLOCK: tells the time of day at which the paravirtual clock showed zero.
    pub(crate) fn set_wall_clock(&mut self, value: u64) {
        self.msrs.kvm_wall_clock = value;
        if value == 0 {
            return;
        }
        let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let start = u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX).saturating_sub(self.system_time());
        let mut body = [0; 8];
        body[..4].copy_from_slice(&((start / NANOS) as u32).to_le_bytes());
        body[4..].copy_from_slice(&((start % NANOS) as u32).to_le_bytes());
        self.publish(value & !3, &body);
    }

    /// Nanoseconds of the paravirtual clock.
    fn system_time(&self) -> u64 {
        self.shared.clock.now().0.wrapping_add(self.msrs.kvm_clock_offset)
    }

    /// Tells the guest how its time follows from its time-stamp counter, if it has asked: anew after each change of the
    /// counter.
    pub(crate) fn tell_system_time(&mut self) {
        let place = self.msrs.kvm_system_time;
        if place & ENABLED == 0 {
            return;
        }
        let now = self.shared.clock.now().0;
        let nanos = now.wrapping_add(self.msrs.kvm_clock_offset);
        let info = time_info(Tsc::of(&self.msrs).at(now), nanos, self.msrs.tsc_hz);
        self.publish(place & !3, &info);
    }

    /// Writes a structure that begins with a version, which is odd while the rest changes. A place without memory is the
    /// guest's affair.
    fn publish(&mut self, place: u64, body: &[u8]) {
        let memory = self.shared.memory.clone();
        self.call_out(|_| {
            let Ok(version) = memory.read_array::<4>(Gpa(place)).map(u32::from_le_bytes) else { return };
            let busy = version.wrapping_add(1) | 1;
            let write = |at: u64, data: &[u8]| memory.write(Gpa(place.wrapping_add(at)), data);
            let _ = write(0, &busy.to_le_bytes())
                .and_then(|()| write(4, body))
                .and_then(|()| write(0, &busy.wrapping_add(1).to_le_bytes()));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a guest makes of it.
    fn nanos(ticks: u64, hz: u64) -> u64 {
        let (mul, shift) = scale(hz);
        let shifted = if shift < 0 { ticks >> -shift } else { ticks << shift };
        ((u128::from(shifted) * u128::from(mul)) >> 32) as u64
    }

    #[test]
    fn ticks_become_nanoseconds() {
        assert_eq!(scale(NANOS), (1 << 31, 1));
        for hz in [1_000_000, 999_999_999, NANOS, 2_600_000_000, 3_999_000_000, 100_000_000_000] {
            // Ten minutes, to a part in a billion.
            let got = nanos(hz * 600, hz);
            assert!(got.abs_diff(600 * NANOS) <= 1_000, "{hz}: {got}");
        }
    }

    #[test]
    fn the_structure_is_laid_out_as_documented() {
        let info = time_info(0x1122_3344_5566_7788, 0xaabb, NANOS);
        assert_eq!(info[..4], [0; 4]);
        assert_eq!(info[4..12], 0x1122_3344_5566_7788u64.to_le_bytes());
        assert_eq!(info[12..20], 0xaabbu64.to_le_bytes());
        assert_eq!(info[20..], [0, 0, 0, 0x80, 1, TSC_STABLE, 0, 0]);
    }
}
