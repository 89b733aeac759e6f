//! What links travel over, and how seldom it wakes who reads it.

use nix::libc;
use nix::sys::socket::{self, sockopt::SetUsize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A stream that a link can travel over.
pub trait Wire: AsyncRead + AsyncWrite + Unpin {
    /// Says that the reader need not be woken before so many bytes are there, at least 1, or the end is.
    ///
    /// A record travels in some 40 packets. On a link that is slower than the processor each would wake its reader, which can
    /// do nothing with it.
    fn wake_at(&self, bytes: usize);
}

#[derive(Clone, Copy)]
struct LeastReceived;
nix::setsockopt_impl!(
    LeastReceived,
    libc::SOL_SOCKET,
    libc::SO_RCVLOWAT,
    usize,
    SetUsize
);

impl Wire for TcpStream {
    fn wake_at(&self, bytes: usize) {
        // Without it everything works, at more cost.
        let _ = socket::setsockopt(self, LeastReceived, &bytes);
    }
}
