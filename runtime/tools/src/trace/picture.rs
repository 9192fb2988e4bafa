//! A timeline as text, as Chrome's trace events, as SVG and as a page of HTML.

use super::step::{Side, Stage};
use serde_json::json;
use std::fmt::Write;

/// One line a step: its begin and length in microseconds, its side, a bar, and what it is.
pub fn text(steps: &[Stage]) -> String {
    const WIDTH: u64 = 40;
    if steps.is_empty() {
        return "no step was taken\n".into();
    }
    let total = total(steps);
    let mut out = format!("{:>9} {:>9}  {:<9}  {:<40}  step\n", "µs", "for", "side", "");
    for s in steps {
        let at = s.begin * WIDTH / total;
        let long = (s.length * WIDTH).div_ceil(total).clamp(1, WIDTH - at.min(WIDTH - 1));
        let bar =
            format!("{}{}", " ".repeat(at as usize), sign(s).to_string().repeat(long as usize));
        // A name out of a document may hold what a terminal obeys.
        let name: String = s.text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let _ = writeln!(
            out,
            "{:>9} {:>9}  {:<9}  {bar:<40}  {name}",
            s.begin,
            s.length,
            s.side.name()
        );
    }
    let _ = writeln!(out, "{total:>9}            in all; = work, . waiting, h hook, d D-Bus");
    out
}

fn sign(step: &Stage) -> char {
    match step.kind() {
        "wait" | "program" => '.',
        "hook" => 'h',
        "D-Bus" => 'd',
        _ => '=',
    }
}

fn total(steps: &[Stage]) -> u64 {
    steps.iter().map(|s| s.begin + s.length).max().unwrap_or(0).max(1)
}

/// "Trace Event Format": complete events (`X`), one thread for each side.
pub fn json(steps: &[Stage], title: &str, parent: Option<&str>) -> String {
    let thread = |side: Side| if side == Side::Host { 1 } else { 2 };
    let names = [Side::Host, Side::Container]
        .map(|side| json!({"ph": "M", "name": "thread_name", "pid": 1, "tid": thread(side), "args": {"name": side.name()}}));
    let event = |s: &Stage| json!({"ph": "X", "name": s.text, "cat": s.kind(), "ts": s.begin, "dur": s.length, "pid": 1, "tid": thread(s.side)});
    let events: Vec<_> = names.into_iter().chain(steps.iter().map(event)).collect();
    let other = json!({"command": format!("conex {title}"), "traceparent": parent});
    format!("{}\n", json!({"displayTimeUnit": "ms", "otherData": other, "traceEvents": events}))
}

const ROW: u64 = 18;
const BARS: u64 = 420;
const LEFT: u64 = 170;

/// A waterfall: one row a step, those of the host blue, of the container green, waiting grey.
pub fn svg(steps: &[Stage], title: &str) -> String {
    let total = total(steps);
    let height = ROW * (steps.len() as u64 + 3);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"1100\" height=\"{height}\" font-family=\"monospace\" font-size=\"12\">\n\
         <rect width=\"1100\" height=\"{height}\" fill=\"#fff\"/>\n<text x=\"8\" y=\"14\">{}: {total} µs</text>\n",
        escaped(&format!("conex {title}"))
    );
    for (i, s) in steps.iter().enumerate() {
        let y = ROW * (i as u64 + 2);
        let x = LEFT + s.begin * BARS / total;
        let width = (s.length * BARS / total).max(1);
        let fill = match (s.kind(), s.side) {
            ("wait" | "program", _) => "#bbb",
            ("hook", _) => "#e69f00",
            ("D-Bus", _) => "#cc79a7",
            (_, Side::Host) => "#0072b2",
            (_, Side::Container) => "#009e73",
        };
        let _ = writeln!(
            out,
            "<text x=\"8\" y=\"{}\" fill=\"#555\">{:>7} {:>7} {}</text><rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{}\" fill=\"{fill}\"><title>{}</title></rect><text x=\"{}\" y=\"{}\">{}</text>",
            y + 12,
            s.begin,
            s.length,
            &s.side.name()[..1],
            ROW - 4,
            escaped(&s.text),
            LEFT + BARS + 10,
            y + 12,
            escaped(&conex::text::shortened_to(s.text.clone(), 64)),
        );
    }
    out + "</svg>\n"
}

pub fn html(steps: &[Stage], title: &str, parent: Option<&str>) -> String {
    let parent = parent.map_or(String::new(), |p| format!("<p>TRACEPARENT {}</p>\n", escaped(p)));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{}</title>\n<p>Begin and length of each step in \
         microseconds; h is the host's side, c the container's. Grey: waiting; orange: a hook.</p>\n{parent}{}</html>\n",
        escaped(&format!("conex {title}")),
        svg(steps, title)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
