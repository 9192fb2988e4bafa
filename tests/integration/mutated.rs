//! Documents that a generator wrote: random changes of good ones, through the binary.

use crate::harness::*;
use serde_json::{json, Value};
use std::process::Command;

/// A small generator whose sequence a failure can be told by.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}

/// One random change somewhere in the document.
fn mutate(value: &mut Value, rnd: &mut Random) {
    let deeper = rnd.below(8) != 0;
    match value {
        Value::Object(map) if !map.is_empty() && deeper => {
            let key = map.keys().nth(rnd.below(map.len())).unwrap().clone();
            match rnd.below(14) {
                0 => drop(map.remove(&key)),
                1 => {
                    let taken = map[&key].clone();
                    map.insert(format!("{key}x"), taken);
                }
                _ => mutate(&mut map[&key], rnd),
            }
        }
        Value::Array(list) if !list.is_empty() && deeper => {
            let i = rnd.below(list.len());
            match rnd.below(10) {
                0 => drop(list.remove(i)),
                1 => list.push(list[i].clone()),
                2 => list.reverse(),
                _ => mutate(&mut list[i], rnd),
            }
        }
        other => {
            let numbers = [
                0i64,
                -1,
                1,
                7,
                255,
                4096,
                65_536,
                i64::from(i32::MAX),
                i64::from(u32::MAX),
                i64::MAX,
                i64::MIN,
            ];
            let texts = [
                "",
                "/",
                "..",
                "x",
                "a/b",
                "\u{0}",
                "\n",
                "r\u{fc}",
                "0-3,7",
                "rw",
                "ro",
                "bind",
                "SCMP_ACT_ERRNO",
                "pid",
                "proc",
                "tmpfs",
                "0",
                "-1",
                "max",
                "%d",
                "a=b",
                "=",
            ];
            *other = match rnd.below(9) {
                0 => Value::Null,
                1 => json!(rnd.below(2) == 0),
                2 | 3 => json!(numbers[rnd.below(numbers.len())]),
                4 => json!([]),
                5 => json!({}),
                6 => json!(texts[rnd.below(texts.len())].repeat([1, 2, 5000][rnd.below(3)])),
                7 => json!(1.5e300),
                _ => json!(texts[rnd.below(texts.len())]),
            };
        }
    }
}

/// Nothing of the machine is within reach: no hook runs, the cgroup is the test's, and no namespace is a path.
fn tame(config: &mut Value, id: &str) {
    if let Some(map) = config.as_object_mut() {
        map.remove("hooks");
        if let Some(linux) = map.get_mut("linux").and_then(Value::as_object_mut) {
            linux.insert("cgroupsPath".into(), json!(format!("/conex-test/{id}")));
            for key in ["netDevices", "intelRdt"] {
                linux.remove(key);
            }
        } else {
            map.insert("linux".into(), json!({"cgroupsPath": format!("/conex-test/{id}")}));
        }
    }
}

/// 5,000 documents, each a few random changes away from good ones, in namespaces where everything but the bundle is
/// read-only. Each ends in time by an exit status of its own, and create and delete leave nothing.
#[test]
fn mutated_documents_leave_nothing_and_stop_nothing() {
    if !is_conex() {
        return;
    }
    let seeds: Vec<Value> = {
        let mut full = Box::sh("true");
        *full.at("linux.seccomp") = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [{"index": 1, "value": 5, "op": "SCMP_CMP_EQ"}]}]});
        *full.at("process.rlimits") = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100}]);
        full.push(
            "mounts",
            json!({"destination": "/m", "source": "rootfs/tmp", "options": ["rbind", "ro", "rprivate"]}),
        );
        *full.at("linux.sysctl") = json!({"net.ipv4.ip_forward": "1"});
        *full.at("annotations") = json!({"a": "b"});
        let text = std::fs::read_to_string(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/data/docker-config.json"
        ))
        .unwrap();
        let mut docker: Value = serde_json::from_str(&text).unwrap();
        docker["root"]["path"] = json!("rootfs");
        docker["mounts"].as_array_mut().unwrap().retain(|m| m["type"] != "bind");
        vec![Box::sh("true").config.clone(), full.config.clone(), docker]
    };
    let own = std::env::var_os("OWN_HOST").is_some();
    let count = if own { 500 } else { 5000 };
    let b = Box::sh("true");
    let line = format!(
        "mount -o bind,remount,ro / && mount --bind {dir} {dir} && mount -o bind,remount,rw {dir} && ip link set lo up; cd {dir}; while read n; do \
         cp doc/$n config.json; timeout -s KILL 20 {conex} --root {dir}/state create {id} >out 2>&1 </dev/null; echo $? >code/$n; \
         timeout -s KILL 20 {conex} --root {dir}/state delete --force {id} >out2 2>&1; echo $? >>code/$n; \
         [ $(tail -n1 code/$n) = 0 ] || cat out2 >>code/$n; [ -z \"$(ls state 2>/dev/null)\" ] || {{ echo state left >>code/$n; cat out >>code/$n; }}; done",
        dir = b.dir.display(),
        conex = runtime().display(),
        id = b.id,
    );
    for name in ["doc", "code"] {
        std::fs::create_dir(b.dir.join(name)).unwrap();
    }
    let mut rnd = Random(0x1234_5678_9abc_def1);
    let mut names = String::new();
    for n in 0..count {
        let mut config = seeds[rnd.below(seeds.len())].clone();
        for _ in 0..=rnd.below(4) {
            mutate(&mut config, &mut rnd);
        }
        tame(&mut config, &b.id);
        let mut text = serde_json::to_vec(&config).unwrap();
        // Also bytes: a document need not be JSON at all.
        if rnd.below(10) == 0 {
            let at = rnd.below(text.len());
            text[at] = [0, 0xff, b'{', b'"', b'\\', b','][rnd.below(6)];
            // A broken path of the cgroup or the rootfs would not be this test's any more.
            if serde_json::from_slice::<Value>(&text).is_ok() {
                text = serde_json::to_vec(&config).unwrap();
            }
        }
        std::fs::write(b.dir.join("doc").join(n.to_string()), text).unwrap();
        names += &format!("{n}\n");
    }
    let mut c = Command::new("unshare");
    c.args(["--mount", "--net", "--ipc", "--uts", "--propagation", "private", "sh", "-c", &line]);
    let r = finish_within(&mut c, names.as_bytes(), 600);
    assert_eq!(r.code, 0, "{}{}", r.out, r.err);
    let (mut made, mut refused) = (0, 0);
    for n in 0..count {
        let text = std::fs::read_to_string(b.dir.join("code").join(n.to_string())).unwrap();
        let document = || {
            String::from_utf8_lossy(&std::fs::read(b.dir.join("doc").join(n.to_string())).unwrap())
                .into_owned()
        };
        let mut lines = text.lines();
        match lines.next() {
            Some("0") => made += 1,
            Some("1") => refused += 1,
            other => panic!("create of document {n} ended with {other:?}: {}", document()),
        }
        assert_eq!(lines.next(), Some("0"), "delete after document {n}: {text}\n{}", document());
        assert_eq!(lines.next(), None, "document {n}: {text}\n{}", document());
    }
    assert!(made > count / 10 && refused > count / 10, "{made} made, {refused} refused");
    b.assert_gone();
}
