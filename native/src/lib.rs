//! ShadowMesh's native pump: moves packets between TUN devices and sockets, by the sessions and paths it is given.
//!
//! Rules of behaviour: `docs/pump.md`; how it is built: `docs/dataplane.md`. The modules from inside out:
//!
//! * parts: [`path`], [`packet`], [`checksum`], [`prefix`], [`replay`], [`msgpack`], [`counters`], [`aead`];
//! * the values that cross the process: [`command`], [`event`];
//! * the core without descriptors: [`state`] (who is where), [`outbound`] with [`segment`] (from an interface), [`update`] (what
//!   commands do), [`inbound`] with [`coalesce`] (from the underlay), over the traits in [`io`];
//! * the shell: [`sys`], [`message`], [`udp`], [`stream`], [`tun`], [`control`], [`pace`], [`pump`] (threads, lanes, turns);
//! * apart from all these, in the relay's process: [`relay`]; where an event loop speaks to a relay or is one: `tls`.
//!
//! Allocation happens per batch, never per packet. Bytes from outside are read in functions that take slices, and all of
//! these have a fuzz target (`native/fuzz`).

pub mod aead;
pub mod checksum;
pub mod coalesce;
pub mod command;
pub mod control;
pub mod counters;
pub mod event;
pub mod inbound;
pub mod io;
pub mod memory;
pub mod message;
pub mod msgpack;
pub mod outbound;
pub mod pace;
pub mod packet;
pub mod path;
pub mod prefix;
pub mod pump;
pub mod relay;
pub mod replay;
pub mod segment;
pub mod session;
pub mod state;
pub mod stream;
pub mod sys;
#[cfg(feature = "python")]
mod tls;
pub mod tun;
mod turns;
pub mod udp;
pub mod update;

#[cfg(feature = "python")]
mod python {
    use pyo3::prelude::*;

    /// Runs the pump until the other end of the control socket closes. Takes both descriptors over.
    #[pyfunction]
    fn run(py: Python<'_>, control_fd: i32, table_fd: i32) -> PyResult<()> {
        Ok(py.detach(|| crate::pump::run(control_fd, table_fd))?)
    }

    #[pymodule]
    fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add_class::<crate::relay::python::RelayForwarder>()?;
        module.add_class::<crate::tls::TlsServer>()?;
        module.add_class::<crate::tls::TlsClient>()?;
        module.add_class::<crate::tls::TlsConnection>()?;
        module.add_function(wrap_pyfunction!(run, module)?)
    }
}
