//! The characters of a PC's text screen: code page 437 (Unicode Consortium, *cp437_DOSLatinUS to Unicode table*; the first
//! 32 as their pictures).

/// The characters of codes 0 to 31, and 127.
const LOW: &str = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼";
/// The characters from 128 on.
const HIGH: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// The character of a code.
pub(super) fn character(code: u8) -> char {
    let found = match code {
        0..32 => LOW.chars().nth(code.into()),
        127 => Some('⌂'),
        32..127 => Some(char::from(code)),
        128.. => HIGH.chars().nth(usize::from(code) - 128),
    };
    found.unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_character() {
        assert!((0..=255).all(|code| character(code) != char::REPLACEMENT_CHARACTER));
        assert_eq!((LOW.chars().count(), HIGH.chars().count()), (32, 128));
        let some = [0, 1, 31, 65, 127, 0x80, 0xb0, 0xc4, 0xdb, 0xe1, 0xff].map(character);
        assert_eq!(some, [' ', '☺', '▼', 'A', '⌂', 'Ç', '░', '─', '█', 'ß', '\u{a0}']);
    }
}
