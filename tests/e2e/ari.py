"""The application of `trunk add --app`: takes the calls Asterisk hands it over ARI's websocket, answers them, says so.

ari.py HOST PORT USER:SECRET APP: one line a call, `StasisStart <args> <channel> <state after the answer>`, until killed.
"""

import base64
import json
import os
import socket
import struct
import sys
import urllib.request

host, port, key, app = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]


def request(method, path):
    call = urllib.request.Request(f"http://{host}:{port}/ari/{path}", method=method)
    call.add_header("Authorization", "Basic " + base64.b64encode(key.encode()).decode())
    with urllib.request.urlopen(call, timeout=5) as answer:
        return answer.read()


def read(stream, n):
    data = b""
    while len(data) < n:
        part = stream.recv(n - len(data))
        if not part:
            sys.exit("the websocket was closed")
        data += part
    return data


def messages(stream):
    """Text messages of a websocket; fragments are joined."""
    text = b""
    while True:
        first, second = read(stream, 2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", read(stream, 2))
        elif length == 127:
            (length,) = struct.unpack("!Q", read(stream, 8))
        payload = read(stream, length)
        if first & 0x0F == 8:
            sys.exit("Asterisk closed the websocket")
        if first & 0x0F in (0, 1):
            text += payload
            if first & 0x80:
                yield json.loads(text)
                text = b""


stream = socket.create_connection((host, port))
nonce = base64.b64encode(os.urandom(16)).decode()
stream.sendall(
    f"GET /ari/events?app={app}&api_key={key} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Key: {nonce}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: ari\r\n\r\n".encode()
)
head = b""
while not head.endswith(b"\r\n\r\n"):
    head += read(stream, 1)
if b" 101 " not in head.split(b"\r\n")[0]:
    sys.exit(head.decode())
print("listening", flush=True)
for event in messages(stream):
    if event["type"] == "StasisStart":
        channel = event["channel"]["id"]
        request("POST", f"channels/{channel}/answer")
        state = json.loads(request("GET", f"channels/{channel}"))["state"]
        print("StasisStart", app, ",".join(event["args"]), channel, state, flush=True)
