//! What goes beside a datagram's data: its address, and ancillary data both ways (UDP_SEGMENT, UDP_GRO, PKTINFO).

use std::mem::zeroed;
use std::net::IpAddr;

/// u64s of ancillary data of a message to be sent: a source address and the segments' size.
pub const SENT: usize = 8;
/// u64s of room for what the kernel says of a message received.
pub const RECEIVED: usize = 16;

/// A message to an address; all that it points to is the caller's.
pub fn header(
    address: &libc::sockaddr_in6,
    address_size: u32,
    vectors: &[libc::iovec],
    control: &mut [u64; SENT],
    control_size: usize,
) -> libc::msghdr {
    // SAFETY: all zeros are an empty message.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_name = (&raw const *address).cast_mut().cast();
    header.msg_namelen = address_size;
    header.msg_iov = vectors.as_ptr().cast_mut();
    header.msg_iovlen = vectors.len();
    if control_size > 0 {
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = control_size;
    }
    header
}

/// Writes the control messages for the source address and the segments' size. Returns their length.
pub fn write_control(control: &mut [u64; SENT], local: Option<IpAddr>, segment: Option<u16>) -> usize {
    // SAFETY: all is written inside of the array: 24 + 40 bytes at most, of 64; `header` stays aligned, since each space is a
    // multiple of 8.
    unsafe {
        let start = control.as_mut_ptr().cast::<u8>();
        let mut used = 0;
        let mut put = |level: i32, kind: i32, data: &[u8]| {
            let header = start.add(used).cast::<libc::cmsghdr>();
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = libc::CMSG_LEN(data.len() as u32) as usize;
            std::ptr::copy_nonoverlapping(data.as_ptr(), libc::CMSG_DATA(header), data.len());
            used += libc::CMSG_SPACE(data.len() as u32) as usize;
        };
        match local {
            Some(IpAddr::V4(ip)) => {
                let mut info = [0u8; 12]; // in_pktinfo: interface, source, destination
                info[4..8].copy_from_slice(&ip.octets());
                put(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            Some(IpAddr::V6(ip)) => {
                let mut info = [0u8; 20]; // in6_pktinfo: source, interface
                info[..16].copy_from_slice(&ip.octets());
                put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            None => {}
        }
        if let Some(size) = segment {
            put(libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
        }
        used
    }
}

/// The size of gathered datagrams, and the local address that these were sent to.
///
/// # Safety
/// The kernel filled the control buffer that the header describes, and it is still there.
pub unsafe fn read_control(header: &libc::msghdr) -> (Option<usize>, Option<IpAddr>) {
    let (mut each, mut local) = (None, None);
    // SAFETY: control messages are walked by the kernel's own rules, and read no further than each says.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while !control.is_null() {
            let data = libc::CMSG_DATA(control);
            let length = (*control).cmsg_len.saturating_sub(libc::CMSG_LEN(0) as usize);
            match ((*control).cmsg_level, (*control).cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) if length >= 4 => {
                    each = Some(usize::try_from(data.cast::<i32>().read_unaligned()).unwrap_or(0));
                }
                (libc::SOL_UDP, libc::UDP_GRO) if length >= 2 => {
                    each = Some(usize::from(data.cast::<u16>().read_unaligned()));
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) if length >= 8 => {
                    local = Some(IpAddr::from(data.add(4).cast::<[u8; 4]>().read_unaligned()));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if length >= 16 => {
                    local = Some(IpAddr::from(data.cast::<[u8; 16]>().read_unaligned()));
                }
                _ => {}
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    (each, local)
}
