use std::sync::Arc;

use super::*;
use crate::gate::memory::MemoryIo;

/// Bytes that every language makes alike.
fn content(len: u32) -> Vec<u8> {
    (0..len)
        .map(|at| u8::try_from(at.wrapping_mul(0x9e37_79b1) >> 24).unwrap())
        .collect()
}

fn torrent_of(kind: Kind, len: u32) -> FileTorrent {
    let file = Arc::new(MemoryIo::holding(content(len)));
    let hashes = FileHashes::read(&*file, || false).unwrap().unwrap();
    assert!(hashes.fit(u64::from(len)) && !hashes.fit(u64::from(len) + 1));
    FileTorrent::new(kind, &format!("model {len}.gguf"), Arc::new(hashes))
}

/// What libtorrent 2.1.1 (`create_torrent`) and anacrolix/torrent 1.61.0, the library of hali, both made of these files.
const HASHES: [(u32, &str, &str); 7] = [
    (
        1,
        "6887bd794591451a6849fce1662ccf789aa9e24f",
        "b8c4778df59cf732ffe4baa0693f51346b5c0476748ec1babb80e51ee9c53367",
    ),
    (
        16_384,
        "6840c7ce3d05da11413beb3a245388b8f739ce25",
        "6c1dc58d7d01a09055cd32ed1f8f7cc59d5bb214b25af805b7ad9ccd0cf93887",
    ),
    (
        16_385,
        "390e7e0f29c4a4cf9eb071bff4f0ad27ee6dc395",
        "daf679255a3c3c3ae40449411709fef893255ea4d420a6f5efced469e8fc78c1",
    ),
    (
        100_000,
        "8bf4b57e3b4626feae28e7b2a4fa6638460e9d4c",
        "890ee6324efc1f72b0ac7755f3d87041a787605a2f5aed84911e20298b44fe0d",
    ),
    (
        2_097_152,
        "e7401d78cbae1b2a2f9a257fdc3f4bc094c97801",
        "2751c5ce6d9c08b347817271514817dfff4d7b215d5966f254607ee55e7634e1",
    ),
    (
        2_097_153,
        "92b547e29bdaf6a3963700ede98345eccfb64b99",
        "2b4aa3c0981aa2306a6fe7c5de81d032188c0dd31e7e760e440b700434fb8441",
    ),
    (
        5_242_887,
        "9116a9f266d2720feb4779974ff9e7d121fa9f3c",
        "c76627279743ee03a6a98d3734d016438645ac5e027a18e906b8675feacc6007",
    ),
];

#[test]
fn info_hashes_are_those_that_other_programs_make() {
    for (len, v1, v2) in HASHES {
        let torrent = torrent_of(Kind::Hybrid, len);
        assert_eq!(hex::encode(torrent.info_hash()), v1, "{len}");
        assert_eq!(hex::encode(torrent.info_hash_v2()), v2, "{len}");
    }
    // libtorrent's alone, with the flag v1_only.
    for (len, v1) in [
        (1, "4e2862b22300f03bc83f1710dd7b8ae378941945"),
        (100_000, "88ee15572b14311c5bfa125aec1c5f2611075a9e"),
        (5_242_887, "8d885adf6c5a22fa3f954ffa98fd0ef647b5da67"),
    ] {
        let torrent = torrent_of(Kind::V1, len);
        assert_eq!(hex::encode(torrent.info_hash()), v1, "{len}");
    }
}

#[test]
fn pieces_are_as_long_as_in_the_torrents_of_hali() {
    for (len, expected) in [
        (1, 2),
        (8 * GIB - 1, 2),
        (8 * GIB, 4),
        (32 * GIB - 1, 4),
        (32 * GIB, 8),
        (80 * GIB - 1, 8),
        (80 * GIB, 16),
        (u64::MAX, 16),
    ] {
        assert_eq!(piece_bytes(len), expected * MIB, "{len}");
    }
}

#[test]
fn librqbit_reads_the_torrent() {
    for (len, v1, _) in HASHES {
        let torrent = torrent_of(Kind::Hybrid, len);
        let bytes = torrent.torrent();
        let parsed = librqbit::torrent_from_bytes(&bytes).unwrap();
        assert_eq!(hex::encode(parsed.info_hash.0), v1);
        assert_eq!(parsed.info.data.length, Some(u64::from(len)));
        let layers = b"12:piece layers";
        let has_layers = bytes.windows(layers.len()).any(|part| part == layers);
        assert_eq!(has_layers, len > 2 * MIB);
        let torrent = torrent_of(Kind::V1, len);
        let bytes = torrent.torrent();
        let parsed = librqbit::torrent_from_bytes(&bytes).unwrap();
        assert_eq!(parsed.info_hash.0, torrent.info_hash());
        assert!(!bytes.windows(5).any(|part| part == b"layer"));
    }
}

#[test]
fn a_magnet_link_names_the_hashes_and_the_peers() {
    let peers = ["10.0.0.7:9493", "[fd00::7]:9493"].map(|peer| peer.parse().unwrap());
    let hybrid = torrent_of(Kind::Hybrid, 1);
    assert_eq!(
        hybrid.magnet(&peers),
        format!(
            "magnet:?xt=urn:btih:{}&xt=urn:btmh:1220{}&dn=model%201.gguf&x.pe=10.0.0.7:9493&x.pe=[fd00::7]:9493",
            HASHES[0].1, HASHES[0].2
        )
    );
    let v1 = torrent_of(Kind::V1, 1);
    assert_eq!(
        v1.magnet(&[]),
        format!(
            "magnet:?xt=urn:btih:{}&dn=model%201.gguf",
            hex::encode(v1.info_hash())
        )
    );
}

#[test]
fn hashes_survive_the_disk() {
    let file = MemoryIo::holding(content(3_000_000));
    assert_eq!(FileHashes::read(&file, || true).unwrap(), None);
    let hashes = FileHashes::read(&file, || false).unwrap().unwrap();
    let text = serde_json::to_string(&hashes).unwrap();
    assert_eq!(serde_json::from_str::<FileHashes>(&text).unwrap(), hashes);
}
