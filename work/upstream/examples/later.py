"""Work for Ringback that takes long: it answers 202 at once and finishes later.

WORK_SECRET=whsec_… python3 later.py 9000     WORK_URL=http://127.0.0.1:9000/ make run
"""
import base64, hashlib, hmac, json, os, sys, threading, time, urllib.error, urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

if not os.environ.get("WORK_SECRET"):
    sys.exit("Set WORK_SECRET to the secret that Ringback signs with: whsec_ and the base64 of 32 bytes.")
KEYS = [base64.b64decode(secret.strip()[len("whsec_"):]) for secret in os.environ["WORK_SECRET"].split(",")]


def verified(headers, body):
    id, sent, signatures = (headers.get("Webhook-" + name, "") for name in ("Id", "Timestamp", "Signature"))
    if not sent.isdigit() or abs(time.time() - int(sent)) > 300:
        return False
    digests = (hmac.new(key, f"{id}.{sent}.".encode() + body, hashlib.sha256).digest() for key in KEYS)
    wanted = [b"v1," + base64.b64encode(digest) for digest in digests]
    return any(hmac.compare_digest(want, got) for want in wanted for got in signatures.encode().split())


def report(url, content):
    """Tells Ringback, and returns whether the work is still wanted."""
    request = urllib.request.Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})
    while True:
        try:
            urllib.request.urlopen(request, timeout=10).close()
            return True
        except urllib.error.HTTPError as refused:  # 410: the attempt was given up
            if refused.code < 500:
                return False
        except OSError:
            pass  # it can't be reached
        time.sleep(1)


def work(url, words):
    for done, word in enumerate(words):  # an hour's work, in earnest
        if not report(url, {"progress": {"done": done, "of": len(words)}}):
            return
    report(url, {"result": {"words": len(words)}})


class Later(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections
    wbufsize = -1  # sends head and body as one packet

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        known = verified(self.headers, body)
        self.send_response(202 if known else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()
        if known:
            threading.Thread(target=work, args=(self.headers["Ringback-Finish"], json.loads(body)["text"].split())).start()


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 9000), Later)
print(f"http://127.0.0.1:{server.server_port}/", flush=True)
server.serve_forever()
