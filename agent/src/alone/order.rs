//! The order in which nodes come for a segment: the same on every node and in every version.

/// A node's place for a segment of a snapshot, both given by their [`seed`]: the highest comes first.
pub(super) fn score(snapshot: u64, node: u64, segment: u32) -> u64 {
    mix(node ^ mix(snapshot ^ u64::from(segment)))
}

/// A number for a name (FNV-1a, finished by [`mix`]).
pub(super) fn seed(name: &str) -> u64 {
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    mix(name.bytes().fold(0xcbf2_9ce4_8422_2325, fold))
}

/// A number without pattern for each number (the finalizer of `SplitMix64`).
pub(super) fn mix(number: u64) -> u64 {
    let x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_agree_upon_the_order() {
        assert_eq!(seed("s"), 0x833b_7097_ccc9_2d6c);
        assert_eq!(score(seed("s"), seed("node-1"), 7), 0xc8e0_8c83_fb91_2099);
    }
}
