//! Memory that the machine has for sure.
//!
//! A virtual machine's host may take back memory that is free, and what a program writes to then costs it more than any of its
//! work: seconds of processor time a gigabyte on some days and none on others, for every program alike. Nodes with GPUs are not
//! such machines. So what the nodes will fill is touched before, and freed when the case starts: they reserve room for all of it
//! at once then, and the kernel gives away first what was freed last.

/// How much is touched at once, so that the kernel gets it back at once.
const CHUNK: usize = 64 << 20;

/// Memory that has been written to. Free for others when this is dropped.
#[derive(Debug)]
pub struct Reserve(Vec<Vec<u8>>);

impl Reserve {
    /// Of so many bytes at least.
    #[must_use]
    pub fn of(bytes: u64) -> Self {
        let chunks = bytes.div_ceil(CHUNK as u64);
        Self((0..chunks).map(|_| vec![1; CHUNK]).collect())
    }

    /// Gives it back.
    pub fn free(self) {
        drop(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::own_resident;

    #[test]
    fn it_is_there_until_it_is_freed() {
        let before = own_resident().unwrap();
        let reserve = Reserve::of(200 << 20);
        let with = own_resident().unwrap();
        assert!(with >= before + (200 << 20), "{before} {with}");
        reserve.free();
        let after = own_resident().unwrap();
        assert!(after <= before + (100 << 20), "{before} {after}");
    }
}
