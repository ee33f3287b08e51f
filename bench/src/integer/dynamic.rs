//! A small language with values of many types: what scripting languages do all day.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::rc::Rc;

use crate::workload::{Unit, Workload};

pub(super) const ALL: &[Workload] =
    &[Workload::new("script", "a dynamically typed interpreter with counted references and named variables", script)];

#[derive(Clone)]
enum Value {
    Number(i64),
    Text(Rc<str>),
    List(Rc<Vec<Value>>),
}

enum Code {
    Constant(Value),
    Variable(&'static str),
    Assign(&'static str, Box<Code>),
    Add(Box<Code>, Box<Code>),
    Less(Box<Code>, Box<Code>),
    Append(Box<Code>, Box<Code>),
    Length(Box<Code>),
    While(Box<Code>, Vec<Code>),
    If(Box<Code>, Vec<Code>),
}

type Variables = HashMap<&'static str, Value, BuildHasherDefault<DefaultHasher>>;

fn run(code: &Code, variables: &mut Variables) -> Value {
    match code {
        Code::Constant(value) => value.clone(),
        Code::Variable(name) => variables[name].clone(),
        Code::Assign(name, code) => {
            let value = run(code, variables);
            variables.insert(name, value.clone());
            value
        }
        Code::Add(a, b) => match (run(a, variables), run(b, variables)) {
            (Value::Number(a), Value::Number(b)) => Value::Number(a.wrapping_add(b)),
            (Value::Text(a), Value::Number(b)) => Value::Text(format!("{a}{b}").into()),
            (a, _) => a,
        },
        Code::Less(a, b) => match (run(a, variables), run(b, variables)) {
            (Value::Number(a), Value::Number(b)) => Value::Number((a < b).into()),
            _ => Value::Number(0),
        },
        Code::Append(list, value) => match (run(list, variables), run(value, variables)) {
            (Value::List(list), value) => Value::List(Rc::new(list.iter().cloned().chain([value]).collect())),
            (other, _) => other,
        },
        Code::Length(code) => match run(code, variables) {
            Value::Number(_) => Value::Number(1),
            Value::Text(text) => Value::Number(text.len() as i64),
            Value::List(list) => Value::Number(list.len() as i64),
        },
        Code::While(condition, body) => {
            while matches!(run(condition, variables), Value::Number(n) if n != 0) {
                for code in body {
                    run(code, variables);
                }
            }
            Value::Number(0)
        }
        Code::If(condition, body) => {
            if matches!(run(condition, variables), Value::Number(n) if n != 0) {
                for code in body {
                    run(code, variables);
                }
            }
            Value::Number(0)
        }
    }
}

fn script() -> Unit {
    let number = |n| Box::new(Code::Constant(Value::Number(n)));
    let variable = |name| Box::new(Code::Variable(name));
    let add = |a, b| Box::new(Code::Add(a, b));
    let less = |a, b| Box::new(Code::Less(a, b));
    let program = Code::While(
        less(variable("i"), number(6_000)),
        vec![
            Code::Assign("i", add(variable("i"), number(1))),
            Code::Assign("text", add(Box::new(Code::Constant(Value::Text("item ".into()))), variable("i"))),
            Code::Assign("sum", add(variable("sum"), Box::new(Code::Length(variable("text"))))),
            Code::Assign("list", Box::new(Code::Append(variable("list"), variable("text")))),
            Code::If(
                less(number(20), Box::new(Code::Length(variable("list")))),
                vec![Code::Assign("list", Box::new(Code::Constant(Value::List(Rc::default()))))],
            ),
        ],
    );
    Box::new(move || {
        let mut variables = Variables::default();
        variables.extend([("i", Value::Number(0)), ("sum", Value::Number(0)), ("list", Value::List(Rc::default()))]);
        run(&program, &mut variables);
        match variables["sum"] {
            Value::Number(n) => n as u64,
            _ => 0,
        }
    })
}
