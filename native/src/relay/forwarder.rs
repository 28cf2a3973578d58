//! The thread that reads the relay's UDP sockets and passes frames on in batches.
//!
//! One turn: one recvmmsg per readable socket, each message a run of datagrams where the kernel gathers them; every run of
//! frames with one prefix is looked up once; what goes to one client leaves in one message that the kernel cuts
//! (UDP_SEGMENT), all of a turn in one sendmmsg per IP version. Nothing is copied but by the kernel. What is no frame, what may
//! not pass and what goes to a WebSocket waits for Python, in bounded queues.

use std::collections::HashMap;
use std::io::{Error, Result};
use std::mem::{MaybeUninit, size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::table::{Place, Prefix, Table, run};

const SLOT: usize = 65536;
const SLOTS: usize = 32;
const CONTROL: usize = 16; // u64s of ancillary data: UDP_GRO or UDP_SEGMENT, and an IPV6_PKTINFO
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
        let (mut domain, mut size) = (0i32, size_of::<i32>() as libc::socklen_t);
        // SAFETY: the kernel fills the integer, or fails; the duplicate is nobody else's.
        unsafe {
            let option = (&raw mut domain).cast();
            if libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_DOMAIN, option, &raw mut size) < 0 {
                return Err(Error::last_os_error());
            }
            let copy = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3);
            if copy < 0 {
                return Err(Error::last_os_error());
            }
            Ok(Self { fd: OwnedFd::from_raw_fd(copy), is_ipv6: domain == libc::AF_INET6 })
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
        let mut controls = [[0u64; CONTROL]; SLOTS];
        // SAFETY: all zeros are empty messages, vectors and addresses.
        let (mut messages, mut parts, mut names): (
            [libc::mmsghdr; SLOTS],
            [libc::iovec; SLOTS],
            [libc::sockaddr_storage; SLOTS],
        ) = unsafe { zeroed() };
        for (i, slot) in self.arena.chunks_exact_mut(SLOT).enumerate() {
            parts[i] = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: SLOT };
            let header = &mut messages[i].msg_hdr;
            header.msg_name = (&raw mut names[i]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut parts[i];
            header.msg_iovlen = 1;
            header.msg_control = controls[i].as_mut_ptr().cast();
            header.msg_controllen = size_of::<[u64; CONTROL]>();
        }
        let fd = self.sockets[socket].fd.as_raw_fd();
        // SAFETY: every message points to its own slot, vector, name and control buffer, all of which live through the call.
        let count =
            unsafe { libc::recvmmsg(fd, messages.as_mut_ptr(), SLOTS as u32, libc::MSG_DONTWAIT, std::ptr::null_mut()) };
        for i in 0..usize::try_from(count).unwrap_or(0) {
            let size = (messages[i].msg_len as usize).min(SLOT);
            let (gathered, local) = ancillary(&messages[i].msg_hdr);
            let step = gathered.filter(|step| *step > 0).unwrap_or(size);
            // A source that is no address of IP can't be answered; its slot stays, as an empty run.
            let from = address(&names[i]);
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
        table.begin(boottime());
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
        let mut controls = [[0u64; CONTROL]; SLOTS];
        // SAFETY: all zeros are empty messages and addresses.
        let (mut messages, mut names): ([libc::mmsghdr; SLOTS], [libc::sockaddr_storage; SLOTS]) = unsafe { zeroed() };
        let mut count = 0;
        for (i, index) in chosen.iter().enumerate().take(SLOTS) {
            let batch = &self.batches[*index];
            if batch.frames > 1 && !self.segmenting {
                break;
            }
            let header = &mut messages[i].msg_hdr;
            let segment = (batch.frames > 1).then_some(batch.segment as u16);
            fill(header, &batch.to, &mut names[i], batch.local, segment, &mut controls[i]);
            header.msg_iov = batch.parts.as_ptr().cast_mut();
            header.msg_iovlen = batch.parts.len();
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
        let mut control = [0u64; CONTROL];
        // SAFETY: all zeros are an empty message and address.
        let (mut header, mut name): (libc::msghdr, libc::sockaddr_storage) = unsafe { zeroed() };
        fill(&mut header, &batch.to, &mut name, batch.local, None, &mut control);
        let (mut frames, mut octets) = (0, 0);
        for whole in &batch.parts {
            let mut at = 0;
            while at < whole.iov_len {
                let size = batch.segment.min(whole.iov_len - at);
                // SAFETY: within the part.
                let start = unsafe { whole.iov_base.cast::<u8>().add(at) };
                let mut one = libc::iovec { iov_base: start.cast(), iov_len: size };
                header.msg_iov = &raw mut one;
                header.msg_iovlen = 1;
                // SAFETY: as in `send_call`.
                if unsafe { libc::sendmsg(fd, &raw const header, libc::MSG_DONTWAIT) } < 0 {
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

/// CLOCK_BOOTTIME in seconds.
fn boottime() -> f64 {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the kernel fills the timespec, which is valid whatever it does.
    let time = unsafe {
        libc::clock_gettime(libc::CLOCK_BOOTTIME, time.as_mut_ptr());
        time.assume_init()
    };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let at: *const libc::sockaddr_storage = name;
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which of the layouts is there; both are smaller than the storage, and plain integers.
            let v4 = unsafe { &*at.cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(v4.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*at.cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddr::V6(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, 0)))
        }
        _ => None,
    }
}

/// The size of gathered datagrams, and the local address that these were sent to.
fn ancillary(header: &libc::msghdr) -> (Option<usize>, Option<IpAddr>) {
    let (mut step, mut local) = (None, None);
    // SAFETY: the kernel filled the control buffer that the header describes; the walk stays within it, and each message's kind says
    // what its data is.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(header);
        while !at.is_null() {
            let data = libc::CMSG_DATA(at);
            match ((*at).cmsg_level, (*at).cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    step = usize::try_from(data.cast::<i32>().read_unaligned()).ok();
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    local = Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr))));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    local = Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)));
                }
                _ => {}
            }
            at = libc::CMSG_NXTHDR(header, at);
        }
    }
    (step, local)
}

/// Address and ancillary data of a message to be sent. Both buffers have to outlive the header's use.
fn fill(
    header: &mut libc::msghdr,
    to: &SocketAddr,
    name: &mut libc::sockaddr_storage,
    local: Option<IpAddr>,
    segment: Option<u16>,
    control: &mut [u64; CONTROL],
) {
    let at: *mut libc::sockaddr_storage = name;
    // SAFETY: the storage has room for either layout.
    let size = unsafe {
        match to {
            SocketAddr::V4(v4) => {
                let out = &mut *at.cast::<libc::sockaddr_in>();
                out.sin_family = libc::AF_INET as libc::sa_family_t;
                out.sin_port = v4.port().to_be();
                out.sin_addr.s_addr = u32::from(*v4.ip()).to_be();
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                let out = &mut *at.cast::<libc::sockaddr_in6>();
                out.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                out.sin6_port = v6.port().to_be();
                out.sin6_addr.s6_addr = v6.ip().octets();
                size_of::<libc::sockaddr_in6>()
            }
        }
    };
    header.msg_name = at.cast();
    header.msg_namelen = size as libc::socklen_t;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of::<[u64; CONTROL]>();
    // SAFETY: the buffer is aligned for cmsghdr and holds both messages (16 + 20 and 16 + 2 bytes, padded).
    unsafe {
        let mut used = 0;
        let mut put = |level: i32, kind: i32, data: &[u8]| {
            let place = header.msg_control.cast::<u8>().add(used).cast::<libc::cmsghdr>();
            (*place).cmsg_level = level;
            (*place).cmsg_type = kind;
            (*place).cmsg_len = libc::CMSG_LEN(data.len() as u32) as usize;
            std::ptr::copy_nonoverlapping(data.as_ptr(), libc::CMSG_DATA(place), data.len());
            used += libc::CMSG_SPACE(data.len() as u32) as usize;
        };
        if let Some(segment) = segment {
            put(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        match local {
            Some(IpAddr::V4(ip)) => {
                let mut info = [0; 12]; // interface, address to send from, unused
                info[4..8].copy_from_slice(&ip.octets());
                put(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            Some(IpAddr::V6(ip)) => {
                let mut info = [0; 20]; // address to send from, interface
                info[..16].copy_from_slice(&ip.octets());
                put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            None => {}
        }
        header.msg_controllen = used;
        if used == 0 {
            header.msg_control = std::ptr::null_mut();
        }
    }
}
