//! A document of names, lists and numbers: read into a tree, written again.

use std::fmt::Write;

use crate::workload::{Numbers, Unit, Workload, mix_bytes};

pub(super) const ALL: &[Workload] = &[
    Workload::new("json-read", "parses 100 KiB of JSON into a tree", read),
    Workload::new("json-write", "writes that tree as text", write),
];

enum Value {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Value>),
    Object(Vec<(String, Value)>),
}

fn invent(numbers: &mut Numbers, depth: u32) -> Value {
    match numbers.below(if depth == 0 { 4 } else { 6 }) {
        0 => Value::Bool(numbers.below(2) == 0),
        1 => Value::Number(numbers.below(1_000_000) as f64 / 8.0),
        2 => Value::Text((0..numbers.below(20)).map(|_| (b'a' + numbers.below(26) as u8) as char).collect()),
        3 => Value::Null,
        4 => Value::List((0..8).map(|_| invent(numbers, depth - 1)).collect()),
        _ => Value::Object((0..8).map(|n| (format!("name \"{n}\""), invent(numbers, depth - 1))).collect()),
    }
}

fn document() -> Value {
    let mut numbers = Numbers::new(61);
    Value::List((0..160).map(|_| invent(&mut numbers, 5)).collect())
}

fn print(value: &Value, out: &mut String) {
    let quoted = |text: &str, out: &mut String| {
        out.push('"');
        for c in text.chars() {
            if matches!(c, '"' | '\\') {
                out.push('\\');
            }
            out.push(c);
        }
        out.push('"');
    };
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => write!(out, "{b}").expect("a string takes everything"),
        Value::Number(n) => write!(out, "{n}").expect("a string takes everything"),
        Value::Text(text) => quoted(text, out),
        Value::List(list) => {
            out.push('[');
            for (n, value) in list.iter().enumerate() {
                out.push_str(if n == 0 { "" } else { ", " });
                print(value, out);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            out.push('{');
            for (n, (name, value)) in fields.iter().enumerate() {
                out.push_str(if n == 0 { "" } else { ", " });
                quoted(name, out);
                out.push_str(": ");
                print(value, out);
            }
            out.push('}');
        }
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&mut self) -> u8 {
        while matches!(self.text.get(self.at), Some(b' ' | b'\n')) {
            self.at += 1;
        }
        self.text.get(self.at).copied().unwrap_or(0)
    }

    fn take(&mut self, wanted: u8) -> bool {
        let found = self.peek() == wanted;
        self.at += usize::from(found);
        found
    }

    fn string(&mut self) -> String {
        let mut out = Vec::new();
        assert!(self.take(b'"'));
        loop {
            match self.text[self.at] {
                b'"' => break,
                b'\\' => self.at += 1,
                _ => {}
            }
            out.push(self.text[self.at]);
            self.at += 1;
        }
        self.at += 1;
        String::from_utf8(out).expect("letters only")
    }

    fn word(&mut self, word: &str, value: Value) -> Value {
        assert!(self.text[self.at..].starts_with(word.as_bytes()));
        self.at += word.len();
        value
    }

    fn value(&mut self) -> Value {
        match self.peek() {
            b'n' => self.word("null", Value::Null),
            b't' => self.word("true", Value::Bool(true)),
            b'f' => self.word("false", Value::Bool(false)),
            b'"' => Value::Text(self.string()),
            b'[' => {
                self.at += 1;
                let mut list = Vec::new();
                while !self.take(b']') {
                    list.push(self.value());
                    self.take(b',');
                }
                Value::List(list)
            }
            b'{' => {
                self.at += 1;
                let mut fields = Vec::new();
                while !self.take(b'}') {
                    let name = self.string();
                    assert!(self.take(b':'));
                    fields.push((name, self.value()));
                    self.take(b',');
                }
                Value::Object(fields)
            }
            _ => {
                let rest = &self.text[self.at..];
                let len = rest.iter().take_while(|b| matches!(b, b'0'..=b'9' | b'.' | b'-')).count();
                self.at += len;
                let digits = std::str::from_utf8(&rest[..len]).expect("digits only");
                Value::Number(digits.parse().expect("a number"))
            }
        }
    }
}

fn read() -> Unit {
    let mut text = String::new();
    print(&document(), &mut text);
    Box::new(move || {
        let value = Reader { text: text.as_bytes(), at: 0 }.value();
        count(&value)
    })
}

fn count(value: &Value) -> u64 {
    match value {
        Value::Null => 1,
        Value::Bool(b) => 2 + u64::from(*b),
        Value::Number(n) => (n * 8.0) as u64,
        Value::Text(text) => text.len() as u64,
        Value::List(list) => list.iter().fold(5, |sum: u64, value| sum.wrapping_mul(31).wrapping_add(count(value))),
        Value::Object(fields) => {
            fields.iter().fold(6, |sum: u64, (_, value)| sum.wrapping_mul(37).wrapping_add(count(value)))
        }
    }
}

fn write() -> Unit {
    let document = document();
    Box::new(move || {
        let mut text = String::new();
        print(&document, &mut text);
        mix_bytes(0, text.as_bytes())
    })
}
