#!/usr/bin/env python3
"""A receiver for callferry's webhook sink: checks the signature, keeps the newest revision of each call in SQLite.

    WEBHOOK_SECRET=whsec_... python3 receiver.py [port] [database]
"""
import base64, gzip, hmac, http.server, json, os, sqlite3, sys, time

SECRET = base64.b64decode(os.environ["WEBHOOK_SECRET"].removeprefix("whsec_"))
PORT, DATABASE = (sys.argv[1:] + ["8080", "calls.db"][len(sys.argv) - 1:])[:2]


def signed(headers, body):
    if abs(time.time() - int(headers.get("webhook-timestamp", 0))) > 300:
        return False
    message = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.digest(SECRET, message, "sha256")).decode()
    return any(hmac.compare_digest(expected, s) for s in headers.get("webhook-signature", "").split())


def store(calls):
    with sqlite3.connect(DATABASE) as db:  # one transaction: all of a batch or none
        db.execute("CREATE TABLE IF NOT EXISTS call (id TEXT PRIMARY KEY, revision INTEGER, merged_into TEXT, doc TEXT)")
        db.executemany(
            "INSERT INTO call VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, "
            "merged_into = excluded.merged_into, doc = excluded.doc WHERE excluded.revision > call.revision",
            [(c["id"], c["revision"], c.get("merged_into"), json.dumps(c)) for c in calls])


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if not signed(self.headers, body):
            return self.send_error(401)
        calls = json.loads(body)
        store(calls if isinstance(calls, list) else [calls])
        self.send_response(204)  # only after the commit
        self.end_headers()


http.server.ThreadingHTTPServer(("127.0.0.1", int(PORT)), Receiver).serve_forever()
