//! A segment's place on disk that can be closed for good.
//!
//! Transfers are cancelled by dropping a future while other threads still hold bytes for them. Once the gate is
//! closed no such latecomer can write over what the next transfer of the same segment has put there.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use crate::segment::SegmentIo;

/// Writing access to one segment for one transfer.
pub(crate) struct Gate {
    io: Arc<dyn SegmentIo>,
    open: RwLock<bool>,
}

impl Gate {
    pub(crate) fn new(io: Arc<dyn SegmentIo>) -> Arc<Self> {
        Arc::new(Self {
            io,
            open: RwLock::new(true),
        })
    }

    /// Writes bytes that are known to be what their sender meant, and hands them to the verifier.
    pub(crate) fn put(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        if !*open {
            return Err(io::Error::other("the transfer was cancelled"));
        }
        self.io.write_at(offset, data)?;
        self.io.checked(offset, data);
        Ok(())
    }

    /// Waits for a write that is under way and refuses all later ones.
    pub(crate) fn close(&self) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = false;
    }
}

/// Closes a gate when the transfer's future ends or is dropped.
pub(crate) struct CloseOnDrop(pub(crate) Arc<Gate>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A segment in memory, for tests.
#[cfg(test)]
pub(crate) mod memory {
    use std::io;
    use std::sync::Mutex;

    use crate::segment::SegmentIo;

    /// Bytes in memory and what was reported as checked, as (offset, length) in the order of the calls.
    pub(crate) struct MemoryIo {
        pub(crate) bytes: Mutex<Vec<u8>>,
        pub(crate) checked: Mutex<Vec<(u64, u64)>>,
        pub(crate) full: bool,
        pub(crate) waits: bool,
    }

    impl MemoryIo {
        pub(crate) fn empty(len: usize) -> Self {
            Self::holding(vec![0; len])
        }

        pub(crate) fn holding(bytes: Vec<u8>) -> Self {
            Self {
                bytes: Mutex::new(bytes),
                checked: Mutex::default(),
                full: false,
                waits: false,
            }
        }

        /// A disk that every reader has to wait for.
        pub(crate) fn waiting(bytes: Vec<u8>) -> Self {
            Self {
                waits: true,
                ..Self::holding(bytes)
            }
        }

        /// A disk without space.
        pub(crate) fn full(len: usize) -> Self {
            Self {
                full: true,
                ..Self::empty(len)
            }
        }

        pub(crate) fn take(&self) -> Vec<u8> {
            self.bytes.lock().unwrap().clone()
        }

        /// Whether every byte was reported as checked exactly once.
        pub(crate) fn checked_once(&self) -> bool {
            let mut ranges = self.checked.lock().unwrap().clone();
            ranges.sort_unstable();
            let mut at = 0;
            for (offset, len) in ranges {
                if offset != at {
                    return false;
                }
                at += len;
            }
            at == self.size()
        }
    }

    impl SegmentIo for MemoryIo {
        fn size(&self) -> u64 {
            self.bytes.lock().unwrap().len() as u64
        }

        fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            if self.full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let offset = usize::try_from(offset).unwrap();
            self.bytes.lock().unwrap()[offset..offset + data.len()].copy_from_slice(data);
            Ok(())
        }

        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
            let offset = usize::try_from(offset).unwrap();
            buffer.copy_from_slice(&self.bytes.lock().unwrap()[offset..offset + buffer.len()]);
            Ok(())
        }

        fn read_now(&self, offset: u64, buffer: &mut [u8]) -> bool {
            if self.waits {
                buffer.fill(0xff);
            }
            !self.waits && self.read_at(offset, buffer).is_ok()
        }

        fn checked(&self, offset: u64, data: &[u8]) {
            self.checked
                .lock()
                .unwrap()
                .push((offset, data.len() as u64));
        }
    }
}
