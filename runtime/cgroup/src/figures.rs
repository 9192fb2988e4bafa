//! The forms in which the files of cgroups have their figures (Documentation/admin-guide/cgroup-v2.rst, "Format").

use std::path::Path;

/// A file of one number; `max` and -1 are the largest, a missing file is 0.
pub fn number(text: &str) -> u64 {
    match text.trim() {
        "max" | "-1" => u64::MAX,
        t => t.parse().unwrap_or(0),
    }
}

/// A flat-keyed file as (key, value) pairs.
pub fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines()
        .filter_map(|l| l.split_once(' '))
        .filter_map(|(k, v)| Some((k, v.trim().parse().ok()?)))
}

/// The value of a key of a flat-keyed file; 0 if it is not there.
pub fn key(text: &str, name: &str) -> u64 {
    pairs(text).find(|(k, _)| *k == name).map_or(0, |(_, v)| v)
}

/// One figure of a block device.
#[derive(Debug, PartialEq)]
pub struct Block<'a> {
    pub major: u64,
    pub minor: u64,
    /// `Read`, or nothing.
    pub op: &'a str,
    pub value: u64,
}

/// Files of blkio on v1: `8:0 Read 4096`, or `8:0 4096`; the line of the total has no device.
pub fn blocks(text: &str) -> impl Iterator<Item = Block<'_>> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let (op, value) = match (words.next()?, words.next()) {
            (op, Some(value)) => (op, value),
            (value, None) => ("", value),
        };
        Some(Block {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            op,
            value: value.parse().ok()?,
        })
    })
}

/// A line of io.stat: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`.
#[derive(Debug, PartialEq)]
pub struct BlockIo {
    pub major: u64,
    pub minor: u64,
    pub rbytes: u64,
    pub wbytes: u64,
    pub rios: u64,
    pub wios: u64,
}

pub fn io(text: &str) -> impl Iterator<Item = BlockIo> + '_ {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let mut out = BlockIo {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            rbytes: 0,
            wbytes: 0,
            rios: 0,
            wios: 0,
        };
        let mut known = false;
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            let place = match key {
                "rbytes" => &mut out.rbytes,
                "wbytes" => &mut out.wbytes,
                "rios" => &mut out.rios,
                "wios" => &mut out.wios,
                _ => continue,
            };
            *place = number(value);
            known = true;
        }
        known.then_some(out)
    })
}

/// Pressure: shares of time in percent, and microseconds.
#[derive(Debug, Default, PartialEq)]
pub struct Pressure {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total: u64,
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full` (Linux 4.20).
pub fn pressure(text: &str, kind: &str) -> Option<Pressure> {
    let rest = text.lines().find_map(|l| l.strip_prefix(kind)?.strip_prefix(' '))?;
    let field =
        |key: &str| rest.split_whitespace().find_map(|w| w.strip_prefix(key)?.strip_prefix('='));
    // Averages have two decimals. Reading any floating point number would be far larger than this.
    let share = |key| {
        field(key).and_then(|v| conex_plan::text::decimal(v, 100)).map_or(0.0, |n| n as f64 / 100.0)
    };
    Some(Pressure {
        avg10: share("avg10"),
        avg60: share("avg60"),
        avg300: share("avg300"),
        total: field("total").map_or(0, number),
    })
}

/// The sizes of huge pages for which a directory has a file that ends so (`.current`), as the files spell them; sorted.
pub fn hugepage_sizes(dir: &Path, end: &str) -> Vec<String> {
    let Ok(list) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut sizes: Vec<String> = list
        .flatten()
        .filter_map(|e| {
            e.file_name().to_str()?.strip_prefix("hugetlb.")?.strip_suffix(end).map(str::to_string)
        })
        .filter(|s| !s.contains('.'))
        .collect();
    sizes.sort();
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form() {
        assert_eq!(
            [number("max\n"), number("-1"), number("7\n"), number("")],
            [u64::MAX, u64::MAX, 7, 0]
        );
        assert_eq!((key("a 1\nab 2\n", "ab"), key("a 1\n", "b")), (2, 0));
        let list: Vec<_> = blocks("8:0 Read 4096\n8:0 12\nTotal 5\n").collect();
        assert_eq!(
            list,
            [
                Block { major: 8, minor: 0, op: "Read", value: 4096 },
                Block { major: 8, minor: 0, op: "", value: 12 }
            ]
        );
        let list: Vec<_> = io("8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5\nx\n").collect();
        assert_eq!(list, [BlockIo { major: 8, minor: 16, rbytes: 1, wbytes: 2, rios: 3, wios: 4 }]);
        let text =
            "some avg10=0.05 avg60=1.50 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(
            pressure(text, "some").unwrap(),
            Pressure { avg10: 0.05, avg60: 1.5, avg300: 0.0, total: 77 }
        );
        assert_eq!(pressure("", "full"), None);
    }
}
