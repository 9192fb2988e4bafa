#![no_main]
//! Messages of a D-Bus peer, and GVariant text of an annotation, which goes out as a message.

use conex::dbus::wire;
use conex::plan::gvariant;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some(head) = data.first_chunk::<16>() {
        let _ = wire::length(head);
    }
    let _ = wire::decode(data);
    if let Ok(value) = gvariant::parse(&String::from_utf8_lossy(data)) {
        let bytes = wire::call(
            1,
            wire::Method { to: Some("a.b"), path: "/x", interface: "i.f", member: "M" },
            &[value.clone()],
        );
        assert_eq!(wire::length(bytes.first_chunk::<16>().unwrap()), Some(bytes.len()));
        assert_eq!(wire::decode(&bytes).unwrap().body, [value]);
    }
});
