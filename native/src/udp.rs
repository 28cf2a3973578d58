//! UDP sockets: many datagrams per call both ways, by UDP_SEGMENT, UDP_GRO, sendmmsg and recvmmsg.

use std::mem::zeroed;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;

use crate::inbound::Message;
use crate::io::{Link, MAX_SEGMENTS, Way};
use crate::message::{RECEIVED, SENT, header, read_control, write_control};
use crate::sys::{errno, remote_of, set_option, socket_address, wait_writable};

/// Room for one receive, which may be a run of datagrams.
pub const SLOT: usize = 65536;
/// Receives in a batch.
pub const SLOTS: usize = 64;
const FIRST_SLOTS: usize = 2;
const BATCH_BYTES: usize = 120 << 10; // two runs of full datagrams
const WAIT_MS: i32 = 20; // how long a full socket buffer holds up a batch before packets are dropped

pub struct Udp {
    pub fd: OwnedFd,
}

impl Udp {
    pub fn new(fd: OwnedFd) -> Self {
        crate::sys::set_nonblocking(&fd);
        // Without these an older kernel gives single datagrams and answers leave from any address.
        set_option(&fd, libc::SOL_UDP, libc::UDP_GRO, 1);
        if crate::sys::get_option(&fd, libc::SOL_SOCKET, libc::SO_DOMAIN) == Some(libc::AF_INET6) {
            set_option(&fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1);
        } else {
            set_option(&fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1);
        }
        Self { fd }
    }

    /// One datagram, or with `segment` several that the kernel cuts to this size.
    fn send_one(&self, way: &Way, data: &[u8], segment: Option<u16>) -> i32 {
        let Some(remote) = &way.path.remote else { return libc::EDESTADDRREQ };
        let (address, address_size) = socket_address(remote);
        let mut control = [0u64; SENT];
        let control_size = write_control(&mut control, way.path.local, segment);
        let vector = [libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() }];
        let message = header(&address, address_size, &vector, &mut control, control_size);
        self.waiting(|fd| {
            // SAFETY: the message points to values that live through the call, and which it only reads.
            unsafe { libc::sendmsg(fd, &raw const message, 0) as i32 }
        })
        .err()
        .unwrap_or(0)
    }

    /// Datagrams of `stride` bytes one by one, many per call.
    fn send_singly(&self, way: &Way, mut rows: &[u8], stride: usize) -> i32 {
        let Some(remote) = &way.path.remote else { return libc::EDESTADDRREQ };
        let (address, address_size) = socket_address(remote);
        let mut control = [0u64; SENT];
        let control_size = write_control(&mut control, way.path.local, None);
        let mut failed = 0;
        while !rows.is_empty() {
            // SAFETY: all zeros are empty messages and vectors.
            let (mut messages, mut vectors): ([libc::mmsghdr; MAX_SEGMENTS], [libc::iovec; MAX_SEGMENTS]) = unsafe { zeroed() };
            let mut count = 0;
            for ((message, vector), row) in messages.iter_mut().zip(&mut vectors).zip(rows.chunks(stride)) {
                *vector = libc::iovec { iov_base: row.as_ptr().cast_mut().cast(), iov_len: row.len() };
                message.msg_hdr = header(&address, address_size, std::slice::from_ref(vector), &mut control, control_size);
                count += 1;
            }
            let sent = self.waiting(|fd| {
                // SAFETY: the first `count` messages point to values that live through the call, and which it only reads.
                unsafe { libc::sendmmsg(fd, messages.as_mut_ptr(), count, 0) }
            });
            let done = match sent {
                Ok(sent) => sent.max(1),
                Err(error) => {
                    failed = error; // of the first of them; the others have their own luck
                    1
                }
            };
            rows = &rows[rows.len().min(done * stride)..];
        }
        failed
    }

    /// Calls once more after a moment where the buffer is full.
    fn waiting(&self, mut call: impl FnMut(i32) -> i32) -> Result<usize, i32> {
        let mut call = || usize::try_from(call(self.fd.as_raw_fd())).map_err(|_| errno());
        match call() {
            Err(libc::EAGAIN) if wait_writable(&self.fd, WAIT_MS) => call(),
            other => other,
        }
    }

    /// Receives until there is nothing, or the batch is full. Returns the messages, whether more may be waiting, and an errno that
    /// means something.
    pub fn receive(&self, receiver: &mut Receiver, buffer: &mut [u8], messages: &mut Vec<Message>) -> Result<bool, i32> {
        let (mut used, mut bytes, mut errors) = (0, 0, 0);
        let mut ask = FIRST_SLOTS;
        while used < SLOTS && bytes < BATCH_BYTES {
            ask = ask.min(SLOTS - used);
            let got = match receiver.call(self.fd.as_raw_fd(), &mut buffer[used * SLOT..(used + ask) * SLOT]) {
                Ok(got) => got,
                Err(libc::EAGAIN) => return Ok(false),
                Err(error) if crate::control::closes(error) || errors > SLOTS => return Err(error),
                Err(_) => {
                    errors += 1; // an ICMP error of an earlier send
                    continue;
                }
            };
            let before = bytes;
            for i in 0..got {
                bytes += receiver.message(i, (used + i) * SLOT, messages);
            }
            used += got;
            if got < ask {
                return Ok(false);
            }
            // where the underlay gathers nothing, datagrams are many and small
            ask = if bytes - before < got * 4096 { SLOTS } else { FIRST_SLOTS };
        }
        Ok(true)
    }
}

impl Link for Udp {
    fn is_stream(&self) -> bool {
        false
    }

    fn send(&self, way: &Way, rows: &[u8], stride: usize) -> i32 {
        if rows.len() <= stride {
            return self.send_one(way, rows, None);
        }
        if stride < way.gso_below.load(Relaxed) as usize {
            match self.send_one(way, rows, Some(stride as u16)) {
                // a device or path that can't do this segmentation
                libc::EINVAL | libc::EIO | libc::EMSGSIZE | libc::EOPNOTSUPP => {
                    way.gso_below.store(stride as u32, Relaxed);
                }
                sent_or_failed => return sent_or_failed,
            }
        }
        self.send_singly(way, rows, stride)
    }
}

/// A thread's memory for what the kernel says beside the data.
pub struct Receiver {
    messages: [libc::mmsghdr; SLOTS],
    vectors: [libc::iovec; SLOTS],
    addresses: [libc::sockaddr_in6; SLOTS],
    controls: [[u64; RECEIVED]; SLOTS],
}

impl Receiver {
    pub fn new() -> Box<Self> {
        // SAFETY: all zeros are valid for each of the fields.
        Box::new(unsafe { zeroed() })
    }

    /// One recvmmsg into the slots of `buffer`.
    fn call(&mut self, fd: i32, buffer: &mut [u8]) -> Result<usize, i32> {
        let mut count = 0;
        for (i, slot) in buffer.chunks_exact_mut(SLOT).enumerate().take(SLOTS) {
            self.vectors[i] = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: SLOT };
            let header = &mut self.messages[i].msg_hdr;
            header.msg_name = (&raw mut self.addresses[i]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in6>() as u32;
            header.msg_iov = &raw mut self.vectors[i];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[i].as_mut_ptr().cast();
            header.msg_controllen = size_of::<[u64; RECEIVED]>();
            count += 1;
        }
        // SAFETY: the first `count` messages point into self and the buffer, which live through the call.
        let got = unsafe { libc::recvmmsg(fd, self.messages.as_mut_ptr(), count, libc::MSG_DONTWAIT, std::ptr::null_mut()) };
        usize::try_from(got).map_err(|_| errno())
    }

    /// Reads what came in slot `i`, whose data lies at `start`. Returns its bytes.
    fn message(&mut self, i: usize, start: usize, messages: &mut Vec<Message>) -> usize {
        let size = self.messages[i].msg_len as usize;
        // SAFETY: `call` had the kernel write into `controls`, to which the header points.
        let (gathered, local) = unsafe { read_control(&self.messages[i].msg_hdr) };
        let each = gathered.unwrap_or(size);
        let remote = remote_of(&self.addresses[i]);
        if size > 0 && each > 0 && remote.is_some() {
            messages.push(Message { start, end: start + size, each, skip: 0, remote, local });
        }
        size
    }
}
