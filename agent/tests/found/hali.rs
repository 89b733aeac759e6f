//! Machines that speak hali's protocol: one hears an agent and takes a file from it, knowing nothing but the packet; others
//! have a file that neither the hub nor a node gives.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Stdio};

use modelcache_agent::state_file;
use serde_json::Value;

use super::hosts::{Carries, Hosts, Network};
use super::support::giving::has_libtorrent;
use super::support::model::{Model, bytes};
use super::{READY, fill, objects, write_secret, write_settings};

/// The one for which the distribution has libtorrent.
const PYTHON: &str = "/usr/bin/python3";
const SECRET: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// The machine: its own address, the agent's, the secret, where to. It writes JSON anew as hali does to check a signature,
/// prints the agent's packet, takes its file by libtorrent, says that it has it, and announces a seed of its own all the time.
const MACHINE: &str = r"
import base64, hashlib, hmac, json, socket, sys, threading, time
import libtorrent as lt
own, agent, secret, directory = sys.argv[1:]
group, port = '239.192.42.1', 4269

def marshal(packet):
    return json.dumps(packet, ensure_ascii=False, separators=(',', ':')).encode()

def signature(packet):
    mac = hmac.new(bytes.fromhex(secret), marshal(packet), hashlib.sha256)
    return base64.b64encode(mac.digest()).decode()

ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ear.bind(('', port))
ear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + socket.inet_aton(own))
ear.settimeout(50)

def announce():
    models = [{'id': 'a:1b:base:q8_0', 'ih': '77' * 20}]
    while True:
        packet = {'v': '1', 'nid': 'machine', 'ts': int(time.time()), 'p': 7000, 'models': models}
        ear.sendto(marshal(packet | {'sig': signature(packet)}), (group, port))
        time.sleep(0.5)

ear.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
threading.Thread(target=announce, daemon=True).start()
while True:
    heard, (host, _) = ear.recvfrom(65535)
    if host == agent and heard.startswith(b'{'):
        break
packet = json.loads(heard)
signed = packet.pop('sig')
assert hmac.compare_digest(signed, signature(packet)), heard
print(json.dumps(packet), flush=True)

[model] = packet['models']
session = lt.session({
    'listen_interfaces': own + ':0', 'enable_dht': False, 'enable_lsd': False,
    'enable_upnp': False, 'enable_natpmp': False,
})
torrent = lt.parse_magnet_uri('magnet:?xt=urn:btih:%s&xt=urn:btmh:1220%s' % (model['ih'], model['ih2']))
torrent.save_path = directory
handle = session.add_torrent(torrent)
handle.connect_peer((host, packet['p']))
until = time.time() + 50
while not handle.status().is_seeding:
    assert time.time() < until, handle.status().progress
    time.sleep(0.05)
print('taken', flush=True)
sys.stdin.read()
";

/// A machine that seeds a file: its own address, the secret, the file. It makes the torrent as hali does, seeds it, announces it
/// all the time, and prints from which addresses clients come.
const SEEDER: &str = r"
import base64, hashlib, hmac, json, os, socket, sys, time
import libtorrent as lt
own, secret, path = sys.argv[1:]
group, port = '239.192.42.1', 4269
files = lt.file_storage()
lt.add_files(files, path)
creator = lt.create_torrent(files, 2 << 20)
lt.set_piece_hashes(creator, os.path.dirname(path))
info = lt.torrent_info(lt.bdecode(lt.bencode(creator.generate())))
session = lt.session({
    'listen_interfaces': own + ':7000', 'enable_dht': False, 'enable_lsd': False,
    'enable_upnp': False, 'enable_natpmp': False,
})
handle = session.add_torrent({'ti': info, 'save_path': os.path.dirname(path)})

def marshal(packet):
    return json.dumps(packet, ensure_ascii=False, separators=(',', ':')).encode()

mouth = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
hash_v1 = str(info.info_hashes().v1)
models = [{'id': 'm:1b:instruct:q8_0', 'ih': hash_v1, 'repo': 'acme/m', 'rev': 'c' * 40}]
seen, said = set(), 0
while True:
    for peer in handle.get_peer_info():
        if peer.ip[0] not in seen:
            seen.add(peer.ip[0])
            print(peer.ip[0], flush=True)
    if time.time() > said + 0.5 and handle.status().is_seeding:
        packet = {'v': '1', 'nid': 'seeder ' + own, 'ts': int(time.time()), 'p': 7000, 'models': models}
        mac = hmac.new(bytes.fromhex(secret), marshal(packet), hashlib.sha256)
        packet['sig'] = base64.b64encode(mac.digest()).decode()
        mouth.sendto(marshal(packet), (group, port))
        said = time.time()
    time.sleep(0.02)
";

/// Killed when dropped.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_machine_with_hali_hears_of_a_file_and_takes_it() {
    if !has_libtorrent() {
        return;
    }
    let network = Network::Switch(Carries {
        multicast: true,
        broadcast: false,
    });
    let Some(hosts) = Hosts::new(2, network) else {
        return;
    };
    let mut model = Model::default();
    let name = "tiny-1b-instruct.Q8_0.gguf";
    model.add(&format!("gguf/{name}"), bytes(1, (5 << 20) + 7));
    model.add("config.json", bytes(2, 700));
    // Names by which somebody could be given another file than the one that was asked for. They are ready first.
    for (number, other) in [
        "big-7b.q4_k_m-00001-of-00002.gguf",
        "big-7b.q4_k_m-00002-of-00002.gguf",
        "a/big-3b.q4_k_m.gguf",
        "b/big-3b.q4_k_m.gguf",
    ]
    .into_iter()
    .enumerate()
    {
        model.add(other, bytes(10 + number as u64, 1000));
    }
    let directory = tempfile::tempdir().unwrap();
    let settings = directory.path();
    write_settings(settings);
    write_secret(&settings.join("lan.secret"), SECRET);
    let [cache, taken] = ["cache", "taken"].map(|name| settings.join(name));
    fs::create_dir(&cache).unwrap();
    fs::create_dir(&taken).unwrap();
    let file = state_file::path(&cache, "intent.json");
    state_file::save(&file, &objects(&model.snapshot("m"))).unwrap();
    fill(&cache, &model);

    let mut machine = hosts.command(2, PYTHON);
    machine.args(["-c", MACHINE, &network.address(2).to_string()]);
    machine.args([&network.address(1).to_string(), SECRET]);
    machine.arg(&taken).stdin(Stdio::piped());
    let mut machine = Machine(machine.stdout(Stdio::piped()).spawn().unwrap());
    let more = [
        "--plain-port=9493".to_owned(),
        format!("--hali-secret-file={}", settings.display()),
    ];
    let mut agent = hosts.start(1, &cache, settings, &more);
    agent.wait_for(READY);
    let mut said = BufReader::new(machine.0.stdout.take().unwrap()).lines();
    let heard: Value = serde_json::from_str(&said.next().unwrap().unwrap()).unwrap();
    assert_eq!((&heard["v"], &heard["p"]), (&"1".into(), &9493.into()));
    let snapshot = model.snapshot("m");
    let told = &heard["models"][0];
    // After the repository, which is acme/m.
    assert_eq!(told["id"], "m:1b:instruct:q8_0");
    assert_eq!(told["repo"], snapshot.repository);
    assert_eq!(told["rev"], snapshot.commit);
    assert_eq!(said.next().unwrap().unwrap(), "taken");
    let content = fs::read(taken.join(name)).unwrap();
    assert!(content == model.files[&format!("gguf/{name}")]);

    // And the other way round: it is noted, and nobody vouches for it.
    agent.wait_for("modelcache_agent_known_peers{origin=\"hali\",age=\"fresh\",verified=\"no\"} 1");
    let metrics = agent.wait_for("modelcache_agent_plain_files 6");
    let packets = |result| {
        let start = format!("modelcache_agent_hali_packets_total{{result=\"{result}\"}}");
        super::value(&metrics, &start).unwrap()
    };
    assert!(packets("accepted") > 0);
    for result in ["malformed", "missing", "wrong", "stale", "replayed"] {
        assert_eq!(packets(result), 0, "{result}");
    }
    let announcements = "modelcache_agent_announcements_total{result=\"malformed\"}";
    assert_eq!(super::value(&metrics, announcements), Some(0));
}

/// One of two machines lies. An agent without hub asks both, publishes what the honest one gives, and gives it to a second one,
/// which does not listen to such machines.
#[test]
fn what_hub_and_nodes_do_not_give_comes_from_a_machine_with_hali() {
    if !has_libtorrent() {
        return;
    }
    let network = Network::Switch(Carries {
        multicast: true,
        broadcast: false,
    });
    let Some(hosts) = Hosts::new(4, network) else {
        return;
    };
    let name = "tiny-1b-instruct.Q8_0.gguf";
    let content = bytes(1, (5 << 20) + 7);
    let mut model = Model::default();
    model.add(&format!("gguf/{name}"), content.clone());
    let directory = tempfile::tempdir().unwrap();
    let settings = directory.path();
    write_settings(settings);
    write_secret(&settings.join("lan.secret"), SECRET);
    // The liar is asked first, by its address.
    let seeders = [(3, true), (4, false)].map(|(host, lies)| {
        let own = settings.join(format!("seeds-{host}"));
        fs::create_dir(&own).unwrap();
        let mut content = content.clone();
        content[4 << 20] ^= u8::from(lies);
        fs::write(own.join(name), content).unwrap();
        let mut seeder = hosts.command(host, PYTHON);
        seeder.args(["-c", SEEDER, &network.address(host).to_string(), SECRET]);
        seeder.arg(own.join(name)).stdout(Stdio::piped());
        Machine(seeder.spawn().unwrap())
    });
    let start = |host: u8, more: &[String]| {
        let cache = settings.join(format!("cache-{host}"));
        fs::create_dir(&cache).unwrap();
        let file = state_file::path(&cache, "intent.json");
        state_file::save(&file, &objects(&model.snapshot("m"))).unwrap();
        (hosts.start(host, &cache, settings, more), cache)
    };
    let (mut other, other_cache) = start(2, &[]);
    let more = [
        "--plain-port=9493".to_owned(),
        format!("--hali-secret-file={}", settings.display()),
    ];
    let (mut agent, cache) = start(1, &more);
    let metrics = agent.wait_for(READY);
    model.assert_published(&cache, "m");
    let files = |result| format!("modelcache_agent_hali_files_total{{result=\"{result}\"}}");
    for result in ["wrong", "taken"] {
        assert_eq!(super::value(&metrics, &files(result)), Some(1), "{metrics}");
    }
    let from = |metrics: &str, whom| {
        let start = format!("modelcache_agent_{whom}_received_bytes_total");
        super::value(metrics, &start)
    };
    assert_eq!(
        (from(&metrics, "origin"), from(&metrics, "peer")),
        (None, None)
    );

    let metrics = other.wait_for(READY);
    model.assert_published(&other_cache, "m");
    assert_eq!(from(&metrics, "peer"), Some(content.len() as u64));
    assert!(!metrics.contains("modelcache_agent_hali_files_total{"));
    // Only the first one came to them.
    let came = seeders.map(|mut seeder| {
        seeder.0.kill().unwrap();
        let mut said = String::new();
        let mut out = seeder.0.stdout.take().unwrap();
        out.read_to_string(&mut said).unwrap();
        said
    });
    assert_eq!(came, ["10.85.0.1\n", "10.85.0.1\n"]);
}
