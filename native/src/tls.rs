//! TLS by `rustls`, as Python's event loop uses it: bytes in, bytes out; the sockets stay with the loop.
//!
//! For WebSockets to relays, where TLS hides the traffic's kind and nothing more: who a relay is, its signature says inside. So a
//! client takes any certificate. It is here for its AES-GCM, which `ring` does at more than twice the rate of OpenSSL 3.0
//! on processors with VAES and without AVX-512, and for fewer copies than Python's `ssl` with its memory BIOs makes.

use std::sync::Arc;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConnectionData, Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme};

fn refused(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// A server's certificate and key.
#[pyclass(module = "shadowmesh._native", frozen)]
pub struct TlsServer(Arc<ServerConfig>);

#[pymethods]
impl TlsServer {
    /// From PEM: the chain, the server's own first, and its key. Raises ValueError for what `ring` doesn't know, too.
    #[new]
    fn new(chain: &[u8], key: &[u8]) -> PyResult<Self> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(refused)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(refused)?;
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(refused)?;
        let mut config = builder.with_no_client_auth().with_single_cert(chain, key).map_err(refused)?;
        config.send_tls13_tickets = 0;
        Ok(Self(Arc::new(config)))
    }

    /// A connection that somebody has just made.
    fn accept(&self) -> PyResult<TlsConnection> {
        let connection = UnbufferedServerConnection::new(self.0.clone()).map_err(refused)?;
        Ok(TlsConnection { side: Side::Server(connection), flow: Flow::default() })
    }
}

/// Whom a client asks for.
#[pyclass(module = "shadowmesh._native", frozen)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

#[pymethods]
impl TlsClient {
    /// `host` is a name or an address. Raises ValueError.
    #[new]
    fn new(host: String) -> PyResult<Self> {
        let name = ServerName::try_from(host).map_err(refused)?;
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(refused)?;
        let verifier = Arc::new(AnyCertificate(provider()));
        let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), name })
    }

    /// A connection that was just made.
    fn connect(&self) -> PyResult<TlsConnection> {
        let connection = UnbufferedClientConnection::new(self.config.clone(), self.name.clone()).map_err(refused)?;
        Ok(TlsConnection { side: Side::Client(connection), flow: Flow::default() })
    }
}

/// One end of a connection.
#[pyclass(module = "shadowmesh._native")]
pub struct TlsConnection {
    side: Side,
    flow: Flow,
}

enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// What is on its way through a connection.
#[derive(Default)]
struct Flow {
    incoming: Vec<u8>, // records, the last perhaps not whole
    plain: Vec<u8>,    // from them, where the caller had no room
    early: Vec<u8>,    // to be sent when the handshake is done
    outgoing: Vec<u8>,
    closed: bool,
}

/// What `Flow::step` found.
enum Step<'c, Data> {
    Again,
    Blocked,
    Ready(WriteTraffic<'c, Data>),
}

impl Flow {
    /// Deals with one state of a connection.
    fn step<'c, Data>(&mut self, state: ConnectionState<'c, '_, Data>, into: &mut Room) -> PyResult<Step<'c, Data>> {
        match state {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let rest = into.take(record.map_err(refused)?.payload);
                    self.plain.extend_from_slice(rest);
                }
            }
            ConnectionState::EncodeTlsData(mut handshake) => {
                let size = match handshake.encode(&mut []) {
                    Err(EncodeError::InsufficientSize(needed)) => needed.required_size,
                    _ => 0,
                };
                let start = self.outgoing.len();
                self.outgoing.resize(start + size, 0);
                handshake.encode(&mut self.outgoing[start..]).map_err(refused)?;
            }
            ConnectionState::TransmitTlsData(handshake) => handshake.done(),
            ConnectionState::WriteTraffic(mut traffic) => {
                if !self.early.is_empty() {
                    let start = self.outgoing.len();
                    self.outgoing.resize(start + sealed_size(&mut traffic, &self.early)?, 0);
                    traffic.encrypt(&self.early, &mut self.outgoing[start..]).map_err(refused)?;
                    self.early = Vec::new();
                }
                return Ok(Step::Ready(traffic));
            }
            ConnectionState::PeerClosed | ConnectionState::Closed => {
                self.closed = true;
                return Ok(Step::Blocked);
            }
            _ => return Ok(Step::Blocked),
        }
        Ok(Step::Again)
    }

    /// `data` sealed, behind what waits.
    fn seal<'py, Data>(
        &mut self,
        py: Python<'py>,
        traffic: &mut WriteTraffic<'_, Data>,
        data: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        let before = std::mem::take(&mut self.outgoing);
        let size = sealed_size(traffic, data)?;
        PyBytes::new_with(py, before.len() + size, |to| {
            to[..before.len()].copy_from_slice(&before);
            traffic.encrypt(data, &mut to[before.len()..]).map_err(refused).map(drop)
        })
    }

    fn close<Data>(&mut self, traffic: &mut WriteTraffic<'_, Data>) -> PyResult<()> {
        let mut alert = [0; 64];
        let size = traffic.queue_close_notify(&mut alert).map_err(refused)?;
        self.outgoing.extend_from_slice(&alert[..size]);
        Ok(())
    }

    fn waiting<'py>(&mut self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &std::mem::take(&mut self.outgoing))
    }
}

/// The caller's memory, and how much of it is full.
struct Room<'b> {
    memory: &'b mut [u8],
    used: usize,
}

impl Room<'_> {
    /// Takes as much as there is room for; returns the rest.
    fn take<'d>(&mut self, data: &'d [u8]) -> &'d [u8] {
        let (fits, rest) = data.split_at(data.len().min(self.memory.len() - self.used));
        self.memory[self.used..self.used + fits.len()].copy_from_slice(fits);
        self.used += fits.len();
        rest
    }
}

/// What is to be done with a connection that may send.
enum Then<'d> {
    Nothing,
    Seal(&'d [u8]),
    Close,
}

/// Either side's connection.
trait Records {
    type Data;

    fn process<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Records for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(records)
    }
}

impl Records for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(records)
    }
}

/// Goes on until the connection waits for the other end. If it may send by then, `then` follows; what that seals is returned.
fn run<'py, R: Records>(
    py: Python<'py>,
    connection: &mut R,
    flow: &mut Flow,
    into: &mut Room,
    then: Then,
) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let mut incoming = std::mem::take(&mut flow.incoming);
    let mut at = 0;
    let done = loop {
        let status = connection.process(&mut incoming[at..]);
        at += status.discard;
        match status.state.map_err(refused).and_then(|state| flow.step(state, into)) {
            Ok(Step::Again) => {}
            Ok(Step::Blocked) => break Ok(None),
            Ok(Step::Ready(mut traffic)) => match then {
                Then::Nothing => break Ok(None),
                Then::Seal(data) => break flow.seal(py, &mut traffic, data).map(Some),
                Then::Close => break flow.close(&mut traffic).map(|()| None),
            },
            Err(error) => break Err(error),
        }
    };
    incoming.drain(..at);
    flow.incoming = incoming;
    done
}

fn sealed_size<Data>(traffic: &mut WriteTraffic<'_, Data>, data: &[u8]) -> PyResult<usize> {
    match traffic.encrypt(data, &mut []) {
        Ok(_) => Ok(0),
        Err(EncryptError::InsufficientSize(needed)) => Ok(needed.required_size),
        Err(error) => Err(refused(error)),
    }
}

impl TlsConnection {
    fn run<'py>(&mut self, py: Python<'py>, into: &mut [u8], then: Then) -> (usize, PyResult<Option<Bound<'py, PyBytes>>>) {
        let mut into = Room { memory: into, used: 0 };
        let plain = std::mem::take(&mut self.flow.plain);
        self.flow.plain = into.take(&plain).to_vec();
        let done = match &mut self.side {
            Side::Client(connection) => run(py, connection, &mut self.flow, &mut into, then),
            Side::Server(connection) => run(py, connection, &mut self.flow, &mut into, then),
        };
        (into.used, done)
    }
}

#[pymethods]
impl TlsConnection {
    /// Whether the other end has said that nothing more will come.
    #[getter]
    fn closed(&self) -> bool {
        self.flow.closed
    }

    /// Takes in bytes that came, and writes what they say to `into`. Returns how many bytes it wrote; if it filled `into`, there may
    /// be more. Raises ValueError for what is no TLS; then `outgoing` has an alert.
    fn receive(&mut self, py: Python<'_>, data: PyBuffer<u8>, into: PyBuffer<u8>) -> PyResult<usize> {
        let Some(memory) = into.as_mut_slice(py) else {
            return Err(PyValueError::new_err("not bytes that lie behind each other"));
        };
        self.flow.incoming.extend_from_slice(bytes_of(py, &data)?);
        // SAFETY: Cell<u8> has the layout of u8. The interpreter is held until this returns and nothing here calls
        // into it, so nobody else reads or writes.
        let memory = unsafe { std::slice::from_raw_parts_mut(memory.as_ptr().cast_mut().cast::<u8>(), memory.len()) };
        let (size, done) = self.run(py, memory, Then::Nothing);
        done.map(|_| size)
    }

    /// Takes bytes to send. Returns what has to go to the other end now, with all that had to before. Raises ValueError.
    fn send<'py>(&mut self, py: Python<'py>, data: PyBuffer<u8>) -> PyResult<Bound<'py, PyBytes>> {
        let data = bytes_of(py, &data)?;
        let sealed = self.run(py, &mut [], Then::Seal(data)).1?;
        if sealed.is_none() {
            self.flow.early.extend_from_slice(data);
        }
        Ok(sealed.unwrap_or_else(|| self.flow.waiting(py)))
    }

    /// What has to go to the other end now.
    fn outgoing<'py>(&mut self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let _ = self.run(py, &mut [], Then::Nothing); // what is wrong, `receive` has said
        self.flow.waiting(py)
    }

    /// Says that nothing more will come. Returns what has to go to the other end now.
    fn close<'py>(&mut self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let _ = self.run(py, &mut [], Then::Close); // a connection that failed has nothing to say
        self.flow.waiting(py)
    }
}

fn bytes_of<'b>(py: Python<'b>, buffer: &'b PyBuffer<u8>) -> PyResult<&'b [u8]> {
    let Some(bytes) = buffer.as_slice(py) else {
        return Err(PyValueError::new_err("not bytes that lie behind each other"));
    };
    // SAFETY: ReadOnlyCell<u8> has the layout of u8, and the interpreter is held while the slice is used.
    Ok(unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<u8>(), bytes.len()) })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer,
        _: &[CertificateDer],
        _: &ServerName,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    // Whoever could forge a signature could as well show a certificate of its own.

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
