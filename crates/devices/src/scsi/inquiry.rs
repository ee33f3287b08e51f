//! What a logical unit says of itself: INQUIRY and its pages of vital product data (SPC-4, 6.6 and 7.8; SBC-3, 6.6).

use super::disk::{MOST_SAME, MOST_UNMAP_RANGES, MOST_UNMAPPED, Shape};

const VENDOR: &[u8; 8] = b"HUSK    ";
const PRODUCT: &[u8; 16] = b"HARDDISK        ";
const REVISION: &[u8; 4] = b"1   ";
/// The most bytes of a serial number here.
const SERIAL: usize = 64;

/// The data of a unit that is a disk, or of one that is not there.
pub(super) fn standard(present: bool) -> Vec<u8> {
    let mut data = vec![0; 36];
    // Not there, and of no type.
    data[0] = if present { 0 } else { 0x7f };
    // SPC-4; data of this format; so many bytes follow; commands are queued.
    data[2] = 6;
    data[3] = 2;
    data[4] = 31;
    data[7] = 2;
    data[8..16].copy_from_slice(VENDOR);
    data[16..32].copy_from_slice(PRODUCT);
    data[32..36].copy_from_slice(REVISION);
    data
}

/// A page of vital product data; `None` if there is no such page.
pub(super) fn page(number: u8, shape: &Shape) -> Option<Vec<u8>> {
    let serial = shape.serial.as_bytes();
    let serial = &serial[..serial.len().min(SERIAL)];
    let body = match number {
        0x00 => vec![0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2],
        0x80 => serial.to_vec(),
        0x83 => {
            // One designator of the unit: the vendor and what it says, in ASCII.
            let mut body = vec![2, 1, 0, (VENDOR.len() + serial.len()) as u8];
            body.extend(VENDOR);
            body.extend(serial);
            body
        }
        0xb0 => limits(shape),
        0xb1 => {
            let mut body = vec![0; 60];
            // It does not rotate.
            body[1] = 1;
            body
        }
        // It can be unmapped, by UNMAP and both WRITE SAME, and is provisioned as it is written.
        0xb2 if !shape.read_only => vec![0, 0xe0, 2, 0],
        0xb2 => vec![0; 4],
        _ => return None,
    };
    let mut data = vec![0, number];
    data.extend((body.len() as u16).to_be_bytes());
    data.extend(body);
    Some(data)
}

fn limits(shape: &Shape) -> Vec<u8> {
    let mut body = vec![0; 60];
    // The offsets of the page, behind its header.
    let mut put = |at: usize, field: &[u8]| body[at - 4..at - 4 + field.len()].copy_from_slice(field);
    let granularity = shape.physical / shape.block;
    // WRITE SAME needs a number of blocks.
    put(4, &[1]);
    put(6, &u16::try_from(granularity).unwrap_or(1).to_be_bytes());
    if !shape.read_only {
        put(20, &MOST_UNMAPPED.to_be_bytes());
        put(24, &MOST_UNMAP_RANGES.to_be_bytes());
        put(28, &granularity.to_be_bytes());
        put(36, &MOST_SAME.to_be_bytes());
    }
    body
}
