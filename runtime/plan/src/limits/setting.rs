//! One thing that is limited, and by how much.

use crate::hierarchy::Hierarchy;

/// A setting, and the field that asks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    pub field: String,
    pub setting: Setting,
    /// True if the host may lack it without anybody losing a limit.
    pub optional: bool,
}

/// A number, or no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    Max,
    Is(u64),
}

impl Amount {
    /// As config.json has it: below 0 is no limit.
    pub fn of(value: i64) -> Amount {
        u64::try_from(value).map_or(Amount::Max, Amount::Is)
    }

    /// As systemd and the files of v2 mean it.
    pub fn number(self) -> u64 {
        match self {
            Amount::Max => u64::MAX,
            Amount::Is(n) => n,
        }
    }
}

/// Of a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device(pub String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    ReadBps,
    WriteBps,
    ReadIops,
    WriteIops,
}

/// A weight among others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// 10 to 1000: blkio of v1, and config.json.
    Blkio(u64),
    /// 1 to 10000: io of v2.
    Io(u64),
}

impl Weight {
    pub fn io(self) -> u64 {
        match self {
            Weight::Blkio(n) => crate::weights::io_weight(n),
            Weight::Io(n) => n,
        }
    }
}

/// One thing that is limited. Memory in bytes, times in microseconds.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    MemoryMax(Amount),
    /// Memory and swap together: v1.
    MemoryAndSwap(Amount),
    /// Swap alone: v2.
    SwapMax(Amount),
    MemoryLow(Amount),
    MemoryHigh(Amount),
    MemoryMin(Amount),
    ZswapMax(Amount),
    ZswapWriteback(bool),
    Swappiness(u64),
    OomKillerDisabled,
    UseHierarchy,
    /// The OOM killer takes all or nobody.
    OomGroup(bool),
    /// 2 to 262144, 1024 being the default.
    CpuShares(u64),
    /// 1 to 10000, 100 being the default.
    CpuWeight(u64),
    /// The half that is `None` stays as it is.
    CpuBandwidth {
        quota: Option<Amount>,
        period: Option<u64>,
    },
    CpuBurst(u64),
    RealtimePeriod(u64),
    RealtimeRuntime(i64),
    CpuIdle(i64),
    /// Lists such as `0-3,7`.
    Cpus(String),
    MemoryNodes(String),
    Pids(Amount),
    IoWeight(Option<Device>, Weight),
    IoRate(Device, Rate, Amount),
    IoLatency(Device, u64),
    /// The size as the files spell it (`2MB`), and a number of bytes.
    Hugepages(String, u64),
    HugepagesReserved(String, u64),
    NetworkClass(u32),
    NetworkPriority {
        interface: String,
        priority: u32,
    },
    /// `hca_handle=2 hca_object=7` for a device.
    Rdma(String, String),
    /// A file of v2 by its name, with what its value means, as far as another renderer has to know.
    File {
        controller: &'static str,
        file: String,
        value: String,
        means: Vec<Setting>,
    },
}

impl Setting {
    /// The controller by its name on v2, or of v1 alone; empty for what every v2 cgroup has.
    pub fn controller(&self) -> &'static str {
        use Setting::*;
        match self {
            MemoryMax(_) | MemoryAndSwap(_) | SwapMax(_) | MemoryLow(_) | MemoryHigh(_)
            | MemoryMin(_) | ZswapMax(_) | ZswapWriteback(_) | Swappiness(_)
            | OomKillerDisabled | UseHierarchy | OomGroup(_) => "memory",
            CpuShares(_)
            | CpuWeight(_)
            | CpuBandwidth { .. }
            | CpuBurst(_)
            | RealtimePeriod(_)
            | RealtimeRuntime(_)
            | CpuIdle(_) => "cpu",
            Cpus(_) | MemoryNodes(_) => "cpuset",
            Pids(_) => "pids",
            IoWeight(..) | IoRate(..) | IoLatency(..) => "io",
            Hugepages(..) | HugepagesReserved(..) => "hugetlb",
            NetworkClass(_) => "net_cls",
            NetworkPriority { .. } => "net_prio",
            Rdma(..) => "rdma",
            File { controller, .. } => controller,
        }
    }

    /// True if this host has it on v2.
    pub fn is_v2(&self, hierarchies: &[Hierarchy]) -> bool {
        matches!(self, Setting::File { .. }) || has_v2(hierarchies, self.controller())
    }

    /// The controller by its name in the hierarchy that has it.
    pub fn controller_of(&self, hierarchies: &[Hierarchy]) -> &'static str {
        match self.controller() {
            "io" if !self.is_v2(hierarchies) => "blkio",
            name => name,
        }
    }
}

pub fn has_v2(hierarchies: &[Hierarchy], controller: &str) -> bool {
    hierarchies.iter().any(|h| h.v2 && h.has(controller))
}

/// What a renderer makes of a setting for one file.
pub struct Row {
    pub choices: Vec<(String, String)>,
    /// Below `linux.resources`, where it is not the limit's own.
    pub field: Option<&'static str>,
    pub partner: Option<&'static str>,
}

pub fn row(file: impl Into<String>, value: impl ToString) -> Row {
    Row { choices: vec![(file.into(), value.to_string())], field: None, partner: None }
}
