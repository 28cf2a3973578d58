//! Commands of the deciding side, read from the control socket (`shadowmesh/dataplane/wire.py` writes them).

use std::net::{IpAddr, Ipv6Addr};

use zeroize::Zeroize;

use crate::msgpack::{Malformed, Reader, Result};
use crate::path::{Path, Remote};
use crate::prefix::Network;

/// Transport keys, wiped when they have been taken over.
pub struct SessionKeys {
    pub local_index: u32,
    pub remote_index: u32,
    pub send_key: [u8; 32],
    pub recv_key: [u8; 32],
    pub initiator: bool,
    /// CLOCK_BOOTTIME seconds.
    pub dies: f64,
}

impl Drop for SessionKeys {
    fn drop(&mut self) {
        self.send_key.zeroize();
        self.recv_key.zeroize();
    }
}

/// What the deciding side says. `fd` is a place among the message's descriptors.
pub enum Command {
    AddTun { net: u32, fd: usize, mtu: u32, local: Vec<Network> },
    SetLocal { net: u32, local: Vec<Network> },
    SetMtu { net: u32, mtu: u32 },
    RemoveTun { net: u32 },
    AddIdentity { net: u32, mac1_key: [u8; 32] },
    RemoveIdentity { net: u32 },
    AddSocket { slot: u32, fd: usize },
    RemoveSocket { slot: u32 },
    AddStream { slot: u32, fd: usize },
    RemoveStream { slot: u32 },
    PutPeer { peer: u32, net: u32, allowed: Vec<Network>, roam: bool },
    RemovePeer { peer: u32 },
    SetPath { peer: u32, primary: Option<Path>, also: Option<Path>, mtu: Option<u32> },
    Install { peer: u32, session: Box<SessionKeys> },
    DropSessions { peer: u32, indices: Option<Vec<u32>> },
    SetFilter { net: u32, closed: bool },
    Send { path: Path, data: Vec<u8> },
    Keepalive { peer: u32 },
    Arm { peer: u32, edges: u8 },
    Unstage { peer: u32 },
}

/// The commands of one message: each a u32 length and an array.
pub fn decode_message(mut message: &[u8]) -> Result<Vec<Command>> {
    let mut commands = Vec::new();
    while !message.is_empty() {
        let (size, rest) = message.split_first_chunk::<4>().ok_or(Malformed)?;
        let (body, rest) = rest.split_at_checked(u32::from_be_bytes(*size) as usize).ok_or(Malformed)?;
        commands.push(decode(body)?);
        message = rest;
    }
    Ok(commands)
}

/// One command.
pub fn decode(body: &[u8]) -> Result<Command> {
    let mut r = Reader::new(body);
    let fields = r.array()?;
    let kind = r.unsigned()?;
    let expected = match kind {
        0 | 10 | 12 => 5,
        3 | 5 | 7 | 9 | 11 | 17 | 19 => 2,
        _ => 3,
    };
    if fields != expected {
        return Err(Malformed);
    }
    let command = match kind {
        0 => Command::AddTun { net: r.u32()?, fd: r.u32()? as usize, mtu: r.u32()?, local: networks(&mut r)? },
        1 => Command::SetLocal { net: r.u32()?, local: networks(&mut r)? },
        2 => Command::SetMtu { net: r.u32()?, mtu: r.u32()? },
        3 => Command::RemoveTun { net: r.u32()? },
        4 => Command::AddIdentity { net: r.u32()?, mac1_key: key(&mut r)? },
        5 => Command::RemoveIdentity { net: r.u32()? },
        6 => Command::AddSocket { slot: r.u32()?, fd: r.u32()? as usize },
        7 => Command::RemoveSocket { slot: r.u32()? },
        8 => Command::AddStream { slot: r.u32()?, fd: r.u32()? as usize },
        9 => Command::RemoveStream { slot: r.u32()? },
        10 => Command::PutPeer { peer: r.u32()?, net: r.u32()?, allowed: networks(&mut r)?, roam: r.boolean()? },
        11 => Command::RemovePeer { peer: r.u32()? },
        12 => Command::SetPath {
            peer: r.u32()?,
            primary: optional(&mut r, path)?,
            also: optional(&mut r, path)?,
            mtu: optional(&mut r, Reader::u32)?,
        },
        13 => Command::Install { peer: r.u32()?, session: session(&mut r)? },
        14 => {
            Command::DropSessions { peer: r.u32()?, indices: optional(&mut r, |r| (0..r.array()?).map(|_| r.u32()).collect())? }
        }
        15 => Command::SetFilter { net: r.u32()?, closed: !r.nil() && r.bytes().map(|_| true)? },
        16 => Command::Send { path: path(&mut r)?, data: r.bytes()?.to_vec() },
        17 => Command::Keepalive { peer: r.u32()? },
        18 => Command::Arm { peer: r.u32()?, edges: r.u32()?.try_into().map_err(|_| Malformed)? },
        19 => Command::Unstage { peer: r.u32()? },
        _ => return Err(Malformed),
    };
    r.end()?;
    Ok(command)
}

fn optional<'a, T>(r: &mut Reader<'a>, read: impl FnOnce(&mut Reader<'a>) -> Result<T>) -> Result<Option<T>> {
    if r.nil() { Ok(None) } else { read(r).map(Some) }
}

fn key(r: &mut Reader) -> Result<[u8; 32]> {
    r.bytes()?.try_into().map_err(|_| Malformed)
}

fn session(r: &mut Reader) -> Result<Box<SessionKeys>> {
    r.array_of(7)?;
    let (local_index, remote_index) = (r.u32()?, r.u32()?);
    let (send_key, recv_key) = (key(r)?, key(r)?);
    let initiator = r.boolean()?;
    r.real()?; // born
    let dies = r.real()?;
    Ok(Box::new(SessionKeys { local_index, remote_index, send_key, recv_key, initiator, dies }))
}

fn path(r: &mut Reader) -> Result<Path> {
    r.array_of(4)?;
    Ok(Path {
        via: r.u32()?,
        remote: optional(r, remote)?,
        local: optional(r, |r| r.text()?.parse().map_err(|_| Malformed))?,
        prefix: r.bytes()?.into(),
    })
}

fn remote(r: &mut Reader) -> Result<Remote> {
    r.array_of(2)?;
    let host = r.text()?;
    let port = r.u32()?.try_into().map_err(|_| Malformed)?;
    let (host, scope) = host.split_once('%').unwrap_or((host, ""));
    let scope = if scope.is_empty() { 0 } else { scope.parse().unwrap_or_else(|_| crate::sys::interface_index(scope)) };
    Ok(Remote { ip: host.parse().map_err(|_| Malformed)?, port, scope })
}

fn networks(r: &mut Reader) -> Result<Vec<Network>> {
    (0..r.array()?)
        .map(|_| {
            let (address, length) = r.text()?.split_once('/').ok_or(Malformed)?;
            let address: IpAddr = address.parse().map_err(|_| Malformed)?;
            let length: u8 = length.parse().map_err(|_| Malformed)?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            if length > most { Err(Malformed) } else { Ok(Network { address, length }) }
        })
        .collect()
}

/// The text of an address as Python's socket module gives it, with the interface of a link-local one.
pub fn host_text(remote: &Remote) -> String {
    match remote.ip {
        IpAddr::V6(ip) if remote.scope != 0 && is_link_local(ip) => {
            format!("{ip}%{}", crate::sys::interface_name(remote.scope).unwrap_or_else(|| remote.scope.to_string()))
        }
        ip => ip.to_string(),
    }
}

fn is_link_local(ip: Ipv6Addr) -> bool {
    ip.segments()[0] & 0xFFC0 == 0xFE80
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msgpack::Writer;

    #[test]
    fn a_path_is_read() {
        let mut w = Writer::default();
        w.array(5);
        w.unsigned(12);
        w.unsigned(7);
        w.array(4);
        w.unsigned(3);
        w.array(2);
        w.text("fe80::1%lo");
        w.unsigned(51820);
        w.text("::2");
        w.bytes(b"prefix");
        w.nil();
        w.unsigned(1280);
        let Ok(Command::SetPath { peer: 7, primary: Some(path), also: None, mtu: Some(1280) }) = decode(&w.0) else {
            panic!("not a SetPath");
        };
        assert_eq!(path.remote, Some(Remote { ip: "fe80::1".parse().unwrap(), port: 51820, scope: 1 }));
        assert_eq!(host_text(&path.remote.unwrap()), "fe80::1%lo");
        assert_eq!((path.via, &*path.prefix), (3, &b"prefix"[..]));
    }

    #[test]
    fn cut_and_wrong_messages_are_refused() {
        let mut w = Writer::default();
        w.array(2);
        w.unsigned(17);
        w.unsigned(5);
        let mut message = 3u32.to_be_bytes().to_vec();
        message.extend_from_slice(&w.0);
        assert_eq!(decode_message(&message).unwrap().len(), 1);
        for size in 1..message.len() {
            assert!(decode_message(&message[..size]).is_err(), "{size}");
        }
        assert!(decode(&[0x92, 0x63, 5]).is_err());
        assert!(decode(&[0x93, 17, 5, 5]).is_err());
    }
}
