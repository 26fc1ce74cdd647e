#!/usr/bin/env python3
"""A receiver for callferry's webhook sink: checks the signature, keeps the newest revision of each call in SQLite.

    WEBHOOK_SECRET=whsec_... python3 receiver.py [port] [database] [address]
"""
import base64, gzip, hmac, http.server, json, os, sqlite3, sys, time

SECRET = base64.b64decode(os.environ.get("WEBHOOK_SECRET", "").removeprefix("whsec_"))
PORT, DATABASE, ADDRESS = (sys.argv[1:] + ["8080", "calls.db", "127.0.0.1"][len(sys.argv) - 1:])[:3]
if not SECRET:  # without it every signature could be forged
    sys.exit("receiver.py: WEBHOOK_SECRET is not set; make one: echo whsec_$(openssl rand -base64 32)")


def signed(headers, body):
    sent = headers.get("webhook-timestamp", "")
    if not (sent.isascii() and sent.isdigit() and len(sent) < 20 and abs(time.time() - int(sent)) <= 300):
        return False
    message = f"{headers['webhook-id']}.{sent}.".encode() + body
    expected = b"v1," + base64.b64encode(hmac.digest(SECRET, message, "sha256"))
    return any(hmac.compare_digest(expected, s.encode()) for s in headers.get("webhook-signature", "").split())


def store(calls):
    with sqlite3.connect(DATABASE) as db:  # one transaction: all of a batch or none
        db.execute("CREATE TABLE IF NOT EXISTS call (id TEXT PRIMARY KEY, revision INTEGER, state TEXT, "
                   "merged_into TEXT, doc TEXT)")
        db.executemany(
            "INSERT INTO call VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, "
            "state = excluded.state, merged_into = excluded.merged_into, doc = excluded.doc "
            "WHERE excluded.revision > call.revision",
            [(c["id"], c["revision"], c["state"], c.get("merged_into"), json.dumps(c)) for c in calls])


class Receiver(http.server.BaseHTTPRequestHandler):
    def answer(self, status):
        self.send_response(status)
        self.end_headers()

    def do_HEAD(self):  # `callferry check` looks whether somebody is there
        self.answer(204)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if not signed(self.headers, body):
            return self.answer(401)
        calls = json.loads(body)
        store(calls if isinstance(calls, list) else [calls])
        self.answer(204)  # only after the commit


http.server.ThreadingHTTPServer((ADDRESS, int(PORT)), Receiver).serve_forever()
