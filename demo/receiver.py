#!/usr/bin/env python3
"""Receives webhooks and verifies their Standard Webhooks signature.

Alone it prints its URL, then a line for each delivery. Tests use the class.
"""

import base64
import hashlib
import hmac
import http.server
import json
import threading
import time

# base64 of "millrace-demo-secret-01".
SECRET = "whsec_bWlsbHJhY2UtZGVtby1zZWNyZXQtMDE="
# A delivery that is older is a replay.
TOLERANCE_SECONDS = 300
MAXIMUM_BODY_BYTES = 1 << 20


def verify(secret, headers, body, now=None):
    """Why a delivery is not to be trusted, or None."""
    identifier = headers.get("webhook-id", "")
    timestamp = headers.get("webhook-timestamp", "")
    if not identifier or not timestamp.isdigit():
        return "webhook-id or webhook-timestamp is missing"
    if abs((now or time.time()) - int(timestamp)) > TOLERANCE_SECONDS:
        return f"the timestamp {timestamp} is too far from now"
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{identifier}.{timestamp}.".encode() + body
    wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    for signature in headers.get("webhook-signature", "").split():
        version, _, given = signature.partition(",")
        if version == "v1" and hmac.compare_digest(given, wanted):
            return None
    return "the signature is wrong"


class Receiver:
    """Listens on a free port of this machine while it is entered."""

    def __init__(self, port=0, secret=SECRET, told=None):
        self.secret = secret
        # Deliveries that were accepted: id, build, outcome and the whole message.
        self.deliveries = []
        # Why others were not.
        self.rejected = []
        # The status codes of the next answers, for tests; empty is 204.
        self.answers = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                size = int(self.headers.get("content-length") or 0)
                if size > MAXIMUM_BODY_BYTES:
                    self.send_error(413)
                    return
                body = self.rfile.read(size)
                reason = verify(receiver.secret, self.headers, body)
                if reason:
                    receiver.rejected.append(reason)
                    self.send_error(401, reason)
                    return
                status = receiver.answers.pop(0) if receiver.answers else 204
                if status < 300:
                    message = json.loads(body)
                    data = message["data"]
                    receiver.deliveries.append(
                        {"id": self.headers["webhook-id"], "build": data["id"],
                         "outcome": data["outcome"], "message": message})
                    if told:
                        told(receiver.deliveries[-1])
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def main():
    def told(delivery):
        message = delivery["message"]
        print(
            f"{message['type']}: build {delivery['build']} of {message['data']['project']}"
            f" {delivery['outcome']}; the signature of {delivery['id']} is right", flush=True)

    with Receiver(told=told) as receiver:
        print(receiver.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
