//! Ports by which a guest talks to who runs it.

use std::sync::Arc;

use devices::CharOut;
use devices::misc::{DebugExit, DebugPort, PanicEvent, Pvpanic};

use super::{Wiring, ports};
use crate::control::Control;
use crate::{Config, Error, OnGuestPanic};

/// Builds the debug port, the debug-exit port and the panic port, as configured.
pub(super) fn build(
    wiring: &mut Wiring,
    config: &Config,
    debug: Option<Box<dyn CharOut>>,
    control: &Arc<Control>,
) -> Result<(), Error> {
    let at = &wiring.board.ports;
    if let Some(out) = debug {
        wiring.at_ports(&DebugPort::new(out), &[ports(at.debug, 1), ports(BOCHS_DEBUG, 1)])?;
    }
    if config.debug_exit {
        wiring.at_ports(&DebugExit::new(), &[ports(at.test_exit, 4)])?;
    }
    if config.on_guest_panic == OnGuestPanic::End {
        let control = Arc::clone(control);
        let report = move |event| {
            if event == PanicEvent::Panicked {
                control.guest_panicked("the guest's kernel has panicked".into());
            }
        };
        wiring.at_ports(&Pvpanic::new(report), &[ports(at.pvpanic, 1)])?;
    }
    Ok(())
}

/// The port that most programs with a debug console write to.
const BOCHS_DEBUG: u16 = 0xe9;
