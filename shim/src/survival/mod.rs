//! What lets containers outlive the server: the records that its keeper (crate conex-keeper) is told, and the upgrade in place.
//!
//! The order of what needs what: [`save`], [`due`], [`store`], [`resume`],
//! [`upgrade`].

pub mod due;
pub mod resume;
pub mod save;
pub mod store;
pub mod upgrade;

use crate::rpc::server::Connections;
use crate::task::service::Service;
use std::os::fd::RawFd;
use std::rc::Rc;

/// All that a server is, as far as the next one goes on with it.
pub struct Server {
    pub service: Rc<Service>,
    pub connections: Rc<Connections>,
    /// None without a keeper.
    pub store: Option<Rc<store::Store>>,
    pub listener: RawFd,
}
