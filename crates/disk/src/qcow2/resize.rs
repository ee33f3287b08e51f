//! Longer and shorter disks.

use std::sync::atomic::Ordering;

use crate::error::{Error, Result};
use crate::image::Erase;
use crate::qcow2::Qcow2;
use crate::qcow2::header::MOST_L1;
use crate::qcow2::layout::{Entry, OFFSET};
use crate::qcow2::meta::Meta;

impl Qcow2 {
    /// Makes the disk `size` bytes long, with everybody else kept out.
    pub(super) async fn resize_alone(&self, size: u64) -> Result<()> {
        let _all = self.stretches.take(0, u64::MAX, true).await;
        let old = self.size();
        if size == old {
            return Ok(());
        }
        self.readable()?;
        {
            let mut m = self.meta.take().await;
            self.prepare(&mut m).await?;
            if !m.snapshots.is_empty() && m.header.version < 3 {
                let what = "snapshots of version 2 do not tell their disk's size: delete them before resizing";
                return Err(Error::unsupported(&self.path, what));
            }
            if m.header.bitmaps.is_some() {
                let what = "the image has bitmaps, which are of the disk's present size: remove them before resizing";
                return Err(Error::unsupported(&self.path, what));
            }
        }
        if size > old { self.lengthen(old, size).await } else { self.shorten(old, size).await }
    }

    async fn lengthen(&self, old: u64, size: u64) -> Result<()> {
        self.grow_l1(&mut *self.meta.take().await, size).await?;
        if let Some(data) = &self.data {
            data.resize(size).await?;
        }
        // What a longer backing file has there must not shine through.
        let behind = self.behind.min(size);
        self.size.store(size, Ordering::Release);
        let mut done = Ok(());
        if behind > old {
            done = self.erase_held(old, behind - old, Erase::Zero).await;
        }
        let mut m = self.meta.take().await;
        if done.is_ok() {
            done = self.set_size(&mut m, size).await;
        }
        if done.is_err() {
            self.size.store(old, Ordering::Release);
        }
        done
    }

    async fn set_size(&self, m: &mut Meta, size: u64) -> Result<()> {
        self.flush_all(m).await?;
        let before = std::mem::replace(&mut m.header.size, size);
        let done = self.write_header(m).await;
        if done.is_err() {
            m.header.size = before;
        }
        done
    }

    /// Sees to an L1 table that is long enough.
    pub(super) async fn grow_l1(&self, m: &mut Meta, size: u64) -> Result<()> {
        let needed = self.geometry.l1_entries(size);
        if needed * 8 > MOST_L1 || size > i64::MAX as u64 / 2 {
            let what = format!("a disk of {size} bytes is too large for these clusters: take larger ones");
            return Err(Error::invalid(&self.path, what));
        }
        if needed <= m.l1.len() as u64 {
            return Ok(());
        }
        self.write_back(m).await?;
        let mut l1 = m.l1.clone();
        l1.resize(needed as usize, 0);
        let at = self.write_l1(m, &l1, true).await?;
        self.write_refcounts(m).await?;
        self.file.flush().await?;
        let old = (m.header.l1_at, m.header.l1_size);
        (m.header.l1_at, m.header.l1_size) = (at, needed as u32);
        if let Err(error) = self.write_header(m).await {
            (m.header.l1_at, m.header.l1_size) = old;
            return Err(error);
        }
        m.l1 = l1;
        m.note_places();
        self.free_l1(m, old.0, old.1);
        self.write_back(m).await
    }

    async fn shorten(&self, old: u64, size: u64) -> Result<()> {
        let geometry = self.geometry;
        let cluster = geometry.cluster();
        let keep = size.next_multiple_of(cluster);
        // A disk that grows again finds zeros.
        if keep > size {
            self.erase_held(size, keep.min(old) - size, Erase::Zero).await?;
        }
        let mut m = self.meta.take().await;
        let m = &mut *m;
        let mut number = keep / cluster;
        let end = geometry.clusters(old);
        while number < end {
            let index = number / geometry.entries();
            if m.l1.get(index as usize).is_none_or(|e| e & OFFSET == 0) {
                number = (index + 1) * geometry.entries();
                continue;
            }
            if self.entry(m, number).await? != Entry::NONE {
                let table = self.l2_to_change(m, number).await?;
                let old = self.entry_in(m, table, number % geometry.entries());
                self.set_entry_in(m, table, number % geometry.entries(), Entry::NONE);
                self.release(m, old);
            }
            number += 1;
        }
        self.write_back(m).await?;
        // Whole tables that are empty now.
        let first = keep.div_ceil(geometry.covered()) as usize;
        for index in first..m.l1.len() {
            let table = m.l1.get(index).map_or(0, |e| e & OFFSET);
            if table != 0 {
                if let Some(entry) = m.l1.get_mut(index) {
                    *entry = 0;
                }
                m.l1_dirty.insert(index);
                m.l2.forget(table);
                m.tables.remove(&(table >> geometry.cluster_bits));
                m.freed.push(table >> geometry.cluster_bits);
            }
        }
        self.set_size(m, size).await?;
        self.size.store(size, Ordering::Release);
        if let Some(data) = &self.data {
            data.resize(size).await?;
        }
        Ok(())
    }
}
