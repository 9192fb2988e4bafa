//! `conex features`: touches no state, needs no privilege.

use crate::error::Result;

pub fn main() -> Result<i32> {
    super::state::print_json(&crate::plan::features::document())?;
    super::env::print("\n")?;
    Ok(0)
}
