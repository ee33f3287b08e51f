//! Sections of aligned rows, without colours.

use std::fmt;

/// The width of values, in bytes.
const WIDTH: usize = 72;

/// What a row says of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// A fact.
    Plain,
    /// As it should be.
    Good,
    /// VMs run without it, or less well.
    Note,
    /// To be mended.
    Bad,
}

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    name: String,
    mark: Mark,
    value: String,
    /// What to do about it.
    fix: Option<String>,
}

impl Row {
    fn new(name: impl Into<String>, mark: Mark, value: impl Into<String>) -> Self {
        Self { name: name.into(), mark, value: value.into(), fix: None }
    }

    /// A fact that is neither good nor bad.
    pub(super) fn plain(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self::new(name, Mark::Plain, value)
    }

    /// What is as it should be.
    pub(super) fn good(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self::new(name, Mark::Good, value)
    }

    /// What VMs do without.
    pub(super) fn note(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self::new(name, Mark::Note, value)
    }

    /// What is to be mended, and how.
    pub(super) fn bad(name: impl Into<String>, value: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..Self::new(name, Mark::Bad, value) }
    }

    /// With something that can be done about it.
    pub(super) fn with_fix(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }
}

/// All sections.
#[derive(Debug, Default)]
pub(super) struct Page(Vec<(&'static str, Vec<Row>)>);

impl Page {
    /// Adds a section.
    pub(super) fn section(&mut self, title: &'static str, rows: Vec<Row>) {
        self.0.push((title, rows));
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.0.iter().flat_map(|(_, rows)| rows);
        let width = rows.map(|row| row.name.len()).max().unwrap_or(0);
        for (index, (title, rows)) in self.0.iter().enumerate() {
            writeln!(f, "{}{title}", if index == 0 { "" } else { "\n" })?;
            for row in rows {
                let mark = match row.mark {
                    Mark::Plain => "",
                    Mark::Good => "ok",
                    Mark::Note => "-",
                    Mark::Bad => "!!",
                };
                let fix = row.fix.iter().flat_map(|fix| wrapped(fix)).enumerate();
                let fix = fix.map(|(index, line)| format!("{} {line}", if index == 0 { "=>" } else { "  " }));
                let mut lines = wrapped(&row.value).into_iter().chain(fix);
                let first = lines.next().unwrap_or_default();
                writeln!(f, "{}", format!("  {mark:<2} {:<width$}  {first}", row.name).trim_end())?;
                for line in lines {
                    writeln!(f, "     {:<width$}  {line}", "")?;
                }
            }
        }
        Ok(())
    }
}

/// `text` in lines of no more than [`WIDTH`], broken between words; at least one line.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().filter(|line| line.is_empty() || line.len() + word.len() < WIDTH);
        match line {
            Some(line) => {
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_broken_between_words() {
        let text = "seven ".repeat(40);
        let lines = wrapped(text.trim_end());
        assert!(lines.iter().all(|line| line.len() <= WIDTH) && lines.len() == 4);
        assert_eq!(lines.join(" "), text.trim_end());
        assert_eq!(wrapped(""), [""]);
        assert_eq!(wrapped(&"x".repeat(200)).len(), 1);
    }

    #[test]
    fn rows_are_aligned() {
        let mut page = Page::default();
        page.section("One", vec![Row::good("a", "b"), Row::plain("", "")]);
        page.section("Two", vec![Row::note("longer", "c"), Row::bad("d", "e", "f")]);
        let text = "One\n  ok a       b\n\n\nTwo\n  -  longer  c\n  !! d       e\n             => f\n";
        assert_eq!(page.to_string(), text);
    }
}
