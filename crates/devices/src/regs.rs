//! What all register files share: how accesses of any size fall on registers, and how states are checked.

use machine::{At, Effect, Schema, State, StateError};
use serde::de::DeserializeOwned;

/// Reads byte registers one after the other, low to high.
pub(crate) fn read_bytes(at: At, data: &mut [u8], mut read: impl FnMut(u64) -> u8) {
    for (i, byte) in data.iter_mut().enumerate() {
        *byte = read(at.offset.wrapping_add(i as u64));
    }
}

/// Writes byte registers one after the other, low to high. The last effect that is one stands.
pub(crate) fn write_bytes(at: At, data: &[u8], mut write: impl FnMut(u64, u8) -> Effect) -> Effect {
    data.iter().enumerate().fold(Effect::None, |all, (i, byte)| match write(at.offset.wrapping_add(i as u64), *byte) {
        Effect::None => all,
        one => one,
    })
}

/// Reads 32-bit registers at multiples of 4; narrower accesses see their part, wider ones are split.
pub(crate) fn read_dwords(at: At, data: &mut [u8], mut read: impl FnMut(u64) -> u32) {
    let mut last = None;
    for (i, byte) in data.iter_mut().enumerate() {
        let offset = at.offset.wrapping_add(i as u64);
        let value = match last {
            Some((register, value)) if register == offset & !3 => value,
            _ => read(offset & !3),
        };
        last = Some((offset & !3, value));
        *byte = value.to_le_bytes()[(offset & 3) as usize];
    }
}

/// Writes 32-bit registers at multiples of 4: `write` gets register, value, and a mask of the bits that are written.
pub(crate) fn write_dwords(at: At, data: &[u8], mut write: impl FnMut(u64, u32, u32)) {
    let mut pending: Option<(u64, u32, u32)> = None;
    for (i, byte) in data.iter().enumerate() {
        let offset = at.offset.wrapping_add(i as u64);
        let shift = (offset & 3) * 8;
        let (value, mask) = match pending {
            Some((register, value, mask)) if register == offset & !3 => (value, mask),
            other => {
                if let Some((register, value, mask)) = other {
                    write(register, value, mask);
                }
                (0, 0)
            }
        };
        pending = Some((offset & !3, value | u32::from(*byte) << shift, mask | 0xff << shift));
    }
    if let Some((register, value, mask)) = pending {
        write(register, value, mask);
    }
}

/// Reads a state of the one version that `schema` names.
pub(crate) fn decode<T: DeserializeOwned>(schema: Schema, version: u16, state: State) -> Result<T, StateError> {
    if version != schema.version {
        return Err(StateError::Version { name: schema.name, version });
    }
    state.to()
}

/// An [`StateError::Invalid`] unless `ok`.
pub(crate) fn require(schema: Schema, ok: bool, reason: &str) -> Result<(), StateError> {
    if ok { Ok(()) } else { Err(StateError::Invalid { name: schema.name, reason: reason.into() }) }
}

/// `value * numerator / denominator` without overflow on the way; saturates.
pub(crate) fn scale(value: u64, numerator: u64, denominator: u64) -> u64 {
    u64::try_from(u128::from(value) * u128::from(numerator) / u128::from(denominator.max(1))).unwrap_or(u64::MAX)
}

/// As [`scale`], rounded up.
pub(crate) fn scale_up(value: u64, numerator: u64, denominator: u64) -> u64 {
    let product = u128::from(value) * u128::from(numerator);
    u64::try_from(product.div_ceil(u128::from(denominator.max(1)))).unwrap_or(u64::MAX)
}

/// Nanoseconds of a second.
pub(crate) const SECOND: u64 = 1_000_000_000;
