//! Who draws what is seen on a screen.

use crate::Frame;

/// The guest's side of a screen: a display device. A viewer asks it whenever it wants to know how the screen looks.
pub trait Picture: Send + Sync {
    /// Brings `frame` up to date: its size and its pixels, and so its damage. A screen that is switched off is black. Takes
    /// as long as the drawing takes, without holding up the guest for all of that.
    fn draw(&self, frame: &mut Frame);

    /// The characters on the screen, a line for each row, without the blanks at the ends of lines; `None` while it does
    /// not show text. What has no Unicode character is U+FFFD.
    fn text(&self) -> Option<String>;
}
