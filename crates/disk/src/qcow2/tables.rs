//! A cache of tables of one cluster each: L2 tables or refcount blocks.

use std::collections::HashMap;

/// A table as it is in the file, or is to be.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) data: Vec<u8>,
    /// It differs from the file.
    pub(super) dirty: bool,
    used: u64,
}

/// Tables by their offset in the file.
#[derive(Debug)]
pub(super) struct Tables {
    map: HashMap<u64, Table>,
    most: usize,
    clock: u64,
}

impl Tables {
    /// A cache of `bytes` for tables of `cluster` bytes, and a few tables at least.
    pub(super) fn new(bytes: u64, cluster: u64) -> Self {
        Self { map: HashMap::new(), most: (bytes / cluster).max(8) as usize, clock: 0 }
    }

    pub(super) fn get(&mut self, at: u64) -> Option<&mut Table> {
        self.clock += 1;
        let table = self.map.get_mut(&at)?;
        table.used = self.clock;
        Some(table)
    }

    pub(super) fn has(&self, at: u64) -> bool {
        self.map.contains_key(&at)
    }

    pub(super) fn put(&mut self, at: u64, data: Vec<u8>, dirty: bool) {
        self.clock += 1;
        self.map.insert(at, Table { data, dirty, used: self.clock });
    }

    pub(super) fn forget(&mut self, at: u64) {
        self.map.remove(&at);
    }

    pub(super) fn forget_all(&mut self) {
        self.map.clear();
    }

    /// Drops the tables unused for longest when there are too many. Whether there is room now: there is none when too
    /// many are dirty.
    pub(super) fn make_room(&mut self) -> bool {
        if self.map.len() < self.most {
            return true;
        }
        let mut clean: Vec<(u64, u64)> =
            self.map.iter().filter(|(_, t)| !t.dirty).map(|(at, t)| (t.used, *at)).collect();
        clean.sort_unstable();
        let enough = self.most / 8 + 1;
        for (_, at) in clean.iter().take(enough) {
            self.map.remove(at);
        }
        self.map.len() < self.most
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.map.values().any(|t| t.dirty)
    }

    /// The dirty tables' offsets, in order.
    pub(super) fn dirty(&self) -> Vec<u64> {
        let mut list: Vec<u64> = self.map.iter().filter(|(_, t)| t.dirty).map(|(at, _)| *at).collect();
        list.sort_unstable();
        list
    }
}
