//! Floating point and vectors.

mod avx;
mod convert;
mod crypto;
mod fourier;
mod functions;
mod legacy;
mod linear;
mod pixels;
mod scalar;
mod sse;
mod strings;
mod x87;

use crate::workload::Workload;

/// The workloads of the group.
pub(crate) const PARTS: &[&[Workload]] = &[
    scalar::ALL,
    linear::ALL,
    fourier::ALL,
    functions::ALL,
    convert::ALL,
    x87::ALL,
    legacy::ALL,
    sse::ALL,
    pixels::ALL,
    avx::ALL,
    crypto::ALL,
    strings::ALL,
];
