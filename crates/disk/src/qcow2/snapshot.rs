//! Internal snapshots ("Snapshots" of the specification).
//!
//! While one is made, applied or deleted, the disk is nobody else's, and the dirty bit is set (version 3): a kill in the
//! middle leaves refcounts that the next opening repairs. The table of snapshots is written anew each time, and the
//! header points to the old or the new one, never to something in between.

use std::path::Path;

use crate::error::{Error, Result};
use crate::image::{Image, read_at, write_at};
use crate::qcow2::header::{self, Header, NAME};
use crate::qcow2::layout::{COPIED, Geometry, OFFSET, be16, be32, be64, put};
use crate::qcow2::meta::Meta;
use crate::qcow2::{Qcow2, numbers};

/// Most bytes of the table of snapshots, as QEMU's.
const MOST_TABLE: u64 = 64 << 20;
/// Most bytes of a snapshot's extra data, as QEMU's.
const MOST_EXTRA: usize = 1024;

/// A snapshot inside of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its unique name inside of the image, a number as QEMU makes them.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// Seconds since the epoch, and nanoseconds.
    pub time: (u32, u32),
    /// Nanoseconds that the guest had run.
    pub guest_time: u64,
    /// Bytes of the state of the VM, which Husk keeps and does not use.
    pub vm_state: u64,
    /// Bytes of the disk at its time.
    pub disk_size: u64,
    pub(super) l1_at: u64,
    pub(super) l1_size: u32,
    /// Extra data that we do not know, behind the first 16 bytes.
    pub(super) extra: Vec<u8>,
}

/// Reads the table; returns its length in bytes as well.
pub(super) async fn read_table(
    path: &Path,
    file: &dyn Image,
    header: &Header,
    geometry: Geometry,
) -> Result<(Vec<Snapshot>, u64)> {
    if header.snapshots == 0 {
        return Ok((Vec::new(), 0));
    }
    let bad = |what: &str| Error::damaged(path, NAME, what);
    let length = file.info().size.saturating_sub(header.snapshots_at).min(MOST_TABLE);
    // Entries have 40 bytes at least: a table that is longer than its file is told before anything is read.
    if header.snapshots_at == 0 || u64::from(header.snapshots) * 40 > length {
        return Err(bad("its table of snapshots reaches beyond its end"));
    }
    let mut list = Vec::new();
    let mut window = vec![0; length.min(1 << 20) as usize];
    let mut at = header.snapshots_at;
    read_at(file, at, &mut window).await?;
    let mut place = 0;
    for _ in 0..header.snapshots {
        // The largest entry that is taken: 40, the extra data, and two names of 64 KiB.
        if place + 40 + MOST_EXTRA + (128 << 10) > window.len() && (window.len() as u64) < length {
            at += place as u64;
            place = 0;
            read_at(file, at, &mut window).await?;
        }
        let entry = window.get(place..).unwrap_or_default();
        let (id_len, name_len) = (be16(entry, 12) as usize, be16(entry, 14) as usize);
        let extra_len = be32(entry, 36) as usize;
        if extra_len > MOST_EXTRA {
            return Err(bad("a snapshot has more than 1024 bytes of extra data"));
        }
        let total = 40 + extra_len + id_len + name_len;
        let Some(names) = entry.get(40 + extra_len..total) else {
            return Err(bad("its table of snapshots ends in the middle of one"));
        };
        let (id, name) = names.split_at(id_len);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let snapshot = Snapshot {
            id: text(id),
            name: text(name),
            time: (be32(entry, 16), be32(entry, 20)),
            guest_time: be64(entry, 24),
            vm_state: if extra_len >= 8 { be64(entry, 40) } else { u64::from(be32(entry, 32)) },
            disk_size: if extra_len >= 16 { be64(entry, 48) } else { header.size },
            l1_at: be64(entry, 0),
            l1_size: be32(entry, 8),
            extra: entry.get(56..40 + extra_len.max(16)).unwrap_or_default().to_vec(),
        };
        let too_long = u64::from(snapshot.l1_size) * 8 > header::MOST_L1;
        if too_long || !snapshot.l1_at.is_multiple_of(geometry.cluster()) || snapshot.l1_at >= 1 << 56 {
            return Err(bad("a snapshot's L1 table cannot be what it is said to be"));
        }
        if snapshot.disk_size > i64::MAX as u64 / 2 {
            return Err(bad("a snapshot's disk is larger than any can be"));
        }
        list.push(snapshot);
        place += total.next_multiple_of(8);
    }
    Ok((list, at + place as u64 - header.snapshots_at))
}

fn table_bytes(list: &[Snapshot]) -> Vec<u8> {
    let mut out = Vec::new();
    for snapshot in list {
        let start = out.len();
        out.resize(start + 56, 0);
        let Some(entry) = out.get_mut(start..) else { continue };
        put(entry, 0, &snapshot.l1_at.to_be_bytes());
        put(entry, 8, &snapshot.l1_size.to_be_bytes());
        put(entry, 12, &(snapshot.id.len() as u16).to_be_bytes());
        put(entry, 14, &(snapshot.name.len() as u16).to_be_bytes());
        put(entry, 16, &snapshot.time.0.to_be_bytes());
        put(entry, 20, &snapshot.time.1.to_be_bytes());
        put(entry, 24, &snapshot.guest_time.to_be_bytes());
        put(entry, 32, &u32::try_from(snapshot.vm_state).unwrap_or(0).to_be_bytes());
        put(entry, 36, &(16 + snapshot.extra.len() as u32).to_be_bytes());
        put(entry, 40, &snapshot.vm_state.to_be_bytes());
        put(entry, 48, &snapshot.disk_size.to_be_bytes());
        out.extend(&snapshot.extra);
        out.extend(snapshot.id.as_bytes());
        out.extend(snapshot.name.as_bytes());
        out.resize(out.len().next_multiple_of(8), 0);
    }
    out
}

/// What happens to the refcounts of everything that an L1 table reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    More,
    Fewer,
    /// Only the flags of what is referenced once are set anew.
    Same,
}

impl Qcow2 {
    /// The snapshots of the image, as they are in its table.
    pub async fn snapshots(&self) -> Vec<Snapshot> {
        self.meta.take().await.snapshots.clone()
    }

    /// Takes a snapshot of the disk; returns its id.
    ///
    /// # Errors
    /// A name of more than 65535 bytes or that is there already; refcounts too narrow to count another reference; an
    /// image that cannot be changed.
    pub async fn create_snapshot(&self, name: &str, time: (u32, u32)) -> Result<String> {
        let _all = self.stretches.take(0, u64::MAX, true).await;
        let mut m = self.meta.take().await;
        let m = &mut *m;
        self.may_have_snapshots()?;
        if name.is_empty() || name.len() > 65535 {
            return Err(Error::invalid(&self.path, "a snapshot's name has 1 to 65535 bytes"));
        }
        if m.snapshots.iter().any(|s| s.name == name) {
            return Err(Error::invalid(&self.path, format!("there is a snapshot of the name {name} already")));
        }
        if m.snapshots.len() >= header::MOST_SNAPSHOTS as usize {
            return Err(Error::unsupported(&self.path, "the image has 65536 snapshots, which is the most it can have"));
        }
        if self.geometry.most_references() < 2 {
            let what = "refcounts of 1 bit allow no snapshots: convert the image to one with wider refcounts";
            return Err(Error::unsupported(&self.path, what));
        }
        self.begin(m).await?;
        let l1 = m.l1.clone();
        let l1_at = self.write_l1(m, &l1, false).await?;
        if let Err(error) = self.change(m, &l1, Change::More, true).await {
            // As after a kill, only at once: what points where is unchanged, the counts are made from it.
            self.recount(m).await?;
            return Err(error);
        }
        let next = m.snapshots.iter().filter_map(|s| s.id.parse::<u64>().ok()).max().unwrap_or(0) + 1;
        let snapshot = Snapshot {
            id: next.to_string(),
            name: name.to_owned(),
            time,
            guest_time: 0,
            vm_state: 0,
            disk_size: self.size(),
            l1_at,
            l1_size: l1.len() as u32,
            extra: Vec::new(),
        };
        let id = snapshot.id.clone();
        let mut list = m.snapshots.clone();
        list.push(snapshot);
        self.write_snapshots(m, list).await?;
        self.end(m).await?;
        Ok(id)
    }

    /// Deletes a snapshot, by id or else by name.
    ///
    /// # Errors
    /// None of that name; an image that cannot be changed.
    pub async fn delete_snapshot(&self, which: &str) -> Result<()> {
        let _all = self.stretches.take(0, u64::MAX, true).await;
        let mut m = self.meta.take().await;
        let m = &mut *m;
        let index = self.find(m, which)?;
        self.begin(m).await?;
        let mut list = m.snapshots.clone();
        let gone = list.remove(index);
        let l1 = numbers(&*self.file, gone.l1_at, u64::from(gone.l1_size)).await?;
        // First nobody finds it any more, then its clusters are given up.
        self.write_snapshots(m, list).await?;
        self.change(m, &l1, Change::Fewer, false).await?;
        self.free_l1(m, gone.l1_at, gone.l1_size);
        self.write_back(m).await?;
        self.set_flags(m).await?;
        self.end(m).await
    }

    /// Makes the disk what it was at a snapshot, by id or else by name. The disk's size becomes that of then.
    ///
    /// # Errors
    /// None of that name; an image that cannot be changed.
    pub async fn apply_snapshot(&self, which: &str) -> Result<()> {
        let _all = self.stretches.take(0, u64::MAX, true).await;
        let mut m = self.meta.take().await;
        let m = &mut *m;
        let index = self.find(m, which)?;
        self.begin(m).await?;
        let Some(snapshot) = m.snapshots.get(index).cloned() else { return Ok(()) };
        let mut l1 = numbers(&*self.file, snapshot.l1_at, u64::from(snapshot.l1_size)).await?;
        let needed = self.geometry.l1_entries(snapshot.disk_size);
        if needed * 8 > header::MOST_L1 {
            return Err(self.damaged("a snapshot's disk is larger than any L1 table can map"));
        }
        l1.resize(l1.len().max(needed as usize).max(1), 0);
        l1.iter_mut().for_each(|e| *e &= !COPIED);
        if let Err(error) = self.change(m, &l1, Change::More, false).await {
            self.recount(m).await?;
            return Err(error);
        }
        let at = self.write_l1(m, &l1, true).await?;
        self.write_refcounts(m).await?;
        self.file.flush().await?;
        let old = (std::mem::replace(&mut m.l1, l1), m.header.l1_at, m.header.l1_size);
        m.header.l1_at = at;
        m.header.l1_size = m.l1.len() as u32;
        m.header.size = snapshot.disk_size;
        self.write_header(m).await?;
        self.size.store(snapshot.disk_size, std::sync::atomic::Ordering::Release);
        m.l1_dirty.clear();
        m.note_places();
        self.change(m, &old.0, Change::Fewer, false).await?;
        self.free_l1(m, old.1, old.2);
        self.write_back(m).await?;
        self.set_flags(m).await?;
        self.end(m).await
    }

    /// Bytes of the disk at a snapshot, by id or else by name.
    ///
    /// # Errors
    /// None of that name.
    pub async fn snapshot_size(&self, which: &str) -> Result<u64> {
        let m = self.meta.take().await;
        let index = self.find(&m, which)?;
        Ok(m.snapshots.get(index).map_or(0, |s| s.disk_size))
    }

    fn may_have_snapshots(&self) -> Result<()> {
        if self.geometry.external {
            return Err(Error::unsupported(&self.path, "an image with an external data file has no snapshots inside"));
        }
        Ok(())
    }

    fn find(&self, m: &Meta, which: &str) -> Result<usize> {
        let by_id = m.snapshots.iter().position(|s| s.id == which);
        by_id.or_else(|| m.snapshots.iter().position(|s| s.name == which)).ok_or_else(|| {
            Error::invalid(
                &self.path,
                format!("there is no snapshot of the name {which}: `husk img snapshot` lists them"),
            )
        })
    }

    /// Before a change of snapshots: everything is in the file, and says that refcounts may be wrong.
    async fn begin(&self, m: &mut Meta) -> Result<()> {
        self.prepare(m).await?;
        self.flush_all(m).await?;
        self.write_refcounts(m).await?;
        m.compressed_at = 0;
        self.forget_unpacked();
        if m.header.version == 3 && !m.header.is_dirty() {
            m.header.incompatible |= header::DIRTY;
            self.write_header(m).await?;
        }
        Ok(())
    }

    async fn end(&self, m: &mut Meta) -> Result<()> {
        self.write_back(m).await?;
        self.write_refcounts(m).await?;
        self.flush_all(m).await?;
        m.note_places();
        if m.header.is_dirty() && !m.late_refcounts {
            m.header.incompatible &= !header::DIRTY;
            self.write_header(m).await?;
        }
        self.note_state(m);
        Ok(())
    }

    /// Writes an L1 table to a new place.
    pub(super) async fn write_l1(&self, m: &mut Meta, l1: &[u64], active: bool) -> Result<u64> {
        let bytes = (l1.len() as u64 * 8).max(8);
        let (first, _) = self.allocate(m, self.geometry.clusters(bytes), true).await?;
        let at = first << self.geometry.cluster_bits;
        let mut data = vec![0; bytes as usize];
        // Flags mean nothing in inactive tables.
        let keep = if active { u64::MAX } else { !COPIED };
        l1.iter().enumerate().for_each(|(i, e)| put(&mut data, i * 8, &(e & keep).to_be_bytes()));
        write_at(&*self.file, at, &data).await?;
        Ok(at)
    }

    pub(super) fn free_l1(&self, m: &mut Meta, at: u64, entries: u32) {
        let first = at >> self.geometry.cluster_bits;
        let count = self.geometry.clusters(u64::from(entries) * 8);
        if at != 0 {
            m.freed.extend(first..first + count);
        }
    }

    /// Bytes of the table of snapshots as it is in the file.
    pub(super) fn snapshot_table_len(&self, m: &Meta) -> u64 {
        m.snapshots_len
    }

    /// Sets the flags of the active tables by the refcounts.
    pub(super) async fn set_flags(&self, m: &mut Meta) -> Result<()> {
        let active = m.l1.clone();
        self.change(m, &active, Change::Same, true).await
    }

    async fn write_snapshots(&self, m: &mut Meta, list: Vec<Snapshot>) -> Result<()> {
        let bytes = table_bytes(&list);
        if bytes.len() as u64 > MOST_TABLE {
            return Err(Error::unsupported(&self.path, "the table of snapshots would be longer than 64 MiB"));
        }
        let old = (m.header.snapshots_at, m.snapshots_len, m.header.snapshots);
        let at = if bytes.is_empty() {
            0
        } else {
            let (first, _) = self.allocate(m, self.geometry.clusters(bytes.len() as u64), true).await?;
            first << self.geometry.cluster_bits
        };
        if at != 0 {
            write_at(&*self.file, at, &bytes).await?;
        }
        self.write_back(m).await?;
        self.write_refcounts(m).await?;
        self.file.flush().await?;
        m.header.snapshots_at = at;
        m.header.snapshots = list.len() as u32;
        self.write_header(m).await?;
        m.snapshots = list;
        m.snapshots_len = bytes.len() as u64;
        m.note_places();
        if old.2 != 0 {
            let first = old.0 >> self.geometry.cluster_bits;
            m.freed.extend(first..first + self.geometry.clusters(old.1));
        }
        Ok(())
    }

    /// Changes the refcounts of the L2 tables and clusters that an L1 table reaches, and sets the flags anew in the active
    /// one.
    async fn change(&self, m: &mut Meta, l1: &[u64], change: Change, active: bool) -> Result<()> {
        for (index, entry) in l1.iter().enumerate() {
            let table = entry & OFFSET;
            if table == 0 {
                continue;
            }
            self.change_table(m, table, change, active).await?;
            let count = self.change_one(m, table >> self.geometry.cluster_bits, change).await?;
            if active && let Some(entry) = m.l1.get_mut(index) {
                let flag = if count == 1 { COPIED } else { 0 };
                if *entry & COPIED != flag {
                    *entry = *entry & !COPIED | flag;
                    m.l1_dirty.insert(index);
                }
            }
        }
        Ok(())
    }

    async fn change_one(&self, m: &mut Meta, cluster: u64, change: Change) -> Result<u64> {
        match change {
            Change::More => self.add_reference(m, cluster).await?,
            Change::Fewer => m.freed.push(cluster),
            Change::Same => {}
        }
        self.refcount(m, cluster).await
    }

    async fn change_table(&self, m: &mut Meta, table: u64, change: Change, active: bool) -> Result<()> {
        let geometry = self.geometry;
        for index in 0..geometry.entries() {
            self.load_l2(m, table).await?;
            let entry = self.entry_in(m, table, index);
            if entry.is_compressed() {
                let (first, last) = geometry.compressed_clusters(entry.word);
                for cluster in first..=last {
                    if change != Change::Same {
                        self.change_one(m, cluster, change).await?;
                    }
                }
                continue;
            }
            if entry.offset() == 0 {
                continue;
            }
            let count = self.change_one(m, entry.offset() >> geometry.cluster_bits, change).await?;
            let flag = if count == 1 { COPIED } else { 0 };
            if active && entry.word & COPIED != flag {
                let mut entry = entry;
                entry.word = entry.word & !COPIED | flag;
                // The table may have gone from the cache for a refcount block's sake.
                self.load_l2(m, table).await?;
                self.set_entry_in(m, table, index, entry);
            }
        }
        Ok(())
    }
}
