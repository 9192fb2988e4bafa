//! containerd's shim for conex and any other OCI runtime: argv in, one action, exit status out.

use conex_keeper::{document, keep};
use containerd_shim_conex::args::Args;
use containerd_shim_conex::{delete, info, log, reap, serve, start, status};
use nix::sys::stat::Mode;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

fn main() {
    // Whatever containerd's is, nobody else writes what is made from here on, by the runtime neither.
    let umask = nix::sys::stat::umask(Mode::S_IWGRP | Mode::S_IWOTH);
    nix::sys::stat::umask(umask | Mode::S_IWGRP | Mode::S_IWOTH);
    let given = std::env::args_os()
        .skip(1)
        .map(|a| conex_plan::text::from_bytes(a.as_bytes()).into_owned());
    let args = match Args::parse(given) {
        Ok(args) => args,
        Err(e) => fail(&e),
    };
    if args.version {
        let name = env!("CARGO_BIN_NAME");
        let text = format!(
            "{name}:\n  Version:  {}\n  Revision: {}\n",
            env!("CARGO_PKG_VERSION"),
            conex_plan::REVISION
        );
        answer(Ok(text.into_bytes()));
        return;
    }
    if args.info {
        answer(info::main());
        return;
    }
    match args.action.as_str() {
        "start" => answer(start::main(&args)),
        "delete" => answer(serve::block_on(delete::main(&args, &reap::reaper())).and_then(|r| r)),
        "document" => answer(Ok(document::versions())),
        "keep" => {
            if let Err(e) = keep::main(&args) {
                fail(&e.message);
            }
        }
        "serve" => {
            if let Err(e) = serve::main(&args) {
                log::error(&e.message, &[]);
                fail(&e.message);
            }
        }
        other => fail(&format!("unknown command {other:?}")),
    }
}

fn answer(result: status::Result<Vec<u8>>) {
    match result {
        Ok(bytes) => {
            let mut out = std::io::stdout().lock();
            if let Err(e) = out.write_all(&bytes).and_then(|()| out.flush()) {
                fail(&format!("write(stdout): {e}"));
            }
        }
        Err(e) => fail(&e.message),
    }
}

fn fail(message: &str) -> ! {
    eprintln!("containerd-shim-conex-v2: {message}");
    std::process::exit(1)
}
