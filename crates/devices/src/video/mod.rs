//! Display devices: the standard VGA, which is a VGA with the Bochs display interface (QEMU, *standard VGA*,
//! standard-vga.txt) on PCI. What it shows is a [`display::Picture`].
//!
//! In the VGA's own modes each access to the memory at A0000h comes here, through the graphics controller. In the modes of
//! the display interface the guest has the video memory as RAM where its BAR is.

mod dispi;
mod draw;
mod edid;
mod planes;
mod registers;
mod text;
mod vga;

pub use vga::Vga;
