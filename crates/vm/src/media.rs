//! Discs of a running VM: put in and taken out from the outside.

use std::sync::Arc;

use devices::block::Backend;
use devices::optical::Tray;
use disk::Image;

use crate::{Error, Vm};

impl Vm {
    /// The drives for discs, by their serial numbers.
    #[must_use]
    pub fn disc_drives(&self) -> Vec<&str> {
        self.trays().iter().map(|(serial, _)| serial.as_str()).collect()
    }

    /// Puts a disc into the drive with this serial number, in the place of what was there, and closes its tray.
    ///
    /// # Errors
    /// [`Error::NoDrive`], and [`Error::Locked`] when the guest holds the disc that is there: it has then been asked for it.
    pub fn insert_disc(&self, drive: &str, disc: Arc<dyn Image>) -> Result<(), Error> {
        let medium = Backend::new(disc, self.memory().clone(), drive.to_owned());
        self.tray(drive)?.insert(medium).map_err(|_| Error::Locked { drive: drive.to_owned() })
    }

    /// Opens the tray of the drive with this serial number and takes the disc out; with `force` even one that the guest holds.
    ///
    /// # Errors
    /// As those of [`Vm::insert_disc`].
    pub fn eject_disc(&self, drive: &str, force: bool) -> Result<(), Error> {
        self.tray(drive)?.eject(force).map_err(|_| Error::Locked { drive: drive.to_owned() })
    }

    fn tray(&self, drive: &str) -> Result<&Tray, Error> {
        let found = self.trays().iter().find(|(serial, _)| serial == drive);
        found.map(|(_, tray)| &**tray).ok_or_else(|| Error::NoDrive {
            drive: drive.to_owned(),
            known: self.trays().iter().map(|(serial, _)| serial.clone()).collect(),
        })
    }
}
