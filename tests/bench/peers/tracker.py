#!/usr/bin/python3
"""An HTTP tracker (BEP 3, BEP 23) for clients that learn of each other in no other way here."""

import http.server
import socket
import struct
import sys
import urllib.parse

peers = {}


class Tracker(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query, encoding="latin-1")
        own = (self.client_address[0], int(query["port"][0]))
        swarm = peers.setdefault(query["info_hash"][0], set())
        if query.get("event") == ["stopped"]:
            swarm.discard(own)
        else:
            swarm.add(own)
        packed = b"".join(socket.inet_aton(ip) + struct.pack(">H", port) for ip, port in swarm - {own})
        body = b"d8:intervali3e12:min intervali1e5:peers%d:%se" % (len(packed), packed)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Tracker).serve_forever()
