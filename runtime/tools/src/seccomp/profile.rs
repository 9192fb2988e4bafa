//! A profile as one that can be asked: `linux.seccomp`, by itself or in a config.json, or one in Docker's format.

use conex::bundle;
use conex::check::Check;
use conex::error::{Error, Kind, Result};
use conex::oci::config;
use conex::seccomp::{self, abi::ARM_BASE, bpf, compile, Abi, Arg, Op, SyscallRule, ACTION_MASK};
use serde_json::{json, Value};
use std::collections::HashSet;

pub struct PlacedProfile {
    whole: seccomp::Profile,
    rules: Vec<Placed>,
    program: Vec<conex_sys::seccomp::SockFilter>,
    default_place: String,
}

/// A rule, and where the document has it.
pub struct Placed {
    pub rule: SyscallRule,
    pub place: String,
}

impl PlacedProfile {
    /// `caps` are the capabilities that Docker's format makes some of its rules depend on.
    ///
    /// # Errors
    /// It is no JSON, or a profile that no container could have.
    pub fn read(text: &[u8], caps: &[String]) -> Result<PlacedProfile> {
        let document: Value = serde_json::from_slice(text)
            .map_err(|e| Error::new(Kind::Invalid, format!("no JSON: {e}")))?;
        let (object, path) = match document.pointer("/linux/seccomp") {
            Some(inner) => (inner.clone(), "linux.seccomp."),
            None if document.get("ociVersion").is_some() => {
                return Err(Error::new(
                    Kind::Invalid,
                    "has no linux.seccomp: every call is allowed",
                ));
            }
            None => (document, ""),
        };
        let (object, kept) = from_docker(object, caps);
        let parse = |value: Value| -> Result<config::Seccomp> {
            serde_json::from_value(value)
                .map_err(|e| Error::new(Kind::Invalid, format!("no seccomp profile: {e}")))
        };
        let whole = planned(&parse(object.clone())?)?;
        let mut rules = Vec::new();
        let calls = object["syscalls"].as_array().cloned().unwrap_or_default();
        for (call, index) in calls.into_iter().zip(kept) {
            let mut one = object.clone();
            one["syscalls"] = json!([call]);
            let field = format!("syscalls[{index}]");
            // What is the default anyway is no rule.
            if let Some(rule) = planned(&parse(one)?)?.rules.pop() {
                rules.push(Placed { rule, place: placed(text, path, &field) });
            }
        }
        let program = compile::compile(&whole).map_err(|n| {
            Error::new(Kind::Invalid, format!("{n} instructions; the kernel takes 4096"))
        })?;
        let default_place = format!("the default action ({})", placed(text, path, "defaultAction"));
        Ok(PlacedProfile { whole, rules, program, default_place })
    }

    pub fn abis(&self) -> &[Abi] {
        &self.whole.abis
    }

    pub fn default_action(&self) -> u32 {
        self.whole.default
    }

    /// Those for a call, in the order in which the filter asks them: one without conditions replaces those with.
    pub fn rules_for(&self, call: &str) -> Vec<&Placed> {
        let named: Vec<&Placed> =
            self.rules.iter().filter(|r| r.rule.names.iter().any(|n| n == call)).collect();
        match named.iter().find(|r| r.rule.any_of.is_empty()) {
            Some(always) => vec![always],
            None => named,
        }
    }

    /// The action, and which rule or what else decides. The action is that of the very filter that a container gets.
    pub fn decide(&self, abi: Abi, nr: u32, args: [u64; 6]) -> (u32, String) {
        let (arch, raw) = compile::told_by_kernel(abi, nr);
        let action = bpf::run(&self.program, arch, raw, args);
        let name = compile::name(arch, raw);
        let holds = |r: &&&Placed| {
            r.rule.any_of.is_empty()
                || r.rule
                    .any_of
                    .iter()
                    .any(|all| all.iter().all(|a| matches(a, args[a.index as usize])))
        };
        let by = match self.rules_for(&name).iter().find(holds).filter(|r| r.rule.action == action)
        {
            Some(rule) => rule.place.clone(),
            None if action == self.whole.default => self.default_place.clone(),
            None if action == without_name() => newer(),
            // i386 reaches some calls through socketcall and ipc, whose first argument is the call.
            None => "the rule of the call that it stands for".into(),
        };
        (action, by)
    }

    /// # Errors
    /// The profile denies what the runtime itself still needs, so that a container could not start under it.
    pub fn check_needed(&self, document: &Value) -> Result<()> {
        let process = &document["process"];
        let ambient =
            process["capabilities"]["ambient"].as_array().is_some_and(|list| !list.is_empty());
        let filter = seccomp::Filter { profile: self.whole.clone(), flags: 0, listener: None };
        let mut check = Check::default();
        seccomp::needed(&filter, process["noNewPrivileges"] == true, ambient, &mut check);
        check.errors.into_iter().next().map_or(Ok(()), Err)
    }

    /// What the filter does with a call for which no rule holds.
    pub fn without_a_rule(&self, abi: Abi, nr: u32) -> (u32, String) {
        let highest = self
            .rules
            .iter()
            .flat_map(|r| &r.rule.names)
            .filter_map(|n| compile::lookup(n, abi))
            .filter(|nr| *nr < ARM_BASE)
            .max();
        let private = abi == Abi::Arm && nr >= ARM_BASE;
        let permissive = matches!(
            self.whole.default & ACTION_MASK,
            seccomp::RET_ALLOW | seccomp::RET_LOG | seccomp::RET_TRACE | seccomp::RET_NOTIFY
        );
        match highest {
            Some(highest) if nr > highest && !permissive && !private => (without_name(), newer()),
            _ => (self.whole.default, self.default_place.clone()),
        }
    }
}

fn without_name() -> u32 {
    seccomp::RET_ERRNO | libc::ENOSYS as u32
}

fn newer() -> String {
    "its number: the call is newer than all that the profile names, so that a program falls back"
        .into()
}

fn planned(config: &config::Seccomp) -> Result<seccomp::Profile> {
    let mut check = Check::default();
    let filter = seccomp::plan(config, &mut check);
    if let Some(e) = check.errors.into_iter().next() {
        return Err(e);
    }
    filter
        .map(|f| f.profile)
        .ok_or_else(|| Error::new(Kind::Invalid, "an empty profile: every call is allowed"))
}

/// `syscalls[3], line 40`; without a line where the document is one.
fn placed(text: &[u8], path: &str, field: &str) -> String {
    let line = bundle::position(text, &format!("{path}{field}"))
        .filter(|_| text.iter().filter(|b| **b == b'\n').count() > 1);
    line.map_or(field.to_string(), |(line, _)| format!("{field}, line {line}"))
}

/// Docker's format (moby/profiles, containers/common) has rules for some architectures, kernels and capabilities alone.
/// Returns the profile as `linux.seccomp`, and the index that each of its rules had.
fn from_docker(mut object: Value, caps: &[String]) -> (Value, Vec<usize>) {
    let native = if cfg!(target_arch = "aarch64") {
        ("SCMP_ARCH_AARCH64", "arm64")
    } else {
        ("SCMP_ARCH_X86_64", "amd64")
    };
    if let Some(map) = object.get("archMap").and_then(Value::as_array).cloned() {
        let own = map.iter().find(|m| m["architecture"] == native.0);
        let further =
            own.and_then(|m| m["subArchitectures"].as_array().cloned()).unwrap_or_default();
        object["architectures"] = std::iter::once(json!(native.0)).chain(further).collect();
    }
    let held: HashSet<String> = caps
        .iter()
        .map(|c| c.to_uppercase())
        .map(|c| format!("CAP_{}", c.strip_prefix("CAP_").unwrap_or(&c)))
        .collect();
    let any = |list: &Value, fits: &dyn Fn(&str) -> bool| {
        list.as_array().is_some_and(|l| l.iter().filter_map(Value::as_str).any(fits))
    };
    let own_arch =
        |arch: &str| arch == native.1 || native.1 == "amd64" && matches!(arch, "x86" | "x32");
    let all_held = |list: &Value| {
        list.as_array().is_none_or(|l| l.iter().filter_map(Value::as_str).all(|c| held.contains(c)))
    };
    let applies = |call: &Value| {
        let (includes, excludes) = (&call["includes"], &call["excludes"]);
        let arches = includes["arches"].as_array().is_none_or(Vec::is_empty)
            || any(&includes["arches"], &own_arch);
        all_held(&includes["caps"])
            && arches
            && !any(&excludes["caps"], &|c| held.contains(c))
            && !any(&excludes["arches"], &own_arch)
    };
    let calls = object.get("syscalls").and_then(Value::as_array).cloned().unwrap_or_default();
    let (kept, calls): (Vec<usize>, Vec<Value>) =
        calls.into_iter().enumerate().filter(|(_, call)| applies(call)).unzip();
    object["syscalls"] = calls.into_iter().map(plain).collect();
    (object, kept)
}

/// With the one name of Docker's older form, and without what only Docker reads.
fn plain(mut call: Value) -> Value {
    if let Some(map) = call.as_object_mut() {
        if let (Some(name), None) = (map.remove("name").filter(|n| n != ""), map.get("names")) {
            map.insert("names".into(), json!([name]));
        }
        map.retain(|key, _| matches!(key.as_str(), "names" | "action" | "errnoRet" | "args"));
    }
    call
}

fn matches(arg: &Arg, v: u64) -> bool {
    match arg.op {
        Op::Ne => v != arg.value,
        Op::Lt => v < arg.value,
        Op::Le => v <= arg.value,
        Op::Eq => v == arg.value,
        Op::Ge => v >= arg.value,
        Op::Gt => v > arg.value,
        Op::MaskedEq => v & arg.value == arg.value_two & arg.value,
    }
}

/// An action in words.
pub fn told(action: u32) -> String {
    let data = action & 0xffff;
    match action & ACTION_MASK {
        seccomp::RET_ALLOW => "allowed".into(),
        seccomp::RET_LOG => "allowed, and logged by the kernel".into(),
        seccomp::RET_ERRNO => {
            format!("fails with {:?} ({data})", nix::errno::Errno::from_raw(data as i32))
        }
        seccomp::RET_NOTIFY => "handed to the listener".into(),
        seccomp::RET_TRACE => format!("handed to the tracer, {data}"),
        0x0003_0000 => "SIGSYS (a trap, which the program may catch)".into(),
        0x8000_0000 => "kills the process".into(),
        _ => "kills the thread".into(),
    }
}
