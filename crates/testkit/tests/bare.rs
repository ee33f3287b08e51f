//! The system side of the software engine, by guests of a few instructions: what they see is compared with what the SDM says.

mod bare {
    pub(crate) mod long;
    pub(crate) mod modes;
    pub(crate) mod paging;
    pub(crate) mod pcid;
    pub(crate) mod protected;
    pub(crate) mod tasks;
}
