//! System calls, wrapped so that the rest needs no `unsafe`.

use std::ffi::CString;
use std::io::{Error, Result};
use std::mem::{MaybeUninit, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::AtomicU64;

use crate::counters::Memory;
use crate::io::Piece;
use crate::path::Remote;

/// Pieces of a packet that `write_pieces` takes.
pub const MOST_PIECES: usize = 64;

/// The errno of the last call on this thread.
pub fn errno() -> i32 {
    Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

fn checked(result: isize) -> std::result::Result<usize, i32> {
    usize::try_from(result).map_err(|_| errno())
}

/// CLOCK_BOOTTIME in nanoseconds.
pub fn boottime() -> u64 {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the kernel fills the timespec, which is valid whatever it does.
    let time = unsafe {
        libc::clock_gettime(libc::CLOCK_BOOTTIME, time.as_mut_ptr());
        time.assume_init()
    };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The number of an interface, 0 if there is none of this name.
pub fn interface_index(name: &str) -> u32 {
    let Ok(name) = CString::new(name) else { return 0 };
    // SAFETY: a string that ends with zero.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}

pub fn interface_name(index: u32) -> Option<String> {
    let mut name = [0u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the size that the call asks for.
    let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr().cast()) };
    if found.is_null() {
        return None;
    }
    let end = name.iter().position(|byte| *byte == 0)?;
    String::from_utf8(name[..end].to_vec()).ok()
}

/// What a pump's process does first: no core file and no debugger, a name, and no signals of its group.
pub fn harden_process() {
    // SAFETY: these calls touch no memory of ours; the name ends with zero.
    unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        libc::prctl(libc::PR_SET_NAME, c"shadowmesh-pump".as_ptr(), 0, 0, 0);
        libc::prctl(libc::PR_SET_TIMERSLACK, 1, 0, 0, 0); // naps are short; threads inherit it
        for signal in [libc::SIGINT, libc::SIGHUP, libc::SIGTERM, libc::SIGPIPE] {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
}

/// Takes a descriptor over. Fails if it isn't open.
pub fn own(fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: asks for flags only.
    if fd < 0 || unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is open, and the caller gives it away.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub fn set_nonblocking(fd: &OwnedFd) {
    // SAFETY: flags of a descriptor that is open.
    unsafe {
        let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
        libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK);
    }
}

/// A shared mapping of u64 for as long as it lives.
pub struct Mapping {
    address: *mut libc::c_void,
    bytes: usize,
}

// SAFETY: only ever used as atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub fn of(fd: &OwnedFd) -> Result<Self> {
        // SAFETY: the kernel fills the stat, which is valid whatever it does; the mapping is checked.
        unsafe {
            let mut stat: libc::stat = zeroed();
            if libc::fstat(fd.as_raw_fd(), &raw mut stat) != 0 {
                return Err(Error::last_os_error());
            }
            let bytes = usize::try_from(stat.st_size).unwrap_or(0);
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let address = libc::mmap(std::ptr::null_mut(), bytes, access, libc::MAP_SHARED, fd.as_raw_fd(), 0);
            if address == libc::MAP_FAILED {
                return Err(Error::last_os_error());
            }
            Ok(Self { address, bytes })
        }
    }
}

impl Memory for Mapping {
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped as long as self, aligned to a page, and of a type that any bits and any other writer are right for.
        unsafe { std::slice::from_raw_parts(self.address.cast::<AtomicU64>(), self.bytes / 8) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping that `of` made; `words` borrows from self.
        unsafe { libc::munmap(self.address, self.bytes) };
    }
}

pub fn read(fd: &OwnedFd, buffer: &mut [u8]) -> std::result::Result<usize, i32> {
    // SAFETY: the buffer is ours and as long as told.
    checked(unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) })
}

/// Writes the pieces of `buffer` in one call. Returns an errno, 0 for none. A piece outside of the buffer is a bug and ends the
/// process.
pub fn write_pieces(fd: &OwnedFd, buffer: &[u8], pieces: &[Piece]) -> i32 {
    let written = if let [(start, size)] = pieces {
        let piece = &buffer[*start..*start + *size];
        // SAFETY: a part of the buffer, which the call only reads.
        unsafe { libc::write(fd.as_raw_fd(), piece.as_ptr().cast(), piece.len()) }
    } else {
        let mut vectors = [MaybeUninit::<libc::iovec>::uninit(); MOST_PIECES];
        let count = pieces.len().min(MOST_PIECES);
        for (vector, (start, size)) in vectors.iter_mut().zip(pieces) {
            let piece = &buffer[*start..*start + *size];
            vector.write(libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() });
        }
        // SAFETY: the first `count` vectors are written, and describe parts of the buffer, which the call only reads.
        unsafe { libc::writev(fd.as_raw_fd(), vectors.as_ptr().cast(), count as i32) }
    };
    checked(written).err().unwrap_or(0)
}

/// Sends bytes on a connected socket.
pub fn send(fd: &OwnedFd, data: &[u8]) -> std::result::Result<usize, i32> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the data is as long as told.
    checked(unsafe { libc::send(fd.as_raw_fd(), data.as_ptr().cast(), data.len(), flags) })
}

/// A message and the descriptors that came with it, which are now ours.
pub fn receive_with_descriptors(fd: &OwnedFd, buffer: &mut [u8]) -> std::result::Result<(usize, Vec<OwnedFd>), i32> {
    let mut control = [0u64; 132]; // 253 descriptors, the kernel's most
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut owned = Vec::new();
    // SAFETY: all pointers are to values that live through the call; control messages are walked by the kernel's own rules, and
    // each descriptor in them is new and nobody else's.
    let size = unsafe {
        let mut message: libc::msghdr = zeroed();
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        let size = checked(libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT))?;
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                let count = ((*header).cmsg_len - libc::CMSG_LEN(0) as usize) / size_of::<RawFd>();
                owned.extend((0..count).map(|i| OwnedFd::from_raw_fd(data.add(i).read_unaligned())));
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
        size
    };
    Ok((size, owned))
}

/// Waits until the descriptor takes more, a few milliseconds at most.
pub fn wait_writable(fd: &OwnedFd, milliseconds: i32) -> bool {
    let mut wanted = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one pollfd.
    unsafe { libc::poll(&raw mut wanted, 1, milliseconds) > 0 }
}

/// Sets an option of type int.
pub fn set_option(fd: &OwnedFd, level: i32, option: i32, value: i32) -> bool {
    // SAFETY: the value is as long as told.
    unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), size_of::<i32>() as u32) == 0 }
}

/// Reads an option of type int.
pub fn get_option(fd: &OwnedFd, level: i32, option: i32) -> Option<i32> {
    let mut value = 0i32;
    let mut size = size_of::<i32>() as u32;
    // SAFETY: the value is as long as told.
    let got = unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut size) };
    (got == 0).then_some(value)
}

/// An epoll with level-triggered descriptors, each known by a number.
pub struct Epoll(OwnedFd);

pub const READABLE: u32 = libc::EPOLLIN as u32;
pub const WRITABLE: u32 = libc::EPOLLOUT as u32;

impl Epoll {
    pub fn new() -> Result<Self> {
        // SAFETY: makes a descriptor, which is checked by `own`.
        own(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(Self)
    }

    fn control(&self, operation: i32, fd: BorrowedFd, token: u64, events: u32) -> Result<()> {
        let mut event = libc::epoll_event { events, u64: token };
        // SAFETY: one event.
        let done = unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd.as_raw_fd(), &raw mut event) };
        if done == 0 { Ok(()) } else { Err(Error::last_os_error()) }
    }

    pub fn add(&self, fd: BorrowedFd, token: u64) -> Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, READABLE)
    }

    pub fn modify(&self, fd: BorrowedFd, token: u64, events: u32) {
        let _ = self.control(libc::EPOLL_CTL_MOD, fd, token, events); // fails only for one that is being removed
    }

    pub fn remove(&self, fd: BorrowedFd) {
        let _ = self.control(libc::EPOLL_CTL_DEL, fd, 0, 0);
    }

    /// Waits for descriptors; puts their numbers and what they are ready for into `ready`.
    pub fn wait(&self, ready: &mut Vec<(u64, u32)>) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 16];
        // SAFETY: the array is as long as told.
        let count = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), events.len() as i32, -1) };
        ready.clear();
        ready.extend(events[..usize::try_from(count).unwrap_or(0)].iter().map(|event| (event.u64, event.events)));
    }
}

/// A socket address as the kernel wants it, and its length.
pub fn socket_address(remote: &Remote) -> (libc::sockaddr_in6, u32) {
    // SAFETY: all zeros are a valid address of either family.
    let mut found: libc::sockaddr_in6 = unsafe { zeroed() };
    match remote.ip {
        IpAddr::V4(ip) => {
            // SAFETY: a sockaddr_in is smaller than a sockaddr_in6, and may be aligned less.
            let v4 = unsafe { &mut *(&raw mut found).cast::<libc::sockaddr_in>() };
            v4.sin_family = libc::AF_INET as u16;
            v4.sin_port = remote.port.to_be();
            v4.sin_addr.s_addr = u32::from(ip).to_be();
            (found, size_of::<libc::sockaddr_in>() as u32)
        }
        IpAddr::V6(ip) => {
            found.sin6_family = libc::AF_INET6 as u16;
            found.sin6_port = remote.port.to_be();
            found.sin6_addr.s6_addr = ip.octets();
            found.sin6_scope_id = remote.scope;
            (found, size_of::<libc::sockaddr_in6>() as u32)
        }
    }
}

/// The address in what the kernel wrote. IPv4-mapped ones never appear: sockets are of one family each.
pub fn remote_of(address: &libc::sockaddr_in6) -> Option<Remote> {
    match i32::from(address.sin6_family) {
        libc::AF_INET => {
            // SAFETY: as in `socket_address`.
            let v4 = unsafe { &*(&raw const *address).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into();
            Some(Remote { ip, port: u16::from_be(v4.sin_port), scope: 0 })
        }
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(address.sin6_addr.s6_addr).into();
            Some(Remote { ip, port: u16::from_be(address.sin6_port), scope: address.sin6_scope_id })
        }
        _ => None,
    }
}
