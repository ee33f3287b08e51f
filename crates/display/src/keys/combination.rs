//! Keys that are pressed together: `ctrl-alt-delete`.

use std::str::FromStr;

use super::{Key, us};

/// More keys than a hand has fingers are not pressed at once.
const MOST: usize = 10;

/// Keys that are pressed one after the other, held, and released in the opposite order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Combination(Vec<Key>);

/// Why a text is no combination of keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is no such key.
    #[error("there is no key {name:?}{}; take names like a, 1, ret, f1, ctrl, delete, joined by '-'", hint(.near))]
    Unknown {
        /// What it was called.
        name: String,
        /// Names that are like it.
        near: Vec<&'static str>,
    },
    /// Too many keys.
    #[error("too many keys at once; give at most {MOST}")]
    TooMany,
}

fn hint(near: &[&str]) -> String {
    if near.is_empty() { String::new() } else { format!(" (is it {}?)", near.join(" or ")) }
}

impl Combination {
    /// The keys, in the order in which they are pressed.
    #[must_use]
    pub fn keys(&self) -> &[Key] {
        &self.0
    }
}

impl FromStr for Combination {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        for name in text.split(['-', '+']) {
            match (Key::named(name), single(name)) {
                (Some(key), _) => keys.push(key),
                (None, Some(stroke)) => {
                    if stroke.shift {
                        keys.push(Key::SHIFT);
                    }
                    keys.push(stroke.key);
                }
                (None, None) => return Err(KeyError::Unknown { name: name.to_owned(), near: near(name) }),
            }
            if keys.len() > MOST {
                return Err(KeyError::TooMany);
            }
        }
        Ok(Self(keys))
    }
}

/// How a name of one character is typed.
fn single(name: &str) -> Option<us::Stroke> {
    let mut characters = name.chars();
    let character = characters.next().filter(|c| c.is_ascii_graphic())?;
    if characters.next().is_some() { None } else { us::stroke(character) }
}

/// A few names that begin as `name` does.
fn near(name: &str) -> Vec<&'static str> {
    let start: String = name.chars().take(3).collect::<String>().to_ascii_lowercase();
    if start.len() < 2 {
        return Vec::new();
    }
    Key::all_names().filter(|known| known.starts_with(&start)).take(3).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combinations_parse_or_name_the_culprit() {
        let keys = |text: &str| text.parse::<Combination>().map(|combination| combination.0);
        let named = |names: &[&str]| Ok(names.iter().map(|name| Key::named(name).unwrap()).collect::<Vec<_>>());
        assert_eq!(keys("ctrl-alt-delete"), named(&["ctrl", "alt", "delete"]));
        assert_eq!(keys("Ctrl+Alt+F2"), named(&["ctrl", "alt", "f2"]));
        assert_eq!(keys("!"), named(&["shift", "1"]));
        assert_eq!(keys("kp_5"), named(&["kp_5"]));
        assert_eq!(keys("1-2-3-4-5-6-7-8-9-0-a"), Err(KeyError::TooMany));
        let error = keys("ctrl-delte").unwrap_err().to_string();
        assert!(error.contains("\"delte\" (is it delete?)"), "{error}");
        assert!(keys("").is_err() && keys("-").is_err() && keys("é").is_err());
    }
}
