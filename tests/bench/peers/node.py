#!/usr/bin/python3
"""libtorrent on one node: `make` writes the torrent of a directory, `run` leeches or seeds it.

`run` adds the torrent paused and goes on when a line comes on standard input; it touches --mark once everything is
there, and ends with its standard input.
"""

import argparse
import pathlib
import sys
import threading
import time

import libtorrent as lt


def make(arguments):
    storage = lt.file_storage()
    directory = pathlib.Path(arguments.directory)
    for path in sorted(directory.glob("*.bin")):
        storage.add_file(f"{directory.name}/{path.name}", path.stat().st_size)
    torrent = lt.create_torrent(storage, piece_size=arguments.piece, flags=lt.create_torrent.v1_only)
    for tracker in arguments.tracker:
        torrent.add_tracker(tracker)
    lt.set_piece_hashes(torrent, str(directory.parent))
    pathlib.Path(arguments.torrent).write_bytes(lt.bencode(torrent.generate()))


def run(arguments):
    session = lt.session({
        "listen_interfaces": "0.0.0.0:6881",
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        # Measured beside programs that speak TCP only.
        "enable_outgoing_utp": False,
        "enable_incoming_utp": False,
        "allow_multiple_connections_per_ip": False,
        "connection_speed": 200,
        "unchoke_slots_limit": 20,
        "max_out_request_queue": 1500,
        "send_buffer_watermark": 4 << 20,
        "send_buffer_watermark_factor": 150,
        "alert_mask": 0,
    })
    added = lt.add_torrent_params()
    added.ti = lt.torrent_info(arguments.torrent)
    added.save_path = arguments.directory
    added.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    if arguments.super:
        added.flags |= lt.torrent_flags.super_seeding
    if arguments.seed:
        added.flags |= lt.torrent_flags.seed_mode
    else:
        added.flags |= lt.torrent_flags.paused
    handle = session.add_torrent(added)
    print("up", flush=True)
    if not sys.stdin.readline():
        return
    handle.resume()
    for peer in arguments.peer:
        handle.connect_peer((peer, 6881))

    def mark():
        while not handle.status().is_seeding:
            time.sleep(0.02)
        pathlib.Path(arguments.mark).touch()

    threading.Thread(target=mark, daemon=True).start()
    sys.stdin.read()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    maker = commands.add_parser("make")
    maker.set_defaults(call=make)
    maker.add_argument("--piece", type=int, default=1 << 20)
    maker.add_argument("--tracker", action="append", default=[])
    runner = commands.add_parser("run")
    runner.set_defaults(call=run)
    runner.add_argument("--seed", action="store_true")
    runner.add_argument("--super", action="store_true")
    runner.add_argument("--mark")
    runner.add_argument("--peer", action="append", default=[])
    for command in (maker, runner):
        command.add_argument("--torrent", required=True)
        command.add_argument("--directory", required=True)
    arguments = parser.parse_args()
    arguments.call(arguments)


main()
