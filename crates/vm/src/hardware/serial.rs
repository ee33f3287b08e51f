//! The serial ports.

use devices::CharOut;
use devices::serial::Uart16550;

use super::irq::Irqs;
use super::{Wiring, ports};
use crate::{Error, SerialPort};

/// Builds COM1 and so on, one for each place where characters go.
pub(super) fn build(wiring: &mut Wiring, irqs: &Irqs, outs: Vec<Box<dyn CharOut>>) -> Result<Vec<SerialPort>, Error> {
    let board = wiring.board;
    let places = board.ports.serial.into_iter().zip(board.irqs.serial);
    let mut built = Vec::new();
    for (out, (first, irq)) in outs.into_iter().zip(places) {
        let uart = Uart16550::build(wiring.partition.clock(), irqs.isa(irq), out);
        wiring.at_ports(&uart, &[ports(first, 8)])?;
        built.push(SerialPort::new(uart));
    }
    Ok(built)
}
