//! `conex list`.

use super::env::Env;
use super::state::Document;
use crate::error::{Error, Kind, Result};
use crate::state::{State, Status, Store};

pub fn main(env: &mut Env) -> Result<i32> {
    let format = env.args.value("format").unwrap_or("table").to_string();
    if !matches!(format.as_str(), "table" | "json") {
        return Err(Error::new(Kind::Invalid, format!("invalid format option: {format:?}")));
    }
    if env.args.is_set("quiet") {
        let found = each(env, Store::record)?;
        let ids: String = found.iter().map(|s| format!("{}\n", s.id)).collect();
        super::env::print(&ids)?;
        return Ok(0);
    }
    let found: Vec<(State, Status)> = each(env, Store::peek)?;
    if format == "json" {
        let list: Vec<_> =
            found.iter().map(|(s, status)| Document::new(s, *status, owner(s.owner_uid))).collect();
        let text = if list.is_empty() {
            "null".to_string()
        } else {
            serde_json::to_string(&list).map_err(|e| Error::new(Kind::System, e.to_string()))?
        };
        super::env::print(&text)?;
        return Ok(0);
    }
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(String::from)];
    for (s, status) in &found {
        let pid = if *status == Status::Stopped { 0 } else { s.init.map_or(0, |i| i.pid) };
        let bundle = s.bundle.display().to_string();
        rows.push([
            s.id.clone(),
            pid.to_string(),
            status.name().into(),
            bundle,
            s.created.clone(),
            owner(s.owner_uid),
        ]);
    }
    super::env::print(&table(&rows))?;
    Ok(0)
}

fn each<T>(env: &mut Env, look: impl Fn(&Store, &str) -> Result<T>) -> Result<Vec<T>> {
    let mut found = Vec::new();
    let Some(store) = Store::open(&env.root, false)? else { return Ok(found) };
    for id in store.ids()? {
        match look(&store, &id) {
            Ok(entry) => found.push(entry),
            // Deleted meanwhile.
            Err(e) if e.kind == Kind::NotFound => {}
            // One damaged entry must not hide the healthy ones.
            Err(e) => env.log.warn(e.to_string()),
        }
    }
    Ok(found)
}

/// Go's tabwriter(minwidth 12, tabwidth 1, padding 3), as runc prints it.
fn table(rows: &[[String; 6]]) -> String {
    let widths: Vec<usize> = (0..5)
        .map(|c| rows.iter().map(|r| r[c].chars().count() + 3).max().unwrap_or(0).max(12))
        .collect();
    let mut out = String::new();
    for row in rows {
        for (c, width) in widths.iter().enumerate() {
            out += &format!("{:<width$}", row[c]);
        }
        out += &row[5];
        out.push('\n');
    }
    out
}

fn owner(uid: u32) -> String {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = text.lines().find_map(|l| {
        let mut fields = l.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_string())
    });
    name.unwrap_or_else(|| format!("#{uid}"))
}
