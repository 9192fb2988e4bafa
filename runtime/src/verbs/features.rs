//! `conex features`: touches no state, needs no privilege.

use crate::error::Result;

pub fn main() -> Result<i32> {
    super::state::print_json(&crate::oci::features::document())?;
    super::print("\n")?;
    Ok(0)
}
