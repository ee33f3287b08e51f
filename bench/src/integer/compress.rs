//! Compression: repetitions by position and length, and Huffman's code.

use std::collections::BinaryHeap;

use crate::workload::{Unit, Workload, mix, mix_bytes, text};

pub(super) const ALL: &[Workload] = &[
    Workload::new("lz-pack", "finds repetitions in 256 KiB of text by chains of hashes", lz_pack),
    Workload::new("lz-unpack", "copies repetitions back to 1 MiB of text, byte by byte", lz_unpack),
    Workload::new("huffman", "codes 256 KiB of text with Huffman's code and decodes it bit by bit", huffman),
    Workload::new("run-length", "move-to-front and run lengths of 128 KiB of text", move_to_front),
];

const WINDOW: usize = 1 << 15;

/// Literals (a count and bytes) and repetitions (length and distance), as bytes.
fn pack(input: &[u8]) -> Vec<u8> {
    let mut heads = vec![usize::MAX; 1 << 14];
    let mut chain = vec![usize::MAX; WINDOW];
    let mut out = Vec::with_capacity(input.len());
    let (mut at, mut literal) = (0, 0);
    let flush = |out: &mut Vec<u8>, from: usize, to: usize| {
        for piece in input[from..to].chunks(127) {
            out.push(piece.len() as u8);
            out.extend_from_slice(piece);
        }
    };
    while at + 4 <= input.len() {
        let word = u32::from_le_bytes([input[at], input[at + 1], input[at + 2], input[at + 3]]);
        let hash = (word.wrapping_mul(2_654_435_761) >> 18) as usize;
        let (mut candidate, mut best, mut from, mut tries) = (heads[hash], 3, 0, 16);
        while candidate != usize::MAX && at - candidate < WINDOW && tries > 0 {
            let limit = (input.len() - at).min(130);
            let same = (0..limit).take_while(|i| input[candidate + i] == input[at + i]).count();
            if same > best {
                (best, from) = (same, candidate);
            }
            let next = chain[candidate % WINDOW];
            candidate = if next < candidate { next } else { usize::MAX };
            tries -= 1;
        }
        chain[at % WINDOW] = heads[hash];
        heads[hash] = at;
        if best > 3 {
            flush(&mut out, literal, at);
            out.push(0x80 | (best - 3) as u8);
            out.extend_from_slice(&((at - from) as u16).to_le_bytes());
            at += best;
            literal = at;
        } else {
            at += 1;
        }
    }
    flush(&mut out, literal, input.len());
    out
}

fn unpack(packed: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while at < packed.len() {
        let control = packed[at];
        if control < 0x80 {
            out.extend_from_slice(&packed[at + 1..at + 1 + usize::from(control)]);
            at += 1 + usize::from(control);
        } else {
            let distance = usize::from(u16::from_le_bytes([packed[at + 1], packed[at + 2]]));
            for _ in 0..usize::from(control & 0x7f) + 3 {
                out.push(out[out.len() - distance]);
            }
            at += 3;
        }
    }
}

fn lz_pack() -> Unit {
    let input = text(256 << 10);
    Box::new(move || mix_bytes(0, &pack(&input)))
}

fn lz_unpack() -> Unit {
    let input = text(1 << 20);
    let packed = pack(&input);
    let mut out = Vec::with_capacity(input.len());
    Box::new(move || {
        out.clear();
        unpack(&packed, &mut out);
        assert!(out == input);
        out.len() as u64
    })
}

/// The children of each inner node; below 256 is a letter.
fn tree(input: &[u8]) -> (Vec<[usize; 2]>, usize) {
    let mut counts = [0u64; 256];
    for b in input {
        counts[usize::from(*b)] += 1;
    }
    let mut heap: BinaryHeap<(std::cmp::Reverse<u64>, usize)> =
        (0..256).filter(|b| counts[*b] > 0).map(|b| (std::cmp::Reverse(counts[b]), b)).collect();
    let mut nodes = Vec::new();
    let mut root = 0;
    while let Some((std::cmp::Reverse(a), left)) = heap.pop() {
        root = left;
        let Some((std::cmp::Reverse(b), right)) = heap.pop() else { break };
        nodes.push([left, right]);
        heap.push((std::cmp::Reverse(a + b), 255 + nodes.len()));
    }
    (nodes, root)
}

fn codes(nodes: &[[usize; 2]], at: usize, code: (u32, u32), out: &mut [(u32, u32); 256]) {
    if at < 256 {
        out[at] = code;
        return;
    }
    for (bit, child) in nodes[at - 256].iter().enumerate() {
        codes(nodes, *child, (code.0 | (bit as u32) << code.1, code.1 + 1), out);
    }
}

fn huffman() -> Unit {
    let input = text(256 << 10);
    Box::new(move || {
        let (nodes, root) = tree(&input);
        let mut table = [(0, 0); 256];
        codes(&nodes, root, (0, 0), &mut table);
        let mut packed = Vec::with_capacity(input.len());
        let (mut bits, mut filled) = (0u64, 0);
        for b in &input {
            let (code, len) = table[usize::from(*b)];
            bits |= u64::from(code) << filled;
            filled += len;
            while filled >= 8 {
                packed.push(bits as u8);
                bits >>= 8;
                filled -= 8;
            }
        }
        packed.push(bits as u8);
        let (mut node, mut decoded, mut sum) = (root, 0, packed.len() as u64);
        'all: for byte in packed {
            for bit in 0..8 {
                node = nodes[node - 256][usize::from(byte >> bit & 1)];
                if node < 256 {
                    assert_eq!(node, usize::from(input[decoded]));
                    sum = mix(sum, node as u64);
                    (node, decoded) = (root, decoded + 1);
                    if decoded == input.len() {
                        break 'all;
                    }
                }
            }
        }
        sum
    })
}

fn move_to_front() -> Unit {
    let input = text(128 << 10);
    Box::new(move || {
        let mut order: Vec<u8> = (0..=255).collect();
        let (mut run, mut sum) = (0, 0);
        for b in &input {
            let place = order.iter().position(|x| x == b).unwrap_or(0);
            order[..=place].rotate_right(1);
            if place == 0 {
                run += 1;
            } else {
                sum = mix(sum, run << 8 | place as u64);
                run = 0;
            }
        }
        sum
    })
}
