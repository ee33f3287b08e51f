//! Automata and patterns over text.

use crate::workload::{Unit, Workload, mix, text};

pub(super) const ALL: &[Workload] = &[
    Workload::new("automaton", "a table-driven automaton over 1 MiB of text", automaton),
    Workload::new("pattern", "matches a pattern with backtracking against lines of text", pattern),
    Workload::new("tokens", "splits 200 KiB of a made-up program into words, numbers and signs", tokens),
];

fn automaton() -> Unit {
    let text = text(1 << 20);
    // States count vowels in a row, letters modulo three, and the start of a word.
    let mut table = vec![[0u8; 256]; 24];
    for (state, row) in table.iter_mut().enumerate() {
        for (b, next) in row.iter_mut().enumerate() {
            *next = match b as u8 {
                b'a' | b'e' | b'i' | b'o' | b'u' => ((state + 8) % 24) as u8,
                b' ' | b'\n' => (state / 8) as u8,
                _ => ((state & !7) + (state + b) % 8) as u8,
            };
        }
    }
    Box::new(move || {
        let (mut state, mut accepted) = (0usize, [0u64; 24]);
        for b in &text {
            state = usize::from(table[state][usize::from(*b)]);
            accepted[state] += 1;
        }
        accepted.iter().fold(0, |sum, n| mix(sum, *n))
    })
}

/// `.` any letter, `*` behind one: any number of it, `[..]` classes are letters of the alphabet's first half.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let one = |p: u8, c: u8| match p {
        b'.' => true,
        b'<' => c < b'n',
        p => p == c,
    };
    match pattern {
        [] => true,
        [b'$'] => text.is_empty(),
        [p, b'*', rest @ ..] => {
            let mut taken = 0;
            loop {
                if matches(rest, &text[taken..]) {
                    return true;
                }
                if taken == text.len() || !one(*p, text[taken]) {
                    return false;
                }
                taken += 1;
            }
        }
        [p, rest @ ..] => text.first().is_some_and(|c| one(*p, *c)) && matches(rest, &text[1..]),
    }
}

fn pattern() -> Unit {
    let text = text(24 << 10);
    Box::new(move || {
        text.split(|b| *b == b'\n').fold(0, |sum, line| {
            let found = (0..line.len()).filter(|at| matches(b"<*e.*t <<*o.*$", &line[*at..])).count();
            mix(sum, found as u64)
        })
    })
}

fn tokens() -> Unit {
    let text = text(200 << 10);
    let signs = b"+-*/=();<>";
    let source: Vec<u8> = text
        .iter()
        .enumerate()
        .flat_map(|(n, b)| match b {
            b' ' if n % 3 == 0 => vec![b' ', signs[n % signs.len()], b'0' + (n % 10) as u8, b'7', b' '],
            b => vec![*b],
        })
        .collect();
    Box::new(move || {
        let (mut at, mut sum) = (0, 0);
        while at < source.len() {
            let start = at;
            let kind = match source[at] {
                b'a'..=b'z' => {
                    while source.get(at).is_some_and(u8::is_ascii_alphanumeric) {
                        at += 1;
                    }
                    1
                }
                b'0'..=b'9' => {
                    let mut value = 0;
                    while let Some(digit) = source.get(at).filter(|b| b.is_ascii_digit()) {
                        value = value * 10 + u64::from(digit - b'0');
                        at += 1;
                    }
                    2 + value
                }
                b' ' | b'\n' => {
                    at += 1;
                    continue;
                }
                _ => {
                    at += 1;
                    3
                }
            };
            sum = mix(sum, kind << 16 | (at - start) as u64);
        }
        sum
    })
}
