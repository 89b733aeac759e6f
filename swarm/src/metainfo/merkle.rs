//! The hash trees of BitTorrent v2 (BEP 52): SHA-256 over leaves of 16 KiB, what is missing at the end is a hash of zeros
//! (not the hash of zeros).

use aws_lc_rs::digest::{SHA256, digest};

/// One leaf, in bytes.
pub(super) const LEAF_BYTES: usize = 16 << 10;

pub(super) type Node = [u8; 32];

/// The hash of some bytes.
pub(super) fn leaf(bytes: &[u8]) -> Node {
    let mut node = [0; 32];
    node.copy_from_slice(digest(&SHA256, bytes).as_ref());
    node
}

fn parent(left: &Node, right: &Node) -> Node {
    leaf(&[left.as_slice(), right].concat())
}

/// The root over `nodes`, filled up with `pad` to `width` of them, or to the next power of two if they are more.
pub(super) fn root(mut nodes: Vec<Node>, mut pad: Node, width: usize) -> Node {
    let mut width = width.max(nodes.len()).next_power_of_two();
    while width > 1 {
        if nodes.len() % 2 == 1 {
            nodes.push(pad);
        }
        nodes = nodes
            .as_chunks::<2>()
            .0
            .iter()
            .map(|[left, right]| parent(left, right))
            .collect();
        pad = parent(&pad, &pad);
        width /= 2;
    }
    nodes.first().copied().unwrap_or(pad)
}

/// The root over a piece of which nothing is there.
pub(super) fn empty_piece(leaves: usize) -> Node {
    root(Vec::new(), [0; 32], leaves)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_those_of_the_whole_tree() {
        let leaves: Vec<Node> = (0..5).map(|seed| leaf(&[seed])).collect();
        let zero = [0; 32];
        let by_hand = |all: &[Node; 8]| {
            let pairs = [0, 2, 4, 6].map(|at| parent(&all[at], &all[at + 1]));
            parent(&parent(&pairs[0], &pairs[1]), &parent(&pairs[2], &pairs[3]))
        };
        let mut all = [zero; 8];
        all[..5].copy_from_slice(&leaves);
        assert_eq!(root(leaves.clone(), zero, 5), by_hand(&all));
        // The same by way of pieces of two leaves: 2 whole, one half, one missing.
        let pieces: Vec<Node> = leaves
            .chunks(2)
            .map(|piece| root(piece.to_vec(), zero, 2))
            .collect();
        assert_eq!(root(pieces, empty_piece(2), 1), by_hand(&all));
        assert_eq!(root(vec![leaves[0]], zero, 1), leaves[0]);
        assert_eq!(empty_piece(1), zero);
    }
}
