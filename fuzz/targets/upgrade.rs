#![no_main]
//! The document that one build of the shim leaves to the next, and what a keeper tells of an exit.

use containerd_shim_conex::{store, upgrade::Saved};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(saved) = serde_json::from_slice::<Saved>(data) {
        let _ = saved.descriptors();
        let text = serde_json::to_vec(&saved).unwrap();
        assert!(serde_json::from_slice::<Saved>(&text).is_ok());
    }
    let _ = store::parse(&String::from_utf8_lossy(data));
});
