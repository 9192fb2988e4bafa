//! rtnetlink(7), as little as a runtime needs: bring an interface up, move one into a namespace, its addresses.

use crate::error::{Context, Error, Result};
use nix::errno::Errno;
use nix::sys::socket::*;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const EXCL: u16 = 0x200;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFF_UP: u32 = 1;
/// Set by the user, not by the kernel or a router; and of global scope.
const IFA_F_PERMANENT: u32 = 0x80;

static BUFFER: Mutex<[u8; 64 << 10]> = Mutex::new([0; 64 << 10]);

struct Socket {
    fd: OwnedFd,
}

/// An address as the kernel dumped it: the ifaddrmsg header and its attributes, ready to be sent back.
pub struct Address {
    header: [u8; 8],
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Socket {
    fn open() -> Result<Socket> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )
        .call(|| "socket(AF_NETLINK, NETLINK_ROUTE)")?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).call(|| "bind(AF_NETLINK)")?;
        Ok(Socket { fd })
    }

    /// Sends one request and returns the payloads of the answer (type, body), up to its end.
    fn request(&self, kind: u16, flags: u16, body: &[u8]) -> nix::Result<Vec<(u16, Vec<u8>)>> {
        let mut message = Vec::with_capacity(16 + body.len());
        message.extend_from_slice(&(16 + body.len() as u32).to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        message.extend_from_slice(&1u32.to_ne_bytes());
        message.extend_from_slice(&0u32.to_ne_bytes());
        message.extend_from_slice(body);
        send(self.fd.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut out = Vec::new();
        // A part of a dump has as much as 32 KiB. The kernel touches as much of it as it writes, which is little for an
        // acknowledgement; memory that was zeroed would be touched as a whole.
        let mut buffer = BUFFER.lock().unwrap_or_else(|e| e.into_inner());
        loop {
            let n = recv(self.fd.as_raw_fd(), &mut *buffer, MsgFlags::empty())?;
            let mut at = 0;
            while at + 16 <= n {
                let len = u32::from_ne_bytes([
                    buffer[at],
                    buffer[at + 1],
                    buffer[at + 2],
                    buffer[at + 3],
                ]) as usize;
                let kind = u16::from_ne_bytes([buffer[at + 4], buffer[at + 5]]);
                if len < 16 || at + len > n {
                    return Err(Errno::EBADMSG);
                }
                let body = &buffer[at + 16..at + len];
                match kind {
                    NLMSG_DONE => return Ok(out),
                    NLMSG_ERROR => {
                        let code = body
                            .get(..4)
                            .map_or(0, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
                        return if code == 0 { Ok(out) } else { Err(Errno::from_raw(-code)) };
                    }
                    kind => out.push((kind, body.to_vec())),
                }
                at += len.next_multiple_of(4);
            }
        }
    }
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn attributes(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut out = Vec::new();
    while bytes.len() >= 4 {
        let len = u16::from_ne_bytes([bytes[0], bytes[1]]) as usize;
        let kind = u16::from_ne_bytes([bytes[2], bytes[3]]) & 0x3fff;
        if len < 4 || len > bytes.len() {
            break;
        }
        out.push((kind, bytes[4..len].to_vec()));
        bytes = &bytes[len.next_multiple_of(4).min(bytes.len())..];
    }
    out
}

/// struct ifinfomsg for one interface.
fn link_header(index: i32, flags: u32, change: u32) -> Vec<u8> {
    let mut out = vec![0u8; 4];
    out.extend_from_slice(&index.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&change.to_ne_bytes());
    out
}

/// Brings the loopback interface of the current network namespace up; it is always index 1.
pub fn up_loopback() -> Result<()> {
    set_up(1)
}

pub fn set_up(index: i32) -> Result<()> {
    Socket::open()?
        .request(RTM_NEWLINK, ACK, &link_header(index, IFF_UP, IFF_UP))
        .map(drop)
        .call(|| format!("RTM_NEWLINK(index {index}, IFF_UP)"))
}

/// The index of an interface of the current network namespace.
pub fn index(name: &str) -> Result<i32> {
    nix::net::if_::if_nametoindex(name)
        .map(|i| i as i32)
        .call(|| format!("if_nametoindex({name:?})"))
}

/// The names of the interfaces of the current network namespace.
pub fn names() -> Result<Vec<String>> {
    let list = nix::net::if_::if_nameindex().call(|| "if_nameindex")?;
    Ok(list.iter().map(|i| i.name().to_string_lossy().into_owned()).collect())
}

/// The permanent addresses of global scope of an interface: those that a move to another namespace drops and that
/// the container expects to keep (config-linux.md "Network Devices").
pub fn addresses(index: i32) -> Result<Vec<Address>> {
    let replies = Socket::open()?.request(RTM_GETADDR, DUMP, &[0u8; 8]).call(|| "RTM_GETADDR")?;
    let mut out = Vec::new();
    for (kind, body) in replies {
        if kind != RTM_NEWADDR || body.len() < 8 {
            continue;
        }
        let of = i32::from_ne_bytes([body[4], body[5], body[6], body[7]]);
        let attributes = attributes(&body[8..]);
        let flags = attributes
            .iter()
            .find(|a| a.0 == 8 && a.1.len() == 4)
            .map_or(u32::from(body[2]), |a| u32::from_ne_bytes([a.1[0], a.1[1], a.1[2], a.1[3]]));
        if of == index && flags & IFA_F_PERMANENT != 0 && body[3] == 0 {
            let mut header = [0u8; 8];
            header.copy_from_slice(&body[..8]);
            out.push(Address { header, attributes });
        }
    }
    Ok(out)
}

/// Adds a dumped address to an interface of the current network namespace.
pub fn add_address(index: i32, address: &Address, label: &str) -> Result<()> {
    let mut body = address.header.to_vec();
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    for (kind, value) in &address.attributes {
        // IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS; the label is the name of the interface, the rest
        // (cache information) is for reading only.
        match kind {
            1 | 2 | 4 | 8 => attribute(&mut body, *kind, value),
            3 => attribute(&mut body, 3, &[label.as_bytes(), b"\0"].concat()),
            _ => {}
        }
    }
    Socket::open()?
        .request(RTM_NEWADDR, ACK | CREATE | EXCL, &body)
        .map(drop)
        .call(|| format!("RTM_NEWADDR({label})"))
}

/// Moves an interface to the namespace behind a descriptor, under a new name.
pub fn move_link(name: &str, new_name: &str, namespace: BorrowedFd) -> Result<()> {
    let mut body = link_header(index(name)?, 0, 0);
    attribute(&mut body, IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
    attribute(&mut body, IFLA_IFNAME, &[new_name.as_bytes(), b"\0"].concat());
    match Socket::open()?.request(RTM_NEWLINK, ACK, &body) {
        Err(Errno::EEXIST) => Err(Error::call(
            Errno::EEXIST,
            format!("the container already has an interface {new_name:?}"),
        )),
        other => {
            other.map(drop).call(|| format!("RTM_NEWLINK({name} -> {new_name}, IFLA_NET_NS_FD)"))
        }
    }
}
