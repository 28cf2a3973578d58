//! The thread that reads the relay's UDP sockets and passes frames on in batches.
//!
//! One turn: one recvmmsg per readable socket, each message a run of datagrams where the kernel gathers them; every run of
//! frames with one prefix is looked up once; what goes to one client leaves in one message that the kernel cuts
//! (UDP_SEGMENT), all of a turn in one sendmmsg per IP version. Nothing is copied but by the kernel. What is no frame, what may
//! not pass and what goes to a WebSocket waits for Python, in bounded queues.

use std::collections::HashMap;
use std::io::{Error, Result};
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::message::{RECEIVED, SENT, header, read_control, write_control};
use crate::path::Remote;
use crate::sys;

use super::table::{Place, Prefix, Table, run};

const SLOT: usize = 65536;
const SLOTS: usize = 32;
const MAX_SEGMENTS: u64 = 64; // what every kernel with UDP_SEGMENT takes in one send
const MAX_PAYLOAD: usize = 65507;
const MAX_DATAGRAMS: usize = 4096; // waiting for Python
const MAX_REFUSED: usize = 1024;
const MAX_STREAM: usize = 512 << 10; // bytes waiting for one connection, and for all
const MAX_STREAMS: usize = 32 << 20;

/// A datagram that Python has to look at: which socket (as given to `start`), from whom, to which of our addresses.
pub struct Datagram {
    pub socket: usize,
    pub from: SocketAddr,
    pub local: Option<IpAddr>,
    pub data: Vec<u8>,
}

/// Frames of one prefix and source that may not pass.
#[derive(Clone, Copy, Default)]
pub struct Refused {
    pub frames: u64,
    pub octets: u64,
    pub socket: usize,
    pub local: Option<IpAddr>,
}

/// Frames for one connection, each behind its length.
#[derive(Default)]
pub struct Packed {
    pub frames: u64,
    pub data: Vec<u8>,
}

/// What waits for Python.
#[derive(Default)]
pub struct Waiting {
    pub datagrams: Vec<Datagram>,
    pub refused: HashMap<(Prefix, SocketAddr), Refused>,
    pub streams: HashMap<u64, Packed>,
    stream_bytes: usize,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.datagrams.is_empty() && self.refused.is_empty() && self.streams.is_empty()
    }

    /// Takes frames in with their lengths. False if too much waits already.
    fn pack(&mut self, dest: u64, data: &[u8], step: usize, frames: u64) -> bool {
        let size = data.len() + 2 * frames as usize;
        let packed = self.streams.entry(dest).or_default();
        if packed.data.len() + size > MAX_STREAM || self.stream_bytes + size > MAX_STREAMS {
            return false;
        }
        packed.data.reserve(size);
        for frame in data.chunks(step) {
            packed.data.extend_from_slice(&(frame.len() as u16).to_be_bytes());
            packed.data.extend_from_slice(frame);
        }
        packed.frames += frames;
        self.stream_bytes += size;
        true
    }
}

/// What the thread and Python share.
pub struct Shared {
    table: Mutex<Table>,
    waiting: Mutex<Waiting>,
    wake: OwnedFd,
    stop: OwnedFd,
    stopping: AtomicBool,
    /// Datagrams and refused frames that Python was too slow for.
    pub lost: AtomicU64,
}

impl Shared {
    pub fn new(capacity: Option<f64>) -> Result<Self> {
        Ok(Self {
            table: Mutex::new(Table::new(capacity)),
            waiting: Mutex::default(),
            wake: event()?,
            stop: event()?,
            stopping: AtomicBool::new(false),
            lost: AtomicU64::new(0),
        })
    }

    pub fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Readable while something waits for Python.
    pub fn wake_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    /// Everything that waits.
    pub fn drain(&self) -> Waiting {
        let mut count = [0; 8];
        // SAFETY: reads into eight bytes of ours; an eventfd gives just these.
        unsafe { libc::read(self.wake.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        std::mem::take(&mut *self.waiting())
    }
}

fn event() -> Result<OwnedFd> {
    // SAFETY: makes a descriptor that nobody else has.
    unsafe {
        let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
        if fd < 0 { Err(Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

fn signal(event: &OwnedFd) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: writes eight bytes of ours.
    unsafe { libc::write(event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

/// A running thread; dropping it ends the thread.
pub struct Forwarder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Serves non-blocking UDP sockets (duplicates of the descriptors, which stay the caller's). The first of an IP version is the one
    /// that its clients are sent to from. Fails if a descriptor is no socket.
    pub fn start(shared: Arc<Shared>, sockets: &[RawFd]) -> Result<Self> {
        let sockets = sockets.iter().map(|fd| Socket::duplicate(*fd)).collect::<Result<Vec<_>>>()?;
        let mut worker = Worker::new(Arc::clone(&shared), sockets);
        let thread = std::thread::Builder::new().name("relay".into()).spawn(move || worker.serve())?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        signal(&self.shared.stop);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has ended the process already.
            let _ = thread.join();
        }
    }
}

struct Socket {
    fd: OwnedFd,
    is_ipv6: bool,
}

impl Socket {
    fn duplicate(fd: RawFd) -> Result<Self> {
        // SAFETY: the duplicate is nobody else's.
        let fd = unsafe {
            let copy = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3);
            if copy < 0 {
                return Err(Error::last_os_error());
            }
            OwnedFd::from_raw_fd(copy)
        };
        match sys::get_option(&fd, libc::SOL_SOCKET, libc::SO_DOMAIN) {
            Some(domain) => Ok(Self { fd, is_ipv6: domain == libc::AF_INET6 }),
            None => Err(Error::last_os_error()),
        }
    }
}

/// Frames for one client that leave in one message: all of `segment` bytes, the last may be shorter and then ends it.
struct Batch {
    dest: u64,
    to: SocketAddr,
    local: Option<IpAddr>,
    segment: usize,
    frames: u64,
    octets: usize,
    ended: bool,
    parts: Vec<libc::iovec>,
}

impl Batch {
    fn takes(&self, segment: usize, frames: u64, octets: usize) -> bool {
        !self.ended
            && (segment == self.segment || (frames == 1 && segment < self.segment))
            && self.frames + frames <= MAX_SEGMENTS
            && self.octets + octets <= MAX_PAYLOAD
    }

    fn add(&mut self, data: &[u8], frames: u64) {
        self.parts.push(part(data));
        self.frames += frames;
        self.octets += data.len();
        self.ended = self.octets != self.segment * self.frames as usize;
    }
}

fn part(data: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() }
}

/// One received message: its place in the arena is `SLOT` times its index.
#[derive(Clone, Copy)]
struct Received {
    size: usize,
    step: usize,
    from: SocketAddr,
    local: Option<IpAddr>,
}

struct Worker {
    shared: Arc<Shared>,
    sockets: Vec<Socket>,
    arena: Vec<u8>,
    received: Vec<Received>,
    batches: Vec<Batch>,
    used: usize,
    open: HashMap<u64, usize>,
    segmenting: bool,
}

// SAFETY: the raw pointers in `batches` point into `arena`, which moves along; they are used within one turn only.
unsafe impl Send for Worker {}

impl Worker {
    fn new(shared: Arc<Shared>, sockets: Vec<Socket>) -> Self {
        Self {
            shared,
            sockets,
            arena: vec![0; SLOT * SLOTS],
            received: Vec::with_capacity(SLOTS),
            batches: Vec::new(),
            used: 0,
            open: HashMap::new(),
            segmenting: true,
        }
    }

    fn serve(&mut self) {
        let watch = |fd: &OwnedFd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let mut watched: Vec<libc::pollfd> = self.sockets.iter().map(|s| watch(&s.fd)).collect();
        watched.push(watch(&self.shared.stop));
        while !self.shared.stopping.load(Ordering::Acquire) {
            // SAFETY: an array of ours of the length told.
            unsafe { libc::poll(watched.as_mut_ptr(), watched.len() as libc::nfds_t, -1) };
            for (index, seen) in watched.iter().enumerate().take(self.sockets.len()) {
                if seen.revents != 0 && self.receive(index) {
                    self.forward(index);
                    self.send();
                }
            }
        }
    }

    // in

    /// One recvmmsg. False if there was nothing.
    fn receive(&mut self, socket: usize) -> bool {
        self.received.clear();
        let mut controls = [[0u64; RECEIVED]; SLOTS];
        // SAFETY: all zeros are empty messages, vectors and addresses.
        let (mut messages, mut parts, mut names): ([libc::mmsghdr; SLOTS], [libc::iovec; SLOTS], [libc::sockaddr_in6; SLOTS]) =
            unsafe { zeroed() };
        for (i, slot) in self.arena.chunks_exact_mut(SLOT).enumerate() {
            parts[i] = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: SLOT };
            let header = &mut messages[i].msg_hdr;
            header.msg_name = (&raw mut names[i]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            header.msg_iov = &raw mut parts[i];
            header.msg_iovlen = 1;
            header.msg_control = controls[i].as_mut_ptr().cast();
            header.msg_controllen = size_of::<[u64; RECEIVED]>();
        }
        let fd = self.sockets[socket].fd.as_raw_fd();
        // SAFETY: every message points to its own slot, vector, name and control buffer, all of which live through the call.
        let count =
            unsafe { libc::recvmmsg(fd, messages.as_mut_ptr(), SLOTS as u32, libc::MSG_DONTWAIT, std::ptr::null_mut()) };
        for i in 0..usize::try_from(count).unwrap_or(0) {
            let size = (messages[i].msg_len as usize).min(SLOT);
            // SAFETY: the kernel has just filled the message and its control buffer.
            let (gathered, local) = unsafe { read_control(&messages[i].msg_hdr) };
            let step = gathered.filter(|step| *step > 0).unwrap_or(size);
            // A source that is no address of IP can't be answered; its slot stays, as an empty run.
            let from = sys::remote_of(&names[i]).map(|remote| SocketAddr::new(remote.ip, remote.port));
            let size = if from.is_some() { size } else { 0 };
            let from = from.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
            self.received.push(Received { size, step, from, local });
        }
        count > 0
    }

    fn forward(&mut self, socket: usize) {
        let shared = Arc::clone(&self.shared);
        let arena = std::mem::take(&mut self.arena);
        let received = std::mem::take(&mut self.received);
        let mut table = shared.table();
        table.begin(sys::boottime() as f64 / 1e9);
        let mut waiting = None;
        for (slot, message) in arena.chunks_exact(SLOT).zip(&received) {
            let Received { size, step, from, local } = *message;
            let source = Place::Udp(from);
            let mut rest = &slot[..size];
            while !rest.is_empty() {
                let Some((prefix, stop, frames)) = run(rest, step) else {
                    let (data, left) = rest.split_at(step.clamp(1, rest.len()));
                    rest = left;
                    let waiting = &mut waiting.get_or_insert_with(|| shared.waiting()).datagrams;
                    if waiting.len() < MAX_DATAGRAMS {
                        waiting.push(Datagram { socket, from, local, data: data.to_vec() });
                    } else {
                        shared.lost.fetch_add(1, Ordering::Relaxed);
                    }
                    continue;
                };
                let (data, left) = rest.split_at(stop);
                rest = left;
                let segment = step.min(stop);
                match table.route(&prefix, &source, frames, stop as u64) {
                    Some((dest, Place::Udp(to))) => self.queue(&table, dest, to, data, segment, frames),
                    Some((dest, Place::Stream(_))) => {
                        if !waiting.get_or_insert_with(|| shared.waiting()).pack(dest, data, segment, frames) {
                            table.undelivered(dest, frames, stop as u64);
                        }
                    }
                    None => {
                        let refused = &mut waiting.get_or_insert_with(|| shared.waiting()).refused;
                        if refused.len() < MAX_REFUSED || refused.contains_key(&(prefix, from)) {
                            let entry = refused.entry((prefix, from)).or_default();
                            entry.frames += frames;
                            entry.octets += stop as u64;
                            (entry.socket, entry.local) = (socket, local);
                        } else {
                            shared.lost.fetch_add(frames, Ordering::Relaxed);
                        }
                    }
                }
            }
        }
        drop(table);
        if waiting.is_some_and(|w| !w.is_empty()) {
            signal(&shared.wake);
        }
        self.arena = arena;
        self.received = received;
    }

    fn queue(&mut self, table: &Table, dest: u64, to: SocketAddr, data: &[u8], segment: usize, frames: u64) {
        // A gathered message is within the limits of one that the kernel cuts, but for jumbo sizes on loopback.
        if frames > MAX_SEGMENTS || data.len() > MAX_PAYLOAD {
            for piece in data.chunks(segment * (MAX_PAYLOAD / segment).clamp(1, MAX_SEGMENTS as usize)) {
                self.queue(table, dest, to, piece, segment.min(piece.len()), piece.len().div_ceil(segment) as u64);
            }
            return;
        }
        if let Some(batch) = self.open.get(&dest).and_then(|at| self.batches.get_mut(*at))
            && batch.takes(segment, frames, data.len())
        {
            batch.add(data, frames);
            return;
        }
        if self.used == self.batches.len() {
            let local = None;
            let parts = Vec::new();
            self.batches.push(Batch { dest, to, local, segment, frames: 0, octets: 0, ended: false, parts });
        }
        let batch = &mut self.batches[self.used];
        (batch.dest, batch.to, batch.local, batch.segment) = (dest, to, table.local(&to), segment);
        (batch.frames, batch.octets, batch.ended) = (0, 0, false);
        batch.parts.clear();
        batch.add(data, frames);
        self.open.insert(dest, self.used);
        self.used += 1;
    }

    // out

    fn send(&mut self) {
        for is_ipv6 in [false, true] {
            let mut chosen: Vec<usize> = Vec::new();
            chosen.extend((0..self.used).filter(|i| self.batches[*i].to.is_ipv6() == is_ipv6));
            match self.sockets.iter().find(|s| s.is_ipv6 == is_ipv6).map(|s| s.fd.as_raw_fd()) {
                Some(fd) => self.send_all(fd, &chosen),
                None => chosen.iter().for_each(|i| self.undelivered(*i)),
            }
        }
        self.used = 0;
        self.open.clear();
    }

    fn undelivered(&self, index: usize) {
        let batch = &self.batches[index];
        self.shared.table().undelivered(batch.dest, batch.frames, batch.octets as u64);
    }

    fn send_all(&mut self, fd: RawFd, chosen: &[usize]) {
        let mut at = 0;
        while at < chosen.len() {
            let some = &chosen[at..chosen.len().min(at + SLOTS)];
            if !self.segmenting && self.batches[some[0]].frames > 1 {
                self.send_apart(fd, some[0]);
                at += 1;
                continue;
            }
            match self.send_call(fd, some) {
                Ok(sent) => at += sent.max(1),
                Err(error) => {
                    match error {
                        libc::EIO | libc::EOPNOTSUPP if self.batches[some[0]].frames > 1 => {
                            self.segmenting = false; // this host's network can't: not again
                            self.send_apart(fd, some[0]);
                        }
                        libc::EINVAL | libc::EMSGSIZE if self.batches[some[0]].frames > 1 => {
                            self.send_apart(fd, some[0]);
                        }
                        _ => self.undelivered(some[0]), // full, unreachable, too big: as lost on the way
                    }
                    at += 1;
                }
            }
        }
    }

    /// One sendmmsg of up to `SLOTS` batches. Returns how many went; an error is that of the first.
    fn send_call(&self, fd: RawFd, chosen: &[usize]) -> std::result::Result<usize, i32> {
        let mut controls = [[0u64; SENT]; SLOTS];
        // SAFETY: all zeros are empty messages and addresses.
        let (mut messages, mut names): ([libc::mmsghdr; SLOTS], [libc::sockaddr_in6; SLOTS]) = unsafe { zeroed() };
        let mut count = 0;
        for (i, index) in chosen.iter().enumerate().take(SLOTS) {
            let batch = &self.batches[*index];
            if batch.frames > 1 && !self.segmenting {
                break;
            }
            let segment = (batch.frames > 1).then_some(batch.segment as u16);
            let name_size;
            (names[i], name_size) = socket_address(&batch.to);
            let control_size = write_control(&mut controls[i], batch.local, segment);
            messages[i].msg_hdr = header(&names[i], name_size, &batch.parts, &mut controls[i], control_size);
            count += 1;
        }
        // SAFETY: the first `count` messages point to names, control buffers and parts that live through the call, the parts to
        // the arena, which nobody writes to meanwhile; the call only reads them.
        let sent = unsafe { libc::sendmmsg(fd, messages.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
        usize::try_from(sent).map_err(|_| Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }

    /// A batch's frames one by one, where the kernel doesn't cut it.
    fn send_apart(&mut self, fd: RawFd, index: usize) {
        let batch = &self.batches[index];
        let mut control = [0u64; SENT];
        let control_size = write_control(&mut control, batch.local, None);
        let (name, name_size) = socket_address(&batch.to);
        let (mut frames, mut octets) = (0, 0);
        for whole in &batch.parts {
            let mut at = 0;
            while at < whole.iov_len {
                let size = batch.segment.min(whole.iov_len - at);
                // SAFETY: within the part.
                let start = unsafe { whole.iov_base.cast::<u8>().add(at) };
                let one = [libc::iovec { iov_base: start.cast(), iov_len: size }];
                let message = header(&name, name_size, &one, &mut control, control_size);
                // SAFETY: as in `send_call`.
                if unsafe { libc::sendmsg(fd, &raw const message, libc::MSG_DONTWAIT) } < 0 {
                    frames += 1;
                    octets += size as u64;
                }
                at += size;
            }
        }
        if frames > 0 {
            self.shared.table().undelivered(batch.dest, frames, octets);
        }
    }
}

fn socket_address(to: &SocketAddr) -> (libc::sockaddr_in6, u32) {
    sys::socket_address(&Remote { ip: to.ip(), port: to.port(), scope: 0 })
}
