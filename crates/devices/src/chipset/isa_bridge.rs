//! The ISA or LPC bridge of a south bridge: where PCI interrupts become ISA ones. The chipsets differ in data alone:
//! `ich9_lpc` and `piix3`.

use std::sync::{Arc, Mutex, PoisonError};

use machine::pci::{ConfigSpace, ConfigState, PciFunction, command};
use machine::{At, Device, Drained, Effect, Line, LineSink, Schema, Shared, Snapshot, State, StateError};
use serde::{Deserialize, Serialize};

use super::pirq::PirqRouter;
use crate::regs::{decode, require};

const COMMAND: usize = 4;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct BridgeState {
    config: ConfigState,
    /// The levels of PIRQA (bit 0) and so on.
    pirqs: u8,
}

/// The bridge. It has no windows.
pub struct IsaBridge {
    name: &'static str,
    config: ConfigSpace,
    router: PirqRouter,
}

impl IsaBridge {
    /// The bridge whose state has this name, with a register for each PIRQ in `config`. `isa` are the inputs of the interrupt
    /// controllers that PIRQs can be routed to: line `n` is IRQ `n`.
    pub(super) fn build(
        name: &'static str,
        mut config: ConfigSpace,
        registers: &'static [usize],
        isa: Vec<Line>,
    ) -> Shared<Self> {
        // It always answers, and firmware that tries the bits finds it so.
        config.set_u16(COMMAND, command::IO_SPACE | command::MEMORY_SPACE | command::BUS_MASTER);
        let router = PirqRouter::new(&mut config, registers, isa);
        config.seal();
        Arc::new(Mutex::new(Self { name, config, router }))
    }
}

/// The PIRQ inputs of a bridge: 0 is PIRQA.
pub struct PirqInputs(Shared<IsaBridge>);

impl PirqInputs {
    /// The inputs of `bridge`.
    #[must_use]
    pub fn new(bridge: &Shared<IsaBridge>) -> Arc<Self> {
        Arc::new(Self(Arc::clone(bridge)))
    }
}

impl LineSink for PirqInputs {
    fn set_input(&self, input: u32, high: bool) {
        let mut bridge = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bridge.router.set(input, high);
        bridge.router.route(&bridge.config);
    }
}

impl PciFunction for IsaBridge {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) -> Effect {
        self.config.write(offset, data);
        self.router.route(&self.config);
        Effect::None
    }
}

impl Device for IsaBridge {
    fn read(&mut self, _at: At, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&mut self, _at: At, _data: &[u8]) -> Effect {
        Effect::None
    }

    fn reset(&mut self) {
        // The levels belong to those who drive the PIRQs.
        self.config.reset();
        self.router.route(&self.config);
    }

    fn pause(&mut self) -> Drained {
        Drained
    }

    fn resume(&mut self) {
        self.router.route(&self.config);
    }
}

impl Snapshot for IsaBridge {
    fn schema(&self) -> Schema {
        Schema { name: self.name, version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        State::of(&BridgeState { config: self.config.state(), pirqs: self.router.levels() })
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        let state: BridgeState = decode(self.schema(), version, state)?;
        let restored = self.config.restore(&state.config);
        require(self.schema(), restored.is_ok(), "the configuration space is not this function's")?;
        self.router.set_levels(state.pirqs);
        self.router.route(&self.config);
        Ok(())
    }
}
