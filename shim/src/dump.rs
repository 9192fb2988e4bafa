//! SIGUSR1: the shim's state, into its log.

use crate::log;
use crate::survival::Server;

pub fn write(server: &Server) {
    let service = &server.service;
    let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    log::info(
        "state",
        &[
            ("containers", &service.containers.borrow().len().to_string()),
            ("connections", &server.connections.open().len().to_string()),
            (
                "requests",
                &server
                    .connections
                    .open()
                    .iter()
                    .map(|c| c.pending.borrow().len())
                    .sum::<usize>()
                    .to_string(),
            ),
            ("events", &service.events.waiting().len().to_string()),
            ("descriptors", &descriptors.to_string()),
        ],
    );
    for c in service.containers.borrow().values() {
        let execs = c.execs.borrow();
        for p in std::iter::once(&c.init).chain(execs.values()) {
            let streams: Vec<String> = p
                .io()
                .streams
                .borrow()
                .iter()
                .map(|s| format!("{}:{}", s.name, if s.is_done() { "ended" } else { "open" }))
                .collect();
            log::info(
                "process",
                &[
                    ("id", &c.id),
                    ("exec", &p.id),
                    ("pid", &p.pid.get().to_string()),
                    ("stage", &format!("{:?}", p.stage.get())),
                    ("streams", &streams.join(" ")),
                ],
            );
        }
    }
}
