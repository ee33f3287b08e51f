//! What a device is to the machine.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Where an access falls in a device: one of the windows it was given on a bus, and the offset in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// The number of the window, as the device names its own.
    pub window: u8,
    /// The offset from the window's start in bytes.
    pub offset: u64,
}

/// What a write does beyond the device. A device never calls up: it tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use]
pub enum Effect {
    /// Nothing.
    #[default]
    None,
    /// The machine is to be reset.
    Reset,
    /// The machine is to be powered off.
    PowerOff,
    /// The machine is to go to ACPI sleep state S`n`.
    Sleep(u8),
    /// The VM is to end with this exit code (the test device).
    Exit(u8),
}

/// The proof that nothing of a device is in flight any more.
#[derive(Debug)]
#[must_use]
pub struct Drained;

/// A device, held as `Arc<Mutex<dyn Device>>`: the one lock around it.
///
/// Accesses come as the bus has split them: `data` is 1, 2, 4 or 8 bytes. No access may panic, block or run for long,
/// whatever the guest does. A read of nothing gives ones.
pub trait Device: Snapshot + Send {
    /// The guest reads.
    fn read(&mut self, at: At, data: &mut [u8]);
    /// The guest writes.
    fn write(&mut self, at: At, data: &[u8]) -> Effect;
    /// Back to the state of power-on.
    fn reset(&mut self);
    /// Stops all activity of its own; returns when what was in flight has landed.
    fn pause(&mut self) -> Drained;
    /// Goes on after a pause or a load.
    fn resume(&mut self);
}

/// The name and version under which a device's state is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schema {
    /// The device's name.
    pub name: &'static str,
    /// The version of the state's form, counted up when it changes.
    pub version: u16,
}

/// Guest-visible state as self-describing data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State(pub serde_json::Value);

/// Why a state cannot be saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The version is not one that this device reads.
    #[error("device {name}: state version {version} is not supported")]
    Version {
        /// The device.
        name: &'static str,
        /// The version offered.
        version: u16,
    },
    /// The data is not of the device's form.
    #[error("device state: {0}")]
    Form(#[from] serde_json::Error),
    /// The data is of the right form, but no device can be in this state.
    #[error("device {name}: {reason}")]
    Invalid {
        /// The device.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
}

impl State {
    /// The state that `data` describes.
    ///
    /// # Errors
    /// [`StateError::Form`] when `data` is not representable.
    pub fn of(data: &impl Serialize) -> Result<Self, StateError> {
        Ok(Self(serde_json::to_value(data)?))
    }

    /// Reads the data back.
    ///
    /// # Errors
    /// [`StateError::Form`] when the state is not of form `T`.
    pub fn to<T: DeserializeOwned>(self) -> Result<T, StateError> {
        Ok(serde_json::from_value(self.0)?)
    }
}

/// What can be saved and loaded. There is no default: no device can be forgotten.
pub trait Snapshot {
    /// Name and version of the state that [`Snapshot::save`] gives.
    fn schema(&self) -> Schema;
    /// The guest-visible state, and only that.
    ///
    /// # Errors
    /// [`StateError`] when the state cannot be represented.
    fn save(&mut self) -> Result<State, StateError>;
    /// Takes on a state that was saved with `version`.
    ///
    /// # Errors
    /// [`StateError`] when the version or the data is not acceptable; the device is then as it was.
    fn load(&mut self, version: u16, state: State) -> Result<(), StateError>;
}
