//! The forwarder as Python sees it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::forwarder::{Forwarder, Shared};
use super::table::Place;

type Source = (String, u16);
type Counts = (u64, f64, u64, u64, u64, u64);
type Drained<'py> = (
    Vec<(usize, Source, Option<Bound<'py, PyBytes>>, Bound<'py, PyBytes>)>,
    Vec<(Bound<'py, PyBytes>, Source, u64, u64, usize, Option<Bound<'py, PyBytes>>)>,
    Vec<(u64, u64, Bound<'py, PyBytes>)>,
);

/// Sessions, and the thread that forwards between them once it is started. Numbers of sessions are never reused.
#[pyclass(module = "shadowmesh._native")]
pub struct RelayForwarder {
    shared: Arc<Shared>,
    forwarder: Option<Forwarder>,
}

fn client(host: &str, port: u16) -> PyResult<SocketAddr> {
    let ip: IpAddr = host.parse().map_err(|_| PyValueError::new_err("not an address"))?;
    Ok(SocketAddr::new(ip, port))
}

fn place(host: Option<&str>, number: u64) -> PyResult<Place> {
    let Some(host) = host else { return Ok(Place::Stream(number)) };
    let port = u16::try_from(number).map_err(|_| PyValueError::new_err("not a port"))?;
    Ok(Place::Udp(client(host, port)?))
}

fn octets(ip: Option<IpAddr>, py: Python<'_>) -> Option<Bound<'_, PyBytes>> {
    ip.map(|ip| match ip {
        IpAddr::V4(ip) => PyBytes::new(py, &ip.octets()),
        IpAddr::V6(ip) => PyBytes::new(py, &ip.octets()),
    })
}

fn source(from: SocketAddr) -> Source {
    (from.ip().to_string(), from.port())
}

fn wrong_size<T>(_: T) -> PyErr {
    PyValueError::new_err("not of the right size")
}

#[pymethods]
impl RelayForwarder {
    /// `capacity` in bytes per second, None for as much as there is.
    #[new]
    #[pyo3(signature = (capacity=None))]
    fn new(capacity: Option<f64>) -> PyResult<Self> {
        Ok(Self { shared: Arc::new(Shared::new(capacity)?), forwarder: None })
    }

    /// A session at `host` and port `number`, or at connection `number`. Returns its number.
    /// `kbit` and `network_kbit` are what it, and all of its network together, may send; 0 for as much as there is.
    #[allow(clippy::too_many_arguments)]
    fn put(
        &self,
        key: &[u8],
        host: Option<&str>,
        number: u64,
        kbit: u32,
        network_kbit: u32,
        heard: f64,
        carry: bool,
    ) -> PyResult<u64> {
        let key = key.try_into().map_err(wrong_size)?;
        Ok(self.shared.table().put(key, place(host, number)?, [kbit, network_kbit], heard, carry))
    }

    fn remove(&self, session: u64) {
        self.shared.table().remove(session);
    }

    fn begin(&self, now: f64) {
        self.shared.table().begin(now);
    }

    /// The session that frames from `host` and `number` go to; counted as forwarded. None if they may not pass.
    fn route(&self, prefix: &[u8], host: Option<&str>, number: u64, frames: u64, octets: u64) -> PyResult<Option<u64>> {
        let prefix = prefix.try_into().map_err(wrong_size)?;
        let found = self.shared.table().route(prefix, &place(host, number)?, frames, octets);
        Ok(found.map(|(session, _)| session))
    }

    fn undelivered(&self, session: u64, frames: u64, octets: u64) {
        self.shared.table().undelivered(session, frames, octets);
    }

    /// Which of our addresses a client is sent to from, 4 or 16 bytes.
    fn set_local(&self, host: &str, port: u16, local: &[u8]) -> PyResult<()> {
        let local = match local.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(local).map_err(wrong_size)?),
            _ => IpAddr::from(<[u8; 16]>::try_from(local).map_err(wrong_size)?),
        };
        self.shared.table().set_local(client(host, port)?, local);
        Ok(())
    }

    fn forget_locals(&self, clients: Vec<Source>) -> PyResult<()> {
        let mut table = self.shared.table();
        for (host, port) in clients {
            table.forget_local(&client(&host, port)?);
        }
        Ok(())
    }

    /// Of each session: number, when it was heard, frames and bytes from it, frames and bytes to it.
    fn sessions(&self) -> Vec<Counts> {
        let table = self.shared.table();
        table.counts().map(|(id, c)| (id, c.heard, c.rx_frames, c.rx_bytes, c.tx_frames, c.tx_bytes)).collect()
    }

    /// Frames and bytes forwarded, frames undelivered, what was lost on the way to Python, and whether capacity is short.
    fn totals(&self) -> (u64, u64, u64, u64, bool) {
        let table = self.shared.table();
        let totals = table.totals;
        let lost = self.shared.lost.load(Ordering::Relaxed);
        (totals.forwarded_frames, totals.forwarded_bytes, totals.undelivered, lost, table.short())
    }

    /// Starts forwarding between these sockets. Returns the descriptor that is readable while `drain` has something. Raises OSError.
    fn start(&mut self, sockets: Vec<i32>) -> PyResult<i32> {
        self.forwarder = Some(Forwarder::start(Arc::clone(&self.shared), &sockets)?);
        Ok(self.shared.wake_fd())
    }

    fn stop(&mut self, py: Python<'_>) {
        let forwarder = self.forwarder.take();
        py.detach(|| drop(forwarder));
    }

    /// What waits: datagrams (socket, source, local address, data); frames that may not pass (prefix, source, frames, bytes, socket,
    /// local address); frames for connections (session, frames, data with lengths).
    fn drain<'py>(&self, py: Python<'py>) -> Drained<'py> {
        let waiting = self.shared.drain();
        let datagrams = waiting.datagrams.into_iter();
        let refused = waiting.refused.into_iter();
        let streams = waiting.streams.into_iter();
        (
            datagrams.map(|d| (d.socket, source(d.from), octets(d.local, py), PyBytes::new(py, &d.data))).collect(),
            refused
                .map(|((prefix, from), r)| {
                    (PyBytes::new(py, &prefix), source(from), r.frames, r.octets, r.socket, octets(r.local, py))
                })
                .collect(),
            streams.map(|(session, p)| (session, p.frames, PyBytes::new(py, &p.data))).collect(),
        )
    }
}
