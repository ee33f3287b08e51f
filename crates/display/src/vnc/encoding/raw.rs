//! Raw: pixel by pixel (RFC 6143, section 7.7.1).

use super::super::pixel::Translator;
use super::super::rect::Rect;
use super::Pixels;

pub(super) fn put(to: &Translator, from: Pixels<'_>, rect: Rect, out: &mut Vec<u8>) {
    out.reserve(rect.area() * to.size());
    for row in from.rows(rect) {
        row.iter().for_each(|pixel| to.put(to.value(*pixel), out));
    }
}
