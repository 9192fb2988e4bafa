//! What a file of cgroup v2 means that a document names itself (`linux.resources.unified`). It is written as it is given;
//! systemd is told what it means.

use super::setting::{Amount, Device, Rate, Setting, Weight};

/// A number as the files of cgroup v2 take it: `max`, `16M`, `0x20`, `020` (memparse and kstrtoull of the kernel). `None` for
/// what the kernel will refuse.
pub fn number(file: &str, text: &str) -> Option<u64> {
    let text = text.trim();
    if text == "max" || text == "-1" {
        return Some(u64::MAX);
    }
    let memory = file.starts_with("memory.");
    let (digits, unit) = match text.char_indices().last().filter(|_| memory) {
        Some((at, c)) => match "KMGTPE"
            .find(c.to_ascii_uppercase())
            .filter(|_| !text.starts_with("0x") || !c.is_ascii_hexdigit())
        {
            Some(power) => (&text[..at], 10 * (power as u32 + 1)),
            None => (text, 0),
        },
        None => (text, 0),
    };
    let digits = digits.strip_prefix('+').unwrap_or(digits);
    let (digits, radix) = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if digits.len() > 1 && digits.starts_with('0') => (&digits[1..], 8),
        None => (digits, 10),
    };
    let plain = digits.bytes().all(|b| b.is_ascii_alphanumeric());
    u64::from_str_radix(digits, radix).ok().filter(|_| plain)?.checked_mul(1u64.checked_shl(unit)?)
}

fn amount(n: u64) -> Amount {
    if n == u64::MAX {
        Amount::Max
    } else {
        Amount::Is(n)
    }
}

/// The settings of one line; none where only the kernel knows.
pub fn means(file: &str, text: &str) -> Vec<Setting> {
    let n = || number(file, text);
    let one: Option<Setting> = match file {
        "memory.max" => n().map(|n| Setting::MemoryMax(amount(n))),
        "memory.low" => n().map(|n| Setting::MemoryLow(amount(n))),
        "memory.high" => n().map(|n| Setting::MemoryHigh(amount(n))),
        "memory.min" => n().map(|n| Setting::MemoryMin(amount(n))),
        "memory.swap.max" => n().map(|n| Setting::SwapMax(amount(n))),
        "memory.zswap.max" => n().map(|n| Setting::ZswapMax(amount(n))),
        "memory.zswap.writeback" => number("", text).map(|n| Setting::ZswapWriteback(n != 0)),
        "memory.oom.group" => number("", text).map(|n| Setting::OomGroup(n != 0)),
        "pids.max" => n().map(|n| Setting::Pids(amount(n))),
        "cpu.weight" => n().map(Setting::CpuWeight),
        "cpu.idle" => n().and_then(|n| i64::try_from(n).ok()).map(Setting::CpuIdle),
        "cpu.max" => Some(bandwidth(text)),
        "cpuset.cpus" => Some(Setting::Cpus(text.to_string())),
        "cpuset.mems" => Some(Setting::MemoryNodes(text.to_string())),
        "io.weight" => io_weight(text),
        "io.latency" => io_latency(text),
        "io.max" => return io_max(text),
        _ => None,
    };
    one.into_iter().collect()
}

/// `50000 100000`, `max`.
fn bandwidth(text: &str) -> Setting {
    let (quota, period) = text.trim().split_once(char::is_whitespace).unwrap_or((text.trim(), ""));
    Setting::CpuBandwidth {
        quota: number("", quota).map(amount).or(Some(Amount::Max)),
        period: number("", period),
    }
}

/// `default 70`, `70`, `8:0 200`.
fn io_weight(text: &str) -> Option<Setting> {
    let (device, n) = match text.split_once(' ').filter(|(device, _)| *device != "default") {
        Some((device, n)) => (Some(Device(device.to_string())), n),
        None => (None, text.strip_prefix("default ").unwrap_or(text)),
    };
    number("", n).map(|n| Setting::IoWeight(device, Weight::Io(n)))
}

/// `8:16 target=75000`.
fn io_latency(text: &str) -> Option<Setting> {
    let (device, n) = text.split_once(" target=")?;
    number("", n).map(|n| Setting::IoLatency(Device(device.to_string()), n))
}

/// `8:0 rbps=1048576 wiops=max`.
fn io_max(text: &str) -> Vec<Setting> {
    let mut words = text.split_whitespace();
    let device = words.next().unwrap_or_default();
    let mut out = Vec::new();
    for (key, value) in words.filter_map(|w| w.split_once('=')) {
        let rate = match key {
            "rbps" => Rate::ReadBps,
            "wbps" => Rate::WriteBps,
            "riops" => Rate::ReadIops,
            "wiops" => Rate::WriteIops,
            _ => continue,
        };
        out.extend(
            number("", value).map(|n| Setting::IoRate(Device(device.to_string()), rate, amount(n))),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        for (text, want) in [
            ("max", Some(u64::MAX)),
            ("16M", Some(16 << 20)),
            ("1g", Some(1 << 30)),
            ("0x20", Some(32)),
            ("0x1E", Some(30)),
            ("0x2K", Some(2048)),
            ("020", Some(16)),
            ("0", Some(0)),
            (" 7\n", Some(7)),
            ("16E", None),
            ("x", None),
            ("", None),
            ("M", None),
            ("-5", None),
            ("1 2", None),
        ] {
            assert_eq!(number("memory.max", text), want, "{text:?}");
        }
        assert_eq!(number("pids.max", "0x20"), Some(32));
        assert_eq!(number("pids.max", "1K"), None);
    }
}
