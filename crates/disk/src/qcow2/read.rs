//! Reading the disk.

use std::io::IoSliceMut;
use std::sync::{Arc, PoisonError};

use crate::buffers;
use crate::cipher::SECTOR;
use crate::error::Result;
use crate::image::{Image, read_at};
use crate::qcow2::Qcow2;
use crate::qcow2::map::Place;

impl Qcow2 {
    /// Reads; whoever calls has the stretch, and bytes behind the end are zeros.
    pub(super) async fn read_held(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<()> {
        let total = buffers::total_mut(buffers);
        let size = self.size();
        let inside = total.min(size.saturating_sub(offset));
        if inside < total {
            buffers::clear(&mut buffers::part_mut(buffers, inside, total - inside));
        }
        let mut done = 0;
        while done < inside {
            let at = offset + done;
            let (place, len) = {
                let mut m = self.meta.take().await;
                self.look_up(&mut m, at, inside - done).await?
            };
            let mut part = buffers::part_mut(buffers, done, len);
            match place {
                Place::Nothing => self.read_behind(at, &mut part).await?,
                Place::Zeros => buffers::clear(&mut part),
                Place::At(host) => self.read_host(at, host, len, &mut part).await?,
                Place::Compressed(word) => {
                    let data = self.unpacked(at >> self.geometry.cluster_bits, word).await?;
                    let start = (at % self.geometry.cluster()) as usize;
                    buffers::scatter(&mut part, data.get(start..).unwrap_or_default());
                }
            }
            done += len;
        }
        Ok(())
    }

    /// Reads one buffer; whoever calls has the stretch.
    pub(super) async fn read_held_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.read_held(offset, &mut [IoSliceMut::new(buffer)]).await
    }

    /// Reads what the backing file has; behind its end there are zeros.
    async fn read_behind(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<()> {
        let Some(backing) = &self.backing else {
            buffers::clear(buffers);
            return Ok(());
        };
        let total = buffers::total_mut(buffers);
        let inside = total.min(self.behind.saturating_sub(offset));
        buffers::clear(&mut buffers::part_mut(buffers, inside, total - inside));
        if inside > 0 {
            backing.read(offset, &mut buffers::part_mut(buffers, 0, inside)).await?;
        }
        Ok(())
    }

    /// The node that has the guest's clusters.
    pub(super) fn clusters(&self) -> &Arc<dyn Image> {
        self.data.as_ref().unwrap_or(&self.file)
    }

    async fn read_host(&self, offset: u64, host: u64, len: u64, part: &mut [IoSliceMut<'_>]) -> Result<()> {
        let Some(encryption) = &self.encryption else { return self.clusters().read(host, part).await };
        let (start, end) = (host / SECTOR * SECTOR, (host + len).next_multiple_of(SECTOR));
        let mut data = vec![0; (end - start) as usize];
        read_at(&**self.clusters(), start, &mut data).await?;
        let by = if encryption.by_host { start } else { offset / SECTOR * SECTOR };
        encryption.cipher.decrypt(by / SECTOR, &mut data);
        buffers::scatter(part, data.get((host - start) as usize..).unwrap_or_default());
        Ok(())
    }

    /// A compressed cluster's content; the last one is kept.
    pub(super) async fn unpacked(&self, cluster: u64, word: u64) -> Result<Arc<Vec<u8>>> {
        {
            let last = self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((of, data)) = &*last
                && *of == word
            {
                return Ok(Arc::clone(data));
            }
        }
        let (at, len) = self.geometry.compressed(word);
        if at >= 1 << 56 {
            return Err(self.damaged(format!("cluster {cluster} of the disk is said to be compressed at {at:#x}")));
        }
        let mut packed = vec![0; len as usize];
        read_at(&*self.file, at, &mut packed).await?;
        let data = super::compress::unpack(self.compression, &packed, self.geometry.cluster() as usize)
            .ok_or_else(|| self.damaged(format!("cluster {cluster} of the disk cannot be decompressed")))?;
        let data = Arc::new(data);
        *self.unpacked.lock().unwrap_or_else(PoisonError::into_inner) = Some((word, Arc::clone(&data)));
        Ok(data)
    }

    /// Forgets the last decompressed cluster, as its place may soon hold another.
    pub(super) fn forget_unpacked(&self) {
        *self.unpacked.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
