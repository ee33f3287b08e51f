//! Where firmware keeps its variables: the content of a flash chip, and the file that it is kept in.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use devices::flash::{FLASH_BLOCK, FlashOut};
use disk::Image;

use crate::{Error, Payload};

/// The largest variable store: with its firmware it fits below 4 GiB.
const LARGEST: u64 = 8 << 20;
/// Where a firmware volume has its signature (UEFI Platform Initialization Specification 1.8, volume 3, 3.2.1).
const SIGNATURE_AT: usize = 40;
const SIGNATURE: &[u8] = b"_FVH";

/// Where changed blocks go, if anywhere.
type Out = Option<Box<dyn FlashOut>>;

/// The variables of a VM's firmware.
pub struct Variables {
    name: String,
    content: Vec<u8>,
    image: Option<Arc<dyn Image>>,
}

impl Variables {
    /// Variables that begin as `template` says and are gone with the VM.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::TooLarge`], or [`Error::Variables`] for what is no variable store.
    pub fn volatile(mut template: Payload) -> Result<Self, Error> {
        let content = template.read(LARGEST)?.into_owned();
        Self { name: template.name().to_owned(), content, image: None }.checked()
    }

    /// Variables that are kept in `image`; `name` is what messages call it.
    ///
    /// # Errors
    /// [`Error::VariablesFile`] when it cannot be read, or [`Error::Variables`] for what is no variable store.
    pub fn kept(name: impl Into<String>, image: Arc<dyn Image>) -> Result<Self, Error> {
        let (name, size) = (name.into(), image.info().size);
        if size > LARGEST {
            return Err(Error::Variables { name });
        }
        let mut content = vec![0; size as usize];
        disk::block_on(disk::read_at(&*image, 0, &mut content))?;
        Self { name, content, image: Some(image) }.checked()
    }

    fn checked(self) -> Result<Self, Error> {
        let signature = self.content.get(SIGNATURE_AT..SIGNATURE_AT + SIGNATURE.len());
        let blocks = !self.content.is_empty() && (self.content.len() as u64).is_multiple_of(FLASH_BLOCK);
        if blocks && signature == Some(SIGNATURE) { Ok(self) } else { Err(Error::Variables { name: self.name }) }
    }

    /// What they are kept in, if in anything.
    pub(crate) fn image(&self) -> Option<Arc<dyn Image>> {
        self.image.clone()
    }

    /// Their size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.content.len() as u64
    }

    /// What messages call them.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The content at power-on, and where changed blocks go.
    pub(crate) fn open(self) -> Result<(Vec<u8>, Out), Error> {
        let out = self.image.map(|image| Keeper::start(self.name, image)).transpose()?;
        Ok((self.content, out.map(|keeper| Box::new(keeper) as _)))
    }
}

/// Writes changed blocks at once, in their order, so that they outlive this process; and has a thread see that they outlive
/// the host's power too.
struct Keeper {
    name: String,
    image: Arc<dyn Image>,
    /// Asks for a flush.
    flush: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    /// A failure has been told.
    told: bool,
}

impl Keeper {
    fn start(name: String, image: Arc<dyn Image>) -> Result<Self, Error> {
        let (flush, asked) = sync_channel(1);
        let (file, shown) = (Arc::clone(&image), name.clone());
        let work = move || {
            while asked.recv().is_ok() {
                // One flush is for all who have asked meanwhile.
                while asked.try_recv().is_ok() {}
                if let Err(error) = disk::block_on(file.flush()) {
                    tracing::error!("{shown}: {error}");
                }
            }
        };
        let thread = "flash".to_owned();
        let spawned = Builder::new().name(thread.clone()).spawn(work);
        let spawned = spawned.map_err(|source| Error::Thread { name: thread, source })?;
        Ok(Self { name, image, flush: Some(flush), thread: Some(spawned), told: false })
    }
}

impl FlashOut for Keeper {
    fn put(&mut self, offset: u64, block: &[u8]) {
        match disk::block_on(disk::write_at(&*self.image, offset, block)) {
            Ok(()) => self.told = false,
            Err(error) if !self.told => {
                self.told = true;
                tracing::error!("{}: {error}; what the firmware keeps will be lost with this VM", self.name);
            }
            Err(_) => {}
        }
        if let Some(flush) = &self.flush {
            // One that waits already is for this, too.
            let _ = flush.try_send(());
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.flush.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
