//! The taking side with BitTorrent clients that are no members of the cluster: one whole file from one of them.
//!
//! It is not left to librqbit, which dials whomever its peer names (BEP 11) and cannot be told not to. Here one address is
//! dialled once, nothing is given, and what is said of others is not read. What comes is not checked against the hashes in the
//! torrent either, since those are the stranger's words too: who takes a file proves the whole of it.

mod blocks;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed;
mod torrent;

use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use self::blocks::Blocks;
use self::torrent::Hello;
use super::wire::{self, HANDSHAKE_BYTES, MAX_MESSAGE_BYTES, Said};
use crate::verify::piece_hash;

pub use self::torrent::{Described, Unusable};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For everything from the handshake to the end of the metadata.
const METADATA_TIMEOUT: Duration = Duration::from_secs(30);
/// A stranger from whom no block came for so long is given up. Clients may choke for some time.
const SILENCE: Duration = Duration::from_secs(30);
/// A stranger that trickles is given up too: in each such time…
const PATIENCE: Duration = Duration::from_mins(1);
/// …it must send so many bytes a second on average. It keeps this node from asking others.
const MIN_BYTES_PER_SECOND: u64 = 256 << 10;
/// What is read at once, if it is there.
const READ_BYTES: usize = 256 << 10;

/// Why a file was not taken.
#[derive(Debug, Error)]
pub enum StrangerError {
    /// It cannot be reached.
    #[error("it cannot be reached: {0}")]
    Unreachable(io::Error),
    /// It hung up.
    #[error("it hung up, as a client does that has no such torrent: {0}")]
    Lost(#[from] io::Error),
    /// It sends nothing, or next to nothing.
    #[error("it is silent or too slow")]
    Slow,
    /// It is no client from which anything can be taken.
    #[error("it does not speak as a client with this torrent does: {0}")]
    Speech(&'static str),
    /// Its torrent is none that can be used.
    #[error("its torrent is of no use: {0}")]
    Torrent(#[from] Unusable),
    /// Who takes it does not want more.
    #[error("it was stopped")]
    Stopped,
}

/// A connection to a client that said what its torrent consists of.
pub struct Stranger {
    wire: Wire,
    file: Described,
}

/// Its messages, one after the other.
struct Wire {
    stream: BufReader<TcpStream>,
    message: Vec<u8>,
    /// Whether it answers requests now.
    unchoked: bool,
}

impl Wire {
    async fn next(&mut self) -> Result<Said<'_>, StrangerError> {
        let len = self.stream.read_u32().await? as usize;
        if len > MAX_MESSAGE_BYTES {
            return Err(StrangerError::Speech("a message is too long"));
        }
        self.message.resize(len, 0);
        self.stream.read_exact(&mut self.message).await?;
        let said = wire::said(&self.message);
        match said {
            Said::Choke => self.unchoked = false,
            Said::Unchoke => self.unchoked = true,
            _ => {}
        }
        Ok(said)
    }

    async fn say(&mut self, bytes: &[u8]) -> Result<(), StrangerError> {
        Ok(self.stream.get_mut().write_all(bytes).await?)
    }
}

impl Stranger {
    /// Dials a client and has it say what the torrent with this v1 info hash consists of (BEP 9).
    pub async fn meet(address: SocketAddr, info_hash: [u8; 20]) -> Result<Self, StrangerError> {
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(StrangerError::Unreachable)?;
        stream.set_nodelay(true)?;
        let wire = Wire {
            stream: BufReader::with_capacity(READ_BYTES, stream),
            message: Vec::new(),
            unchoked: false,
        };
        timeout(METADATA_TIMEOUT, Self::introduce(wire, info_hash))
            .await
            .unwrap_or(Err(StrangerError::Slow))
    }

    async fn introduce(mut wire: Wire, info_hash: [u8; 20]) -> Result<Self, StrangerError> {
        let mut hello = wire::handshake(&info_hash, &wire::peer_id());
        wire::know_extensions(&mut hello);
        hello.extend(torrent::hello());
        wire.say(&hello).await?;
        let mut answer = [0; HANDSHAKE_BYTES];
        wire.stream.read_exact(&mut answer).await?;
        if wire::parse_handshake(&answer) != Ok(info_hash) {
            return Err(StrangerError::Speech("its handshake is another one"));
        }
        if !wire::knows_extensions(&answer) {
            return Err(StrangerError::Speech("it knows no extension messages"));
        }
        let hello = loop {
            if let Said::Extended(body) = wire.next().await?
                && let Some(hello) = Hello::read(body)?
            {
                break hello;
            }
        };
        let mut info = Vec::new();
        while info.len() < hello.size() {
            wire.say(&hello.ask(info.len())).await?;
            loop {
                if let Said::Extended(body) = wire.next().await?
                    && let Some(block) = hello.block(body, info.len())?
                {
                    info.extend_from_slice(block);
                    break;
                }
            }
        }
        if piece_hash(&info) != info_hash {
            return Err(StrangerError::Speech("its metadata has another hash"));
        }
        Ok(Self {
            wire,
            file: Described::read(&info)?,
        })
    }

    /// What it says that the file is.
    #[must_use]
    pub fn file(&self) -> &Described {
        &self.file
    }

    /// Takes all of the file: `put` gets each byte once, in blocks with their offsets, in any order, and may end it.
    pub async fn take(
        mut self,
        mut put: impl FnMut(u64, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StrangerError> {
        let mut last_block = Instant::now();
        let mut minute = (last_block, 0);
        let mut blocks = Blocks::new(self.file.len, self.file.piece_bytes);
        self.wire.say(&wire::WISH).await?;
        while !blocks.all_here() {
            let turn = timeout_at(last_block + SILENCE, async {
                if self.wire.unchoked {
                    self.wire.say(&blocks.ask()).await?;
                }
                self.wire.next().await
            });
            match turn.await.unwrap_or(Err(StrangerError::Slow))? {
                Said::Choke => blocks.choked(),
                Said::Block { piece, begin, data } => {
                    // What nobody asked for does not count.
                    let Some(offset) = blocks.arrived(piece, begin, data.len()) else {
                        continue;
                    };
                    last_block = Instant::now();
                    if put(offset, data).is_break() {
                        return Err(StrangerError::Stopped);
                    }
                }
                Said::Unchoke | Said::Extended(_) | Said::Other => {}
            }
            let elapsed = minute.0.elapsed();
            if elapsed >= PATIENCE {
                if (blocks.bytes() - minute.1) / elapsed.as_secs() < MIN_BYTES_PER_SECOND {
                    return Err(StrangerError::Slow);
                }
                minute = (Instant::now(), blocks.bytes());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
