//! A machine that speaks hali's protocol hears an agent and takes a file from it, knowing nothing but the packet.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use modelcache_agent::state_file;
use serde_json::Value;

use super::hosts::{Carries, Hosts, Network};
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
    let mut has = Command::new(PYTHON);
    has.args(["-c", "import libtorrent"]);
    if !has.output().is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: {PYTHON} has no libtorrent; install the package python3-libtorrent");
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
