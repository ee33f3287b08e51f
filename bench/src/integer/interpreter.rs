//! Interpreters: of a register machine by a match, of a stack machine by a table of functions, of a tree of boxes.

use std::hint::black_box;

use crate::workload::{Unit, Workload};

pub(super) const ALL: &[Workload] = &[
    Workload::new("bytecode", "a register machine in a match loop runs 2 million instructions", bytecode),
    Workload::new("stack-machine", "a stack machine by a table of functions, 1.2 million instructions", stack),
    Workload::new("syntax-tree", "evaluates a tree of expressions 20,000 times", tree),
];

#[derive(Clone, Copy)]
enum Op {
    Set(u8, u32),
    Add(u8, u8, u8),
    Xor(u8, u8, u8),
    Mul(u8, u8, u8),
    Shift(u8, u8, u8),
    Load(u8, u8),
    Store(u8, u8),
    Less(u8, u8, u16),
    Jump(u16),
    Halt,
}

fn machine(program: &[Op], memory: &mut [u32; 1024]) -> u64 {
    let mut r = [0u32; 16];
    let mut at = 0usize;
    let n = |x: u8| usize::from(x & 15);
    loop {
        let op = program[at];
        at += 1;
        match op {
            Op::Set(a, x) => r[n(a)] = x,
            Op::Add(a, b, c) => r[n(a)] = r[n(b)].wrapping_add(r[n(c)]),
            Op::Xor(a, b, c) => r[n(a)] = r[n(b)] ^ r[n(c)],
            Op::Mul(a, b, c) => r[n(a)] = r[n(b)].wrapping_mul(r[n(c)]),
            Op::Shift(a, b, by) => r[n(a)] = r[n(b)] >> (by & 31),
            Op::Load(a, b) => r[n(a)] = memory[r[n(b)] as usize & 1023],
            Op::Store(a, b) => memory[r[n(b)] as usize & 1023] = r[n(a)],
            Op::Less(a, b, to) => {
                if r[n(a)] < r[n(b)] {
                    at = usize::from(to);
                }
            }
            Op::Jump(to) => at = usize::from(to),
            Op::Halt => return r.iter().fold(0, |sum: u64, x| sum.rotate_left(7) ^ u64::from(*x)),
        }
    }
}

fn bytecode() -> Unit {
    let program = [
        Op::Set(0, 0),
        Op::Set(1, 200_000),
        Op::Set(2, 1),
        Op::Set(3, 2_654_435_761),
        Op::Less(0, 1, 6),
        Op::Jump(16),
        Op::Mul(4, 0, 3),
        Op::Shift(5, 4, 22),
        Op::Load(6, 5),
        Op::Add(6, 6, 4),
        Op::Xor(7, 7, 6),
        Op::Store(6, 5),
        Op::Add(8, 8, 7),
        Op::Add(0, 0, 2),
        Op::Less(0, 1, 6),
        Op::Jump(16),
        Op::Halt,
    ];
    let mut memory = [0; 1024];
    Box::new(move || {
        memory.fill(1);
        machine(black_box(&program), &mut memory)
    })
}

struct Stack {
    cells: Vec<i64>,
    at: usize,
    code: Vec<(Action, i64)>,
    running: bool,
}

type Action = fn(&mut Stack, i64);

impl Stack {
    fn pop(&mut self) -> i64 {
        self.cells.pop().expect("the program balances its stack")
    }

    fn two(&mut self, f: impl FnOnce(i64, i64) -> i64) {
        let (b, a) = (self.pop(), self.pop());
        self.cells.push(f(a, b));
    }
}

fn stack() -> Unit {
    // Collatz sequences: a number and how often it was changed.
    let push: Action = |s, x| s.cells.push(x);
    let pick: Action = |s, x| s.cells.push(s.cells[s.cells.len() - 1 - x as usize]);
    let and: Action = |s, _| s.two(|a, b| a & b);
    let half: Action = |s, _| s.two(|a, b| a >> b);
    let times: Action = |s, _| s.two(i64::wrapping_mul);
    let plus: Action = |s, _| s.two(i64::wrapping_add);
    let equal: Action = |s, _| s.two(|a, b| i64::from(a == b));
    let roll: Action = |s, _| {
        let len = s.cells.len();
        s.cells.swap(len - 1, len - 2);
    };
    let branch: Action = |s, to| {
        if s.pop() != 0 {
            s.at = to as usize;
        }
    };
    let jump: Action = |s, to| s.at = to as usize;
    let halt: Action = |s, _| s.running = false;
    let code = vec![
        (pick, 0),
        (push, 1),
        (equal, 0),
        (branch, 21),
        (roll, 0),
        (push, 1),
        (plus, 0),
        (roll, 0),
        (pick, 0),
        (push, 1),
        (and, 0),
        (branch, 15),
        (push, 1),
        (half, 0),
        (jump, 0),
        (push, 3),
        (times, 0),
        (push, 1),
        (plus, 0),
        (jump, 0),
        (halt, 0),
        (halt, 0),
    ];
    let mut machine = Stack { cells: Vec::new(), at: 0, code, running: true };
    Box::new(move || {
        (1..1_000).fold(0, |sum, n| {
            machine.cells.clear();
            machine.cells.extend([0, n]);
            (machine.at, machine.running) = (0, true);
            while machine.running {
                let (action, value) = machine.code[machine.at];
                machine.at += 1;
                action(&mut machine, value);
            }
            sum * 3 % 1_000_000_007 + machine.cells[0] as u64
        })
    })
}

enum Expression {
    Number(i64),
    Variable(usize),
    Sum(Box<[Expression; 2]>),
    Product(Box<[Expression; 2]>),
    Choice(Box<[Expression; 3]>),
}

fn grow(depth: u32, seed: &mut u64) -> Expression {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let pick = *seed >> 60;
    if depth == 0 {
        return if pick < 8 { Expression::Number(pick as i64 - 4) } else { Expression::Variable(pick as usize % 4) };
    }
    let mut next = || grow(depth - 1, seed);
    match pick % 3 {
        0 => Expression::Sum(Box::new([next(), next()])),
        1 => Expression::Product(Box::new([next(), next()])),
        _ => Expression::Choice(Box::new([next(), next(), next()])),
    }
}

fn value(e: &Expression, variables: &[i64; 4]) -> i64 {
    match e {
        Expression::Number(n) => *n,
        Expression::Variable(n) => variables[*n],
        Expression::Sum(e) => value(&e[0], variables).wrapping_add(value(&e[1], variables)),
        Expression::Product(e) => value(&e[0], variables).wrapping_mul(value(&e[1], variables)),
        Expression::Choice(e) => value(&e[if value(&e[0], variables) & 4 == 0 { 1 } else { 2 }], variables),
    }
}

fn tree() -> Unit {
    let expression = grow(6, &mut 3);
    Box::new(move || {
        (0..20_000).fold(0u64, |sum, n| sum.rotate_left(5) ^ value(&expression, &[n, n ^ 3, n * n, 7 - n]) as u64)
    })
}
