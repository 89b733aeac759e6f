//! Attacks on a node that serves peers, which is a process of its own so that its memory can be watched: by
//! connections that say nothing and by datagrams, while another node takes segments from it; by a client of BitTorrent
//! without the secret; and with a key that is no longer valid.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use modelcache_swarm::discovery::service::{Discovery, GROUP, Peers};
use modelcache_swarm::engine::{AskError, Engine, SegmentSource, Served, Take, Uploader, examine};
use modelcache_swarm::link::{LinkError, Mode, OnHandshake, Security};
use modelcache_swarm::metainfo;
use modelcache_swarm::secret::{Keys, Purpose};
use modelcache_swarm::segment::{PieceHashes, SegmentIo};
use sha1::{Digest as _, Sha1};
use socket2::{Domain, Socket, Type};

use super::lab::{Lab, PORT, address, ring, settings};

const SNAPSHOT: &str = "attacked-1";
const PIECE: u32 = 256 << 10;
const SEGMENT: usize = 16 << 20;
const SEGMENTS: u32 = 8;
/// What the cable to the taker carries: less than the processors, which the attacker uses too, so that what is lost is
/// lost by the node that is attacked.
const CABLE: &str = "200mbit";
/// Connections that are opened, and held open, within one transfer.
const CONNECTIONS: usize = 10_000;
/// Segments that are taken at once.
const AT_ONCE: usize = 4;
/// Takes of a transfer that may be displaced and begun anew, those of one moment: on processors that have more to do than they
/// can, a member that has connected speaks late, and counts as a silent one.
const MAX_AGAIN: usize = AT_ONCE;
/// The name of the test that is the node which is attacked.
const NODE: &str = "attack::the_node_that_is_attacked";

/// A segment in memory, or none where bytes are thrown away.
struct Memory(Option<Vec<u8>>);

impl SegmentIo for Memory {
    fn size(&self) -> u64 {
        SEGMENT as u64
    }

    fn write_at(&self, _: u64, _: &[u8]) -> std::io::Result<()> {
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        let bytes = self.0.as_ref().unwrap();
        buffer.copy_from_slice(&bytes[offset..offset + buffer.len()]);
        Ok(())
    }

    fn read_now(&self, offset: u64, buffer: &mut [u8]) -> bool {
        self.read_at(offset, buffer).is_ok()
    }

    fn checked(&self, _: u64, _: &[u8]) {}
}

/// The same bytes for every segment.
fn content() -> Vec<u8> {
    (0_u32..).flat_map(u32::to_be_bytes).take(SEGMENT).collect()
}

fn pieces(bytes: &[u8]) -> PieceHashes {
    let hashes = bytes.chunks(PIECE as usize);
    PieceHashes::new(hashes.map(|piece| Sha1::digest(piece).into()).collect())
}

struct Shelf(Arc<Memory>, Vec<[u8; 20]>);

impl SegmentSource for Shelf {
    fn find(&self, info_hash: [u8; 20]) -> Option<Served> {
        self.1.contains(&info_hash).then(|| Served {
            len: SEGMENT as u64,
            piece_bytes: PIECE,
            io: self.0.clone(),
            metadata: None,
        })
    }
}

fn security(key: u8) -> Security {
    let (_, keys) = Keys::set_by_hand(ring(key));
    Security::new(keys, Purpose::PeerLink, Mode::Encrypted)
}

/// Not a test by itself: runs in a process of its own, serves until its input ends, and says how handshakes ended.
#[test]
#[ignore = "started by the test that attacks it"]
fn the_node_that_is_attacked() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let counts = Arc::new([const { AtomicUsize::new(0) }; 3]);
    let counted = counts.clone();
    let count: OnHandshake = Arc::new(move |_, word| {
        let number = match word {
            "ok" => 0,
            "displaced" | "timeout" => 1,
            _ => 2,
        };
        counted[number].fetch_add(1, Ordering::Relaxed);
    });
    let bytes = content();
    let hashes = pieces(&bytes);
    let hash = |index| metainfo::info_hash(SNAPSHOT, index, SEGMENT as u64, PIECE, &hashes);
    let shelf = Shelf(
        Arc::new(Memory(Some(bytes))),
        (0..SEGMENTS).map(hash).collect(),
    );
    let any = (Ipv4Addr::UNSPECIFIED, PORT).into();
    runtime.block_on(async {
        let (_keep, keys) = Keys::set_by_hand(ring(2));
        let discovery = Discovery::start(settings(1, keys), Peers::default()).unwrap();
        let told = Arc::new(|_, _| {});
        let uploader = Uploader::bind(any, security(2).counted(count), Arc::new(shelf), told)
            .await
            .unwrap();
        println!("serving");
        let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        ended.await.unwrap().unwrap();
        drop(uploader);
        discovery.stop().await;
    });
    let [ok, silent, other] = [0, 1, 2].map(|number| counts[number].load(Ordering::Relaxed));
    println!("ended {ok} {silent} {other}");
}

/// The node that is attacked.
struct Node {
    child: Child,
    /// It ends when this is dropped.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Node {
    fn start(lab: &Lab) -> Self {
        let mut command = lab.command(1, &std::env::current_exe().unwrap());
        command.args(["--exact", NODE, "--ignored", "--nocapture"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut node = Self {
            child,
            input: Some(input),
            output: BufReader::new(output),
        };
        node.wait_for("serving");
        node
    }

    /// What it says after this word.
    fn wait_for(&mut self, word: &str) -> Vec<usize> {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "it is gone");
            if let Some((_, rest)) = line.split_once(word) {
                let numbers = rest.split_whitespace();
                return numbers.map(|number| number.parse().unwrap()).collect();
            }
        }
    }

    /// Its resident memory in bytes.
    fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.unwrap().trim_end_matches("kB").trim();
        kib.parse::<usize>().unwrap() * 1024
    }

    /// Ends it; how many handshakes succeeded, were ended because nothing came, and failed otherwise.
    fn end(mut self) -> Vec<usize> {
        drop(self.input.take());
        let counts = self.wait_for("ended");
        assert!(self.child.wait().unwrap().success());
        counts
    }
}

/// How it went.
struct Transfer {
    /// Bytes a second.
    speed: f64,
    /// Takes that failed and were begun anew.
    again: usize,
}

/// Takes all segments, a few at a time, and again what failed, as agents do.
fn transfer(lab: &Lab) -> Transfer {
    let hashes = pieces(&content());
    let take_one = async |engine: Engine, index: u32, hashes: PieceHashes| {
        for again in 0..=MAX_AGAIN {
            let Err(error) = engine.take(take(index, hashes.clone()), |_| ()).await else {
                return again;
            };
            eprintln!("{error}");
        }
        panic!("segment {index} cannot be taken");
    };
    lab.inside(2, || {
        let engine = Engine::start(security(2)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let began = Instant::now();
        runtime.block_on(async {
            let mut takes = tokio::task::JoinSet::new();
            let mut again = 0;
            for index in 0..SEGMENTS {
                if takes.len() == AT_ONCE {
                    again += takes.join_next().await.unwrap().unwrap();
                }
                takes.spawn(take_one(engine.clone(), index, hashes.clone()));
            }
            again += takes.join_all().await.iter().sum::<usize>();
            let bytes = f64::from(SEGMENTS) * 16.0 * 1024.0 * 1024.0;
            let speed = bytes / began.elapsed().as_secs_f64();
            Transfer { speed, again }
        })
    })
}

fn take(index: u32, pieces: PieceHashes) -> Take {
    Take {
        snapshot: SNAPSHOT.to_owned(),
        index,
        len: SEGMENT as u64,
        piece_bytes: PIECE,
        pieces,
        holder: (address(1), PORT).into(),
        io: Arc::new(Memory(None)),
    }
}

/// Attacks by `attack` in two threads while segments are taken: how that went, and the most memory of the node.
fn attacked(
    lab: &Lab,
    node: &Node,
    attack: impl Fn(usize, &AtomicBool) + Sync,
) -> (Transfer, usize) {
    let done = AtomicBool::new(false);
    let peak = Mutex::new(0);
    let transfer = std::thread::scope(|scope| {
        for number in [0, 1] {
            let (attack, done) = (&attack, &done);
            scope.spawn(move || lab.inside(3, || attack(number, done)));
        }
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let mut peak = peak.lock().unwrap();
                *peak = node.memory().max(*peak);
                drop(peak);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        // A failure must not leave the others running.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| transfer(lab)));
        done.store(true, Ordering::Relaxed);
        ended.unwrap()
    });
    (transfer, peak.into_inner().unwrap())
}

/// Opens connections from 200 addresses, 4,000 a second at most, says nothing, and holds as many as it may.
fn hold_connections(hosts: &[Ipv4Addr], opened: &AtomicUsize, done: &AtomicBool) {
    let mut held = std::collections::VecDeque::new();
    let target: SocketAddr = (address(1), PORT).into();
    for host in hosts.iter().cycle() {
        if done.load(Ordering::Relaxed) {
            break;
        }
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((*host, 0)).into()).unwrap();
        if socket
            .connect_timeout(&target.into(), Duration::from_secs(1))
            .is_ok()
        {
            opened.fetch_add(1, Ordering::Relaxed);
            held.push_back(socket);
        }
        if held.len() > CONNECTIONS / 2 {
            held.pop_front();
        }
        std::thread::sleep(Duration::from_micros(400));
    }
}

/// Sends what looks like announcements: with a wrong signature, with none, and random; 50,000 a second at most.
fn send_datagrams(hosts: &[Ipv4Addr], sent: &AtomicUsize, done: &AtomicBool) {
    let bind = |host: &Ipv4Addr| {
        let socket = UdpSocket::bind((*host, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    };
    let sockets: Vec<UdpSocket> = hosts.iter().map(bind).collect();
    let kinds = [
        super::wrong(2),
        super::unsigned(&super::forged(1)),
        vec![0x55; 1400],
    ];
    // To the node alone: by multicast they would take up the cable to the taker too.
    let target = (address(1), GROUP.port);
    let began = Instant::now();
    for turn in 0_u32.. {
        if done.load(Ordering::Relaxed) {
            break;
        }
        for (socket, datagram) in sockets.iter().zip(kinds.iter().cycle()) {
            let gone = socket.send_to(datagram, target).is_ok();
            sent.fetch_add(usize::from(gone), Ordering::Relaxed);
        }
        // A hundred every 4 ms, in each of two threads.
        let due = began + Duration::from_millis(4) * (turn + 1);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

#[test]
fn an_attacked_node_goes_on_serving_in_bounded_memory() {
    let Some(lab) = Lab::new(3) else { return };
    lab.shape(2, CABLE);
    let hosts: Vec<Ipv4Addr> = (1..=200)
        .map(|last| Ipv4Addr::new(10, 83, 7, last))
        .collect();
    for host in &hosts {
        lab.ip(3, &format!("addr add {host}/32 dev eth0"));
    }
    let node = Node::start(&lab);
    strangers_are_refused(&lab);

    let [opened, sent] = [const { AtomicUsize::new(0) }; 2];
    let quiet = transfer(&lab);
    let memory = node.memory();
    let grown = |peak: usize| peak.saturating_sub(memory);

    let (by_datagrams, peak) = attacked(&lab, &node, |number, done| {
        send_datagrams(&hosts[number * 100..][..100], &sent, done);
    });
    let grown_by_datagrams = grown(peak);
    let (by_connections, peak) = attacked(&lab, &node, |number, done| {
        hold_connections(&hosts[number * 100..][..100], &opened, done);
    });
    let grown_by_connections = grown(peak);
    let quiet = f64::midpoint(quiet.speed, transfer(&lab).speed);
    let counts = node.end();

    let [datagrams, connections] = [&by_datagrams, &by_connections].map(|one| one.speed / quiet);
    let again = [by_datagrams.again, by_connections.again];
    eprintln!(
        "{:.0} MB/s undisturbed; {datagrams:.2} of it and {grown_by_datagrams} bytes of memory beside {} datagrams, {connections:.2} and {grown_by_connections} beside {} silent connections; takes begun anew: {again:?}; handshakes: {} links, {} of nobody, {} others",
        quiet / 1e6,
        sent.load(Ordering::Relaxed),
        opened.load(Ordering::Relaxed),
        counts[0],
        counts[1],
        counts[2],
    );
    assert!(again[0] == 0 && again[1] <= MAX_AGAIN);
    assert!(grown_by_datagrams <= 8 << 20);
    assert!(grown_by_connections <= 20 << 20);
    assert!(opened.load(Ordering::Relaxed) > 1000 && counts[1] > 100);
    // Far less than what is measured on a quiet machine, so that a busy one does not fail.
    assert!(connections > 0.3 && datagrams > 0.3);
}

/// A client of BitTorrent without the secret, and one with a key that is no longer valid, get nothing.
fn strangers_are_refused(lab: &Lab) {
    let holder: SocketAddr = (address(1), PORT).into();
    let hash = metainfo::info_hash(SNAPSHOT, 0, SEGMENT as u64, PIECE, &pieces(&content()));
    let hello = [&b"\x13BitTorrent protocol"[..], &[0; 8], &hash, &[b'x'; 20]].concat();
    let heard = lab.inside(3, || {
        let mut stream = TcpStream::connect(holder).unwrap();
        stream.write_all(&hello).unwrap();
        let mut heard = Vec::new();
        // A reset is an answer too.
        let _ = stream.read_to_end(&mut heard);
        heard
    });
    assert!(heard.is_empty(), "{heard:?}");
    let stolen = lab.inside(3, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(examine(&security(1), holder, PORT))
    });
    assert!(
        matches!(stolen, Err(AskError::Link(LinkError::UnknownKey))),
        "{stolen:?}"
    );
}
