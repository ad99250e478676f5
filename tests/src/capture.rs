//! Listens to everything that crosses a local cluster's network, from outside its VMs: what a hostile host would see.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use rustix::{
    net::{AddressFamily, RecvFlags, SocketType, eth, recv, socket, sockopt},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

/// Length of an Ethernet header (IEEE 802.3).
const ETHERNET: usize = 14;
/// How long a look for frames may wait before it asks whether to end.
const LOOK: Duration = Duration::from_millis(100);

/// An IPv4 packet that crossed the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// From.
    pub source: Ipv4Addr,
    /// To.
    pub destination: Ipv4Addr,
    /// Protocol (IANA): 6 is TCP, 17 UDP.
    pub protocol: u8,
    /// Destination port of TCP and UDP.
    pub port: u16,
    /// Whether the marker stands in it.
    pub marked: bool,
}

/// A capture that runs.
pub struct Capture {
    end: Arc<AtomicBool>,
    work: JoinHandle<Result<Vec<Packet>>>,
}

impl Capture {
    /// Begins to listen in the network of the local cluster whose folder is `dir`; notes which packets hold `marker`.
    /// One packet with the marker is sent in clear to `control`, so that whoever sees none has listened to nothing.
    ///
    /// # Errors
    /// When the cluster isn't there or the user isn't root.
    pub fn begin(dir: &Path, marker: &[u8], control: SocketAddr) -> Result<Self> {
        let pid = std::fs::read_to_string(dir.join("supervisor.pid")).context("reading the supervisor's pid")?;
        let network = File::open(format!("/proc/{}/ns/net", pid.trim())).context("opening the cluster's network")?;
        let end = Arc::new(AtomicBool::new(false));
        let (ended, marker) = (Arc::clone(&end), marker.to_owned());
        let (told, started) = std::sync::mpsc::channel();
        // A thread of its own: it stays in the cluster's network.
        let work = std::thread::spawn(move || {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
            let wire = socket(AddressFamily::PACKET, SocketType::RAW, Some(eth::ALL))?;
            sockopt::set_socket_timeout(&wire, sockopt::Timeout::Recv, Some(LOOK))?;
            let _ = told.send(());
            UdpSocket::bind("0.0.0.0:0")?.send_to(&marker, control)?;
            let (mut packets, mut frame) = (Vec::new(), vec![0; 65536]);
            while !ended.load(Ordering::Acquire) {
                match recv(&wire, frame.as_mut_slice(), RecvFlags::empty()) {
                    Ok((length, _)) => packets.extend(packet(&frame[..length], &marker)),
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(packets)
        });
        match started.recv() {
            Ok(()) => Ok(Self { end, work }),
            Err(_) => match work.join() {
                Ok(Err(error)) => Err(error),
                _ => Err(anyhow!("the capture ended before it began")),
            },
        }
    }

    /// Ends it; gives what was seen, in order. A packet is seen on each interface that it crosses.
    ///
    /// # Errors
    /// When listening failed on the way.
    pub fn end(self) -> Result<Vec<Packet>> {
        self.end.store(true, Ordering::Release);
        self.work.join().map_err(|_| anyhow!("the capture panicked"))?
    }
}

/// The IPv4 packet (RFC 791, 3.1) in an Ethernet frame.
fn packet(frame: &[u8], marker: &[u8]) -> Option<Packet> {
    if frame.get(12..ETHERNET)? != [0x08, 0x00] {
        return None;
    }
    let ip = frame.get(ETHERNET..)?;
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?));
    let header = usize::from(ip.first()? & 0x0f) * 4;
    let protocol = *ip.get(9)?;
    let port = ip.get(header + 2..header + 4).map_or(0, |port| u16::from_be_bytes([port[0], port[1]]));
    Some(Packet {
        source: address(12)?,
        destination: address(16)?,
        protocol,
        port: if matches!(protocol, 6 | 17) { port } else { 0 },
        marked: ip.windows(marker.len()).any(|window| window == marker),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_read_and_its_marker_found() {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0, 9, 0xca, 0x6c, 0, 0, 0, 0]);
        frame.extend(b"xxmarkxx");
        let seen = packet(&frame, b"mark").unwrap();
        assert_eq!((seen.source, seen.destination), ([10, 0, 0, 1].into(), [10, 0, 0, 2].into()));
        assert_eq!((seen.protocol, seen.port, seen.marked), (17, 51820, true));
        assert!(!packet(&frame, b"dark").unwrap().marked);
        assert!(packet(&frame[..20], b"mark").is_none());
    }
}
