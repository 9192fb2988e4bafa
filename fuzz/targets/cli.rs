#![no_main]
//! The command line, its words separated by NUL.

use conex::cli;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let words: Vec<String> =
        data.split(|b| *b == 0).map(|w| conex::text::from_bytes(w).into_owned()).collect();
    let Ok((global, rest)) = cli::parse_global(&words) else { return };
    let _ = (global.value("root"), global.is_set("debug"));
    let Some(command) = rest.first().and_then(|name| cli::command(name)) else { return };
    if let Ok(args) = cli::parse(&rest[1..], command.flags, command.reorder) {
        let _ = cli::check_count(command, &args);
        for flag in command.flags {
            let _ = (args.number::<u32>(flag.name), args.values(flag.name).len());
        }
    }
    let _ = containerd_shim_conex::args::Args::parse(words.into_iter());
});
