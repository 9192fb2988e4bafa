#![no_main]
//! Device rules: the program and the lines for the v1 controller are made from any list, in any order.

use conex::plan::device_rules::{effective, PlannedRule};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let number = |b: u8| (b < 250).then_some(u32::from(b));
    let rule = |(i, b): (usize, &[u8])| PlannedRule {
        allow: b[0] & 1 == 0,
        kind: [b'a', b'b', b'c', b'c'][usize::from(b[0] >> 1) % 4],
        major: number(b[1]),
        minor: number(b[2]),
        access: 1 + (b[0] >> 3) % 7,
        index: Some(i),
    };
    let list: Vec<PlannedRule> = data.chunks_exact(3).enumerate().map(rule).collect();
    let rules = effective(&list);
    assert!(!rules.program().is_empty());
    if let Err((i, what)) = rules.v1_lines() {
        assert!(i < list.len() && !what.is_empty());
    }
});
