//! `modelcache-faults-liar`: stands between a node's uploader and the other nodes and changes bytes on the way.
//!
//! Most are payload of a piece, now and then one belongs to the frame of a message: a peer may send anything.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread;

use clap::Parser;

/// The first lie comes after the handshake (BEP 3: 68 bytes) and the greeting…
const TRUTH: u64 = 2_000;
/// …and then one comes in so many bytes: none in some pieces, some in every segment.
const EVERY: u64 = 150_000;

#[derive(Debug, Parser)]
struct Arguments {
    /// Where other nodes are sent to.
    #[arg(long)]
    listen: u16,
    /// Where the uploader listens.
    #[arg(long)]
    uploader: u16,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, arguments.listen))?;
    println!("lying");
    for peer in listener.incoming() {
        let peer = peer?;
        let Ok(uploader) = TcpStream::connect((Ipv4Addr::LOCALHOST, arguments.uploader)) else {
            continue;
        };
        let (from, to) = (peer.try_clone()?, uploader.try_clone()?);
        thread::spawn(move || pass(from, to, |_, _| ()));
        thread::spawn(move || pass(uploader, peer, lie));
    }
    Ok(())
}

/// Carries bytes until either side ends.
fn pass(mut from: TcpStream, mut to: TcpStream, change: impl Fn(u64, &mut [u8])) {
    let mut buffer = [0; 16 << 10];
    let mut position = 0;
    while let Ok(len) = from.read(&mut buffer)
        && let Some(bytes) = buffer.get_mut(..len)
        && len > 0
    {
        change(position, bytes);
        position += len as u64;
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    // The other direction ends with it.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

fn lie(position: u64, bytes: &mut [u8]) {
    for (byte, at) in bytes.iter_mut().zip(position..) {
        if at % EVERY == TRUTH {
            *byte ^= 0x55;
        }
    }
}
