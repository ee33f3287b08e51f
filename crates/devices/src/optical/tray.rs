//! The tray of a drive: what lies in it, and whether it may be opened. People reach it from outside, the drive from inside.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::Sense;
use crate::block::Backend;

/// What rings when a request of a medium has finished.
type Bell = Arc<dyn Fn() + Send + Sync>;

/// What has happened to the medium, as GET EVENT STATUS NOTIFICATION names it (MMC-6, 6.6.3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Event {
    /// Somebody wants to have the medium.
    EjectRequest = 1,
    /// There is another medium.
    NewMedium = 2,
    /// The medium is gone.
    Removed = 3,
}

/// What of a tray a guest can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TrayState {
    pub(super) open: bool,
    /// The guest has locked it.
    pub(super) locked: bool,
    /// What the next command is told first.
    pub(super) attention: Option<Sense>,
    pub(super) event: Option<Event>,
}

struct Content {
    medium: Option<Arc<Backend>>,
    state: TrayState,
}

/// A tray, shared between a drive and who changes its medium.
pub struct Tray {
    content: Mutex<Content>,
    bell: Mutex<Option<Bell>>,
}

/// The guest has locked the tray. It has been told of the wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the guest has locked the tray; it has been asked for the medium")]
pub struct Locked;

impl Tray {
    /// A closed tray with this medium.
    #[must_use]
    pub fn new(medium: Option<Backend>) -> Arc<Self> {
        let state = TrayState { open: false, locked: false, attention: Some(Sense::RESET), event: None };
        Arc::new(Self { content: Mutex::new(Content { medium: medium.map(Arc::new), state }), bell: Mutex::new(None) })
    }

    /// Puts a medium in, in the place of what was there, and closes the tray.
    ///
    /// # Errors
    /// [`Locked`] when there is a medium that the guest holds.
    pub fn insert(&self, medium: Backend) -> Result<(), Locked> {
        let mut content = self.content();
        content.release(false)?;
        if let Some(bell) = self.bell() {
            medium.on_finished(move || bell());
        }
        content.medium = Some(Arc::new(medium));
        content.close();
        Ok(())
    }

    /// Opens the tray and takes the medium out; with `force` even when the guest has locked it.
    ///
    /// # Errors
    /// [`Locked`].
    pub fn eject(&self, force: bool) -> Result<(), Locked> {
        let mut content = self.content();
        content.release(force)?;
        content.medium = None;
        content.open();
        Ok(())
    }

    /// Whether the tray is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.content().state.open
    }

    /// Whether there is a medium, in the drive or on the open tray.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.content().medium.is_none()
    }

    /// Whether the guest has locked it.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.content().state.locked
    }

    /// The drive hangs up a bell for this medium and all later ones.
    pub(super) fn hang(&self, ring: impl Fn() + Send + Sync + 'static) {
        let bell: Bell = Arc::new(ring);
        *self.bell.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&bell));
        if let Some(medium) = &self.content().medium {
            medium.on_finished(move || bell());
        }
    }

    fn bell(&self) -> Option<Bell> {
        self.bell.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The medium that can be read.
    pub(super) fn medium(&self) -> Result<Arc<Backend>, Sense> {
        let content = self.content();
        match &content.medium {
            _ if content.state.open => Err(Sense::TRAY_OPEN),
            Some(medium) => Ok(Arc::clone(medium)),
            None => Err(Sense::NO_MEDIUM),
        }
    }

    pub(super) fn state(&self) -> TrayState {
        self.content().state
    }

    pub(super) fn set_state(&self, state: TrayState) {
        self.content().state = state;
    }

    pub(super) fn lock(&self, locked: bool) {
        self.content().state.locked = locked;
    }

    /// The drive was reset: it tells so, and its lock is gone.
    pub(super) fn reset(&self) {
        let state = &mut self.content().state;
        (state.locked, state.attention, state.event) = (false, Some(Sense::RESET), None);
    }

    pub(super) fn take_attention(&self) -> Option<Sense> {
        self.content().state.attention.take()
    }

    pub(super) fn take_event(&self) -> Option<Event> {
        self.content().state.event.take()
    }

    /// The guest opens or closes the tray.
    pub(super) fn slide(&self, open: bool) -> Result<(), Sense> {
        let mut content = self.content();
        if open == content.state.open {
            return Ok(());
        }
        if content.state.locked {
            return Err(Sense::REMOVAL_PREVENTED);
        }
        if open {
            content.open();
        } else {
            content.close();
        }
        Ok(())
    }
}

impl Content {
    /// Whether the medium may be taken; if not, the guest learns that somebody wants it.
    fn release(&mut self, force: bool) -> Result<(), Locked> {
        if self.state.locked && self.medium.is_some() && !force {
            self.state.event = Some(Event::EjectRequest);
            return Err(Locked);
        }
        self.state.locked &= !force;
        Ok(())
    }

    fn open(&mut self) {
        self.state.open = true;
        self.state.event = Some(Event::Removed);
    }

    fn close(&mut self) {
        self.state.open = false;
        if self.medium.is_some() {
            self.state.attention = Some(Sense::CHANGED);
            self.state.event = Some(Event::NewMedium);
        }
    }
}
