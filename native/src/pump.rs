//! The shell: threads, lanes and turns.
//!
//! Each descriptor is a *lane*; all are in one epoll. One thread at a time leads: it waits in epoll and reads. When what it read is
//! not a full batch, it keeps the lead and does all the work itself: light load takes one thread, one wake and no lock that anyone
//! else wants. When a batch is full, more is waiting: then it draws a *ticket* of the lane, gives the lead away (which wakes one other
//! thread, if one sleeps) and encrypts or decrypts beside the next reader. What a batch hands over (sends, replay windows, writes to
//! an interface) happens in the order of tickets. So several cores share one peer's one flow, and nothing is reordered.
//!
//! A batch holds the world's read lock from its reading to its end, and a ticket only while it does. Commands take the write lock,
//! between batches. Whoever waits for a turn waits for threads that have their locks already, so nothing can stand still.

use std::collections::HashMap;
use std::io::{Error, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use zeroize::Zeroize;

use crate::command::{Command, decode_message};
use crate::control::{COMMAND_BYTES, Reporter};
use crate::counters::CounterTable;
use crate::event::{DescriptorKind, Event};
use crate::inbound::{self, Message};
use crate::io::Piece;
use crate::outbound::{self, Scratch, Sealer, Turn as _};
use crate::pace::{NAP, Pace};
use crate::state::{After, State, lock};
use crate::stream::{Stream, frames};
use crate::sys::{self, Epoll, WRITABLE};
use crate::tun::{self, Tun};
use crate::turns::{Queue, in_turn};
use crate::udp::{self, Receiver, Udp};

const CONTROL: u64 = 0;
const MOST_THREADS: usize = 8;
const THREADS_VARIABLE: &str = "SHADOWMESH_PUMP_THREADS";
/// A batch from an interface is full at so many bytes or packets: two super-packets, as in `udp`. Larger ones leave cores idle at
/// their ends.
const RAW_BYTES: usize = 120 << 10;
const RAW_PACKETS: usize = 128;

enum Port {
    Tun { net: u32, tun: Arc<Tun> },
    Udp { slot: u32, udp: Arc<Udp> },
    Stream { slot: u32, stream: Arc<Stream>, rest: Mutex<Vec<u8>> },
}

impl Port {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Port::Tun { tun, .. } => tun.fd.as_fd(),
            Port::Udp { udp, .. } => udp.fd.as_fd(),
            Port::Stream { stream, .. } => stream.fd.as_fd(),
        }
    }

    fn name(&self) -> (DescriptorKind, u32) {
        match self {
            Port::Tun { net, .. } => (DescriptorKind::Tun, *net),
            Port::Udp { slot, .. } => (DescriptorKind::Socket, *slot),
            Port::Stream { slot, .. } => (DescriptorKind::Stream, *slot),
        }
    }
}

struct Lane {
    port: Port,
    queue: Queue,
}

struct World {
    state: State,
    lanes: HashMap<u64, Lane>,
    next_token: u64,
}

/// A thread's buffers; pages that were never used cost nothing.
struct Memory {
    raw: Vec<u8>,
    packets: Vec<Piece>,
    scratch: Scratch,
    datagrams: Vec<u8>,
    messages: Vec<Message>,
    receiver: Box<Receiver>,
}

impl Memory {
    fn new() -> Self {
        Self {
            raw: vec![0; RAW_BYTES + tun::LARGEST],
            packets: Vec::new(),
            scratch: Scratch::default(),
            datagrams: vec![0; udp::SLOTS * udp::SLOT],
            messages: Vec::new(),
            receiver: Receiver::new(),
        }
    }
}

/// What the leading thread alone uses.
struct Lead {
    commands: Vec<u8>,
    pace: Pace,
    served: u64, // the lane whose turn was last
}

struct Pump {
    world: RwLock<World>,
    epoll: Arc<Epoll>,
    lead: Mutex<Lead>,
    reporter: Reporter,
    stopping: AtomicBool,
}

/// Runs the pump until the other end of the control socket closes. Takes both descriptors over.
pub fn run(control_fd: i32, table_fd: i32) -> Result<()> {
    sys::harden_process();
    let control = sys::own(control_fd)?;
    let table = CounterTable::new(Arc::new(sys::Mapping::of(&sys::own(table_fd)?)?));
    sys::set_nonblocking(&control);
    let epoll = Arc::new(Epoll::new()?);
    epoll.add(control.as_fd(), CONTROL)?;
    let state = State::new(table);
    let reporter = Reporter::new(control, CONTROL, epoll.clone(), state.events.clone());
    let world = World { state, lanes: HashMap::new(), next_token: CONTROL + 1 };
    let pump = Pump {
        world: RwLock::new(world),
        epoll,
        lead: Mutex::new(Lead { commands: vec![0; COMMAND_BYTES], pace: Pace::default(), served: CONTROL }),
        reporter,
        stopping: AtomicBool::new(false),
    };
    std::thread::scope(|scope| {
        for _ in 1..threads() {
            scope.spawn(|| pump.serve());
        }
        pump.serve();
    });
    Ok(())
}

fn threads() -> usize {
    let wanted = std::env::var(THREADS_VARIABLE).ok().and_then(|text| text.parse().ok());
    wanted.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).clamp(1, MOST_THREADS)
}

impl Pump {
    fn read(&self) -> RwLockReadGuard<'_, World> {
        self.world.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, World> {
        self.world.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// A thread's life: leads, or waits for the lead.
    fn serve(&self) {
        let mut memory = Memory::new();
        let mut ready = Vec::new();
        loop {
            let mut lead = Some(lock(&self.lead));
            while lead.is_some() {
                if self.stopping.load(Ordering::SeqCst) {
                    return;
                }
                let mut all = Handled::default();
                self.epoll.wait(&mut ready);
                in_turn(&mut ready, lead.as_ref().map_or(CONTROL, |lead| lead.served));
                for (token, what) in ready.iter().copied() {
                    if let Some(lead) = &mut lead {
                        lead.served = token;
                    }
                    let one = self.ready(token, what, &mut lead, &mut memory);
                    if lead.is_none() {
                        break; // the new leader is told of the others again
                    }
                    all = Handled { at: one.at.max(all.at), packets: all.packets + one.packets, bytes: all.bytes + one.bytes };
                }
                if let (Some(lead), 1..) = (&mut lead, all.packets) {
                    if lead.pace.nap(all.packets, all.bytes, all.at, sys::boottime()) {
                        std::thread::sleep(NAP);
                    }
                }
            }
        }
    }

    fn ready(&self, token: u64, what: u32, lead: &mut Option<MutexGuard<'_, Lead>>, memory: &mut Memory) -> Handled {
        if token == CONTROL {
            let Some(buffer) = lead else { return Handled::default() };
            if !self.on_control(what, &mut buffer.commands) {
                self.stop();
            }
            return Handled::default();
        }
        let world = self.read();
        let Some(lane) = world.lanes.get(&token) else { return Handled::default() };
        let outcome = match &lane.port {
            Port::Tun { net, tun } => on_tun(&world.state, *net, tun, &lane.queue, lead, memory),
            Port::Udp { slot, udp } => on_socket(&world.state, *slot, udp, &lane.queue, lead, memory),
            Port::Stream { slot, stream, rest } => {
                if what & WRITABLE != 0 {
                    stream.push();
                }
                if what & !WRITABLE != 0 {
                    on_stream(&world.state, *slot, stream, rest, &lane.queue, lead, memory)
                } else {
                    Outcome::default()
                }
            }
        };
        drop(world);
        let handled = outcome.handled;
        self.finish(token, outcome);
        handled
    }

    /// What changes the world, and the events of a batch.
    fn finish(&self, token: u64, outcome: Outcome) {
        let now = outcome.now;
        if !outcome.after.is_empty() || outcome.failed.is_some() {
            let mut world = self.write();
            for after in outcome.after {
                world.state.after(after, now);
            }
            if let Some(errno) = outcome.failed {
                let name = world.lanes.get(&token).map(|lane| lane.port.name());
                if let Some((what, index)) = name {
                    world.remove(what, index, &self.epoll);
                    world.state.events.notice(Event::DescriptorGone { at: sys::boottime(), what, index, errno });
                }
            }
        }
        if !self.reporter.report(now) {
            self.stop();
        }
    }

    /// False if the other end has gone, or doesn't make sense.
    fn on_control(&self, what: u32, buffer: &mut [u8]) -> bool {
        let now = sys::boottime();
        if what & WRITABLE != 0 && !self.reporter.unblocked(now) {
            return false;
        }
        if what & !WRITABLE == 0 {
            return true;
        }
        let (size, descriptors) = match sys::receive_with_descriptors(&self.reporter.fd, buffer) {
            Ok((0, _)) => return false,
            Ok(received) => received,
            Err(error) => return matches!(error, libc::EAGAIN | libc::EINTR),
        };
        let commands = decode_message(&buffer[..size]);
        buffer[..size].zeroize(); // there may have been keys in it
        let Ok(commands) = commands else { return false };
        let mut descriptors: Vec<Option<OwnedFd>> = descriptors.into_iter().map(Some).collect();
        let mut world = self.write();
        for command in commands {
            if world.apply(command, &mut descriptors, &self.epoll, now).is_err() {
                return false;
            }
        }
        drop(world);
        self.reporter.report(now)
    }
}

impl World {
    /// Applies a command, its descriptors included.
    fn apply(&mut self, command: Command, fds: &mut [Option<OwnedFd>], epoll: &Arc<Epoll>, now: u64) -> Result<()> {
        let mut take = |at: usize| fds.get_mut(at).and_then(Option::take).ok_or_else(|| Error::from_raw_os_error(libc::EBADF));
        match command {
            Command::AddTun { net, fd, .. } => {
                let tun = Arc::new(Tun::new(take(fd)?));
                self.remove(DescriptorKind::Tun, net, epoll);
                self.state.apply(command, now);
                let at = self.state.net(net);
                self.state.nets[at].tun = Some(tun.clone());
                self.add(Port::Tun { net, tun }, epoll)
            }
            Command::AddSocket { slot, fd } => {
                let udp = Arc::new(Udp::new(take(fd)?));
                self.remove_link(slot, epoll);
                self.state.links.insert(slot, udp.clone());
                self.add(Port::Udp { slot, udp }, epoll)
            }
            Command::AddStream { slot, fd } => {
                let stream = Arc::new(Stream::new(take(fd)?, self.next_token, epoll.clone()));
                self.remove_link(slot, epoll);
                self.state.links.insert(slot, stream.clone());
                self.add(Port::Stream { slot, stream, rest: Mutex::default() }, epoll)
            }
            Command::RemoveTun { net } => {
                self.remove(DescriptorKind::Tun, net, epoll);
                self.state.apply(command, now);
                Ok(())
            }
            Command::RemoveSocket { slot } | Command::RemoveStream { slot } => {
                self.remove_link(slot, epoll);
                Ok(())
            }
            other => {
                self.state.apply(other, now);
                Ok(())
            }
        }
    }

    fn add(&mut self, port: Port, epoll: &Epoll) -> Result<()> {
        epoll.add(port.fd(), self.next_token)?;
        self.lanes.insert(self.next_token, Lane { port, queue: Queue::default() });
        self.next_token += 1;
        Ok(())
    }

    fn remove_link(&mut self, slot: u32, epoll: &Epoll) {
        self.remove(DescriptorKind::Socket, slot, epoll);
        self.remove(DescriptorKind::Stream, slot, epoll);
    }

    /// Takes a descriptor out of everything.
    fn remove(&mut self, what: DescriptorKind, index: u32, epoll: &Epoll) {
        let found = self.lanes.iter().find(|(_, lane)| lane.port.name() == (what, index)).map(|(token, _)| *token);
        let Some(lane) = found.and_then(|token| self.lanes.remove(&token)) else { return };
        epoll.remove(lane.port.fd()); // the other process still has it open, so closing is not enough
        match what {
            DescriptorKind::Tun => {
                let at = self.state.net(index);
                self.state.nets[at].tun = None;
            }
            DescriptorKind::Socket | DescriptorKind::Stream => drop(self.state.links.remove(&index)),
        }
    }
}

/// How much there was in a batch, and when.
#[derive(Clone, Copy, Default)]
struct Handled {
    at: u64,
    packets: usize,
    bytes: usize,
}

/// What a batch left to be done.
#[derive(Default)]
struct Outcome {
    now: u64,
    handled: Handled,
    after: Vec<After>,
    failed: Option<i32>,
}

type Leading<'l, 'g> = &'l mut Option<MutexGuard<'g, Lead>>;

fn on_tun(state: &State, net: u32, tun: &Tun, queue: &Queue, lead: Leading, memory: &mut Memory) -> Outcome {
    use crate::io::Interface as _;
    let Some(net) = state.nets.iter().find(|known| known.index == net) else { return Outcome::default() };
    let (mut used, mut full, mut failed) = (0, false, None);
    memory.packets.clear();
    loop {
        match tun.read(&mut memory.raw[used..used + tun::LARGEST]) {
            Ok(size) => memory.packets.push((used, size)),
            Err(libc::EAGAIN | libc::EINTR) => break,
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
        used += memory.packets.last().map_or(0, |(_, size)| size.next_multiple_of(64));
        if used > RAW_BYTES || memory.packets.len() >= RAW_PACKETS {
            full = true;
            break;
        }
    }
    let now = sys::boottime();
    if !memory.packets.is_empty() {
        let items = outbound::plan(state, net, tun.offloads().lead(), &memory.raw, &memory.packets, now);
        let ticket = queue.draw();
        if full {
            *lead = None;
        }
        Sealer::new(state, net, &mut memory.scratch, &ticket, now).finish(&items, &memory.raw);
    }
    let handled = Handled { at: now, packets: memory.packets.len(), bytes: used };
    Outcome { now, handled, after: Vec::new(), failed }
}

fn on_socket(state: &State, slot: u32, udp: &Udp, queue: &Queue, lead: Leading, memory: &mut Memory) -> Outcome {
    memory.messages.clear();
    let (full, failed) = match udp.receive(&mut memory.receiver, &mut memory.datagrams, &mut memory.messages) {
        Ok(full) => (full, None),
        Err(error) => (false, Some(error)),
    };
    Outcome { failed, ..inwards(state, slot, queue, lead, full, memory) }
}

fn on_stream(
    state: &State,
    slot: u32,
    stream: &Stream,
    rest: &Mutex<Vec<u8>>,
    queue: &Queue,
    lead: Leading,
    memory: &mut Memory,
) -> Outcome {
    memory.messages.clear();
    let mut rest = lock(rest);
    let buffer = &mut memory.datagrams[..udp::SLOT * 4];
    buffer[..rest.len()].copy_from_slice(&rest);
    let start = rest.len();
    let got = match sys::read(&stream.fd, &mut buffer[start..]) {
        Ok(0) => Err(libc::EPIPE),
        other => other,
    };
    let (filled, failed) = match got {
        Ok(size) => (start + size, None),
        Err(libc::EAGAIN | libc::EINTR) => return Outcome::default(),
        Err(error) => (start, Some(error)),
    };
    let used = frames(&buffer[..filled], &mut memory.messages);
    let full = filled == buffer.len();
    rest.clear();
    rest.extend_from_slice(&buffer[used..filled]); // shorter than one frame
    drop(rest);
    Outcome { failed, ..inwards(state, slot, queue, lead, full, memory) }
}

/// Opens and delivers what was received.
fn inwards(state: &State, slot: u32, queue: &Queue, lead: Leading, full: bool, memory: &mut Memory) -> Outcome {
    let now = sys::boottime();
    if memory.messages.is_empty() {
        return Outcome { now, ..Outcome::default() };
    }
    let ticket = queue.draw();
    if full {
        *lead = None;
    }
    let rows = inbound::open(state, &mut memory.datagrams, &memory.messages, now);
    ticket.wait();
    let after = inbound::deliver(state, slot, &mut memory.datagrams, &memory.messages, &rows, now);
    let bytes = memory.messages.iter().map(|message| message.end - message.start).sum();
    Outcome { now, handled: Handled { at: now, packets: rows.len(), bytes }, after, failed: None }
}
