//! config.json as runtime-spec 1.3.0 describes it for Linux.
//!
//! Plain structs with public fields. Reading is lenient: unknown fields are skipped and noticed ([`shape`]), `null` is the same as absent,
//! values of open sets (capabilities, namespaces, seccomp actions …) stay strings, so that [`crate::plan`] can say
//! which one is wrong. Everything the plan rejects, it rejects with the path of the value.

pub use super::lists::{Dict, List};
use super::shape::{self, Node, Shape};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;

/// A field: Go and C take `null` for absent, and generators write it.
fn nullable<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// Reads a structure from a JSON object only: serde's own reading takes an array, by position, as well.
struct Object<T>(std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>> serde::de::Visitor<'de> for Object<T> {
    type Value = T;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(serde::de::value::MapAccessDeserializer::new(shape::Watched(map)))
    }
}

macro_rules! spec {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $ty:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[serde(default, rename_all = "camelCase", remote = "Self")]
        pub struct $name { $($(#[$fdoc])* #[serde(deserialize_with = "nullable")] pub $field: $ty,)* }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct Fields($name);
                impl<'de> Deserialize<'de> for Fields {
                    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                        $name::deserialize(d).map(Fields)
                    }
                }
                d.deserialize_map(Object::<Fields>(std::marker::PhantomData)).map(|fields| fields.0)
            }
        }

        impl Shape for $name {
            fn node() -> Node {
                Node::Object { names: || shape::names($name::deserialize(shape::Probe)), types: &[$(<$ty>::node,)*] }
            }
        }
    };
}

spec!(
    /// The document (config.md).
    Spec {
        oci_version: String,
        root: Option<Root>,
        mounts: List<Mount>,
        process: Option<Process>,
        hostname: Option<String>,
        domainname: Option<String>,
        hooks: Option<Hooks>,
        annotations: Dict,
        linux: Option<Linux>,
    }
);

spec!(Root { path: String, readonly: bool });

spec!(Mount {
    destination: String,
    source: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    options: List<String>,
    uid_mappings: List<IdMapping>,
    gid_mappings: List<IdMapping>,
});

spec!(
    /// One range of `uid_map`: `size` ids from `containerID` on are `hostID` and following on the host.
    IdMapping {
        #[serde(rename = "containerID")]
        container_id: u32,
        #[serde(rename = "hostID")]
        host_id: u32,
        size: u32,
    }
);

spec!(Process {
    terminal: bool,
    console_size: Option<ConsoleSize>,
    cwd: String,
    env: List<String>,
    args: List<String>,
    rlimits: List<Rlimit>,
    apparmor_profile: Option<String>,
    capabilities: Option<Capabilities>,
    no_new_privileges: Option<bool>,
    oom_score_adj: Option<i32>,
    scheduler: Option<Scheduler>,
    selinux_label: Option<String>,
    io_priority: Option<IoPriority>,
    #[serde(rename = "execCPUAffinity")]
    exec_cpu_affinity: Option<ExecCpuAffinity>,
    user: User,
});

spec!(ConsoleSize { height: u16, width: u16 });
spec!(Rlimit {
    #[serde(rename = "type")]
    kind: String,
    soft: u64,
    hard: u64,
});
spec!(Capabilities {
    bounding: List<String>,
    effective: List<String>,
    inheritable: List<String>,
    permitted: List<String>,
    ambient: List<String>,
});
spec!(Scheduler {
    policy: String,
    nice: Option<i32>,
    priority: Option<i32>,
    flags: List<String>,
    runtime: Option<u64>,
    deadline: Option<u64>,
    period: Option<u64>,
});
spec!(IoPriority { class: String, priority: i64 });
spec!(ExecCpuAffinity { initial: Option<String>, r#final: Option<String>, });
spec!(User { uid: u32, gid: u32, umask: Option<u32>, additional_gids: List<u32>, });

spec!(Hooks {
    prestart: List<Hook>,
    create_runtime: List<Hook>,
    create_container: List<Hook>,
    start_container: List<Hook>,
    poststart: List<Hook>,
    poststop: List<Hook>,
});
spec!(
    /// A program to run at a point of the life cycle; `timeout` in seconds.
    Hook { path: String, args: List<String>, env: Option<List<String>>, timeout: Option<i64>, }
);

spec!(Linux {
    namespaces: List<Namespace>,
    uid_mappings: List<IdMapping>,
    gid_mappings: List<IdMapping>,
    time_offsets: BTreeMap<String, TimeOffset>,
    devices: List<Device>,
    net_devices: BTreeMap<String, NetDevice>,
    cgroups_path: Option<String>,
    resources: Option<Resources>,
    intel_rdt: Option<IntelRdt>,
    memory_policy: Option<MemoryPolicy>,
    sysctl: Dict,
    seccomp: Option<Seccomp>,
    rootfs_propagation: Option<String>,
    masked_paths: List<String>,
    readonly_paths: List<String>,
    mount_label: Option<String>,
    personality: Option<Personality>,
});

spec!(Namespace {
    #[serde(rename = "type")]
    kind: String,
    path: Option<String>,
});
spec!(TimeOffset { secs: i64, nanosecs: u32 });
spec!(Device {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    major: i64,
    minor: i64,
    file_mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
});
spec!(NetDevice { name: Option<String>, });
spec!(IntelRdt {
    #[serde(rename = "closID")]
    clos_id: Option<String>,
    schemata: List<String>,
    l3_cache_schema: Option<String>,
    mem_bw_schema: Option<String>,
    enable_monitoring: bool,
    #[serde(rename = "enableCMT")]
    enable_cmt: bool,
    #[serde(rename = "enableMBM")]
    enable_mbm: bool,
});
spec!(MemoryPolicy { mode: String, nodes: Option<String>, flags: List<String>, });
spec!(Personality { domain: String, flags: List<String>, });

spec!(Resources {
    devices: List<DeviceRule>,
    memory: Option<Memory>,
    cpu: Option<Cpu>,
    pids: Option<Pids>,
    #[serde(rename = "blockIO")]
    block_io: Option<BlockIo>,
    hugepage_limits: List<HugepageLimit>,
    network: Option<Network>,
    rdma: BTreeMap<String, Rdma>,
    unified: Dict,
});
spec!(DeviceRule {
    allow: bool,
    #[serde(rename = "type")]
    kind: Option<String>,
    major: Option<i64>,
    minor: Option<i64>,
    access: Option<String>,
});
spec!(
    /// Bytes; -1 means unlimited.
    Memory {
        limit: Option<i64>,
        reservation: Option<i64>,
        swap: Option<i64>,
        kernel: Option<i64>,
        #[serde(rename = "kernelTCP")]
        kernel_tcp: Option<i64>,
        swappiness: Option<u64>,
        #[serde(rename = "disableOOMKiller")]
        disable_oom_killer: Option<bool>,
        use_hierarchy: Option<bool>,
        check_before_update: Option<bool>,
    }
);
spec!(
    /// Times in microseconds.
    Cpu {
        shares: Option<u64>,
        quota: Option<i64>,
        burst: Option<u64>,
        period: Option<u64>,
        realtime_runtime: Option<i64>,
        realtime_period: Option<u64>,
        cpus: Option<String>,
        mems: Option<String>,
        idle: Option<i64>,
    }
);
spec!(Pids { limit: Option<i64>, });
spec!(BlockIo {
    weight: Option<u16>,
    leaf_weight: Option<u16>,
    weight_device: List<WeightDevice>,
    throttle_read_bps_device: List<ThrottleDevice>,
    throttle_write_bps_device: List<ThrottleDevice>,
    #[serde(rename = "throttleReadIOPSDevice")]
    throttle_read_iops_device: List<ThrottleDevice>,
    #[serde(rename = "throttleWriteIOPSDevice")]
    throttle_write_iops_device: List<ThrottleDevice>,
});
spec!(WeightDevice { major: i64, minor: i64, weight: Option<u16>, leaf_weight: Option<u16>, });
spec!(ThrottleDevice { major: i64, minor: i64, rate: u64 });
spec!(HugepageLimit { page_size: String, limit: u64 });
spec!(Network {
    #[serde(rename = "classID")]
    class_id: Option<u32>,
    priorities: List<InterfacePriority>,
});
spec!(InterfacePriority { name: String, priority: u32 });
spec!(Rdma { hca_handles: Option<u32>, hca_objects: Option<u32>, });

spec!(Seccomp {
    default_action: String,
    default_errno_ret: Option<u32>,
    architectures: List<String>,
    flags: Option<List<String>>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    syscalls: List<Syscall>,
});
spec!(Syscall { names: List<String>, action: String, errno_ret: Option<u32>, args: List<SyscallArg>, });
spec!(SyscallArg { index: u32, value: u64, value_two: u64, op: String });
