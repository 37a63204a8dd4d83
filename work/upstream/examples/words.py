"""Work for Ringback with nothing but Python's standard library.

WORK_SECRET=whsec_… python3 words.py 9000     WORK_URL=http://127.0.0.1:9000/ make run
"""
import base64, hashlib, hmac, json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

if not os.environ.get("WORK_SECRET"):
    sys.exit("Set WORK_SECRET to the secret that Ringback signs with: whsec_ and the base64 of 32 bytes.")
KEYS = [base64.b64decode(secret.strip()[len("whsec_"):]) for secret in os.environ["WORK_SECRET"].split(",")]
done = {}  # by Idempotency-Key; in earnest, a table in which the result commits with what the work changes


def verified(headers, body):
    id, sent, signatures = (headers.get("Webhook-" + name, "") for name in ("Id", "Timestamp", "Signature"))
    if not sent.isdigit() or abs(time.time() - int(sent)) > 300:
        return False
    digests = (hmac.new(key, f"{id}.{sent}.".encode() + body, hashlib.sha256).digest() for key in KEYS)
    wanted = [b"v1," + base64.b64encode(digest) for digest in digests]
    return any(hmac.compare_digest(want, got) for want in wanted for got in signatures.encode().split())


class Words(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections
    wbufsize = -1  # sends head and body as one packet

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not verified(self.headers, body):
            return self.answer(401, {"title": "The signature is missing or wrong."})
        text = json.loads(body).get("text")
        if not isinstance(text, str):
            return self.answer(422, {"title": "No text.", "detail": "text must be a string."})
        key = self.headers["Idempotency-Key"]
        if key not in done:
            done[key] = {"words": len(text.split()), "attempt": int(self.headers["Ringback-Attempt"])}
        self.answer(200, done[key])

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if status == 200 else "application/problem+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 9000), Words)
print(f"http://127.0.0.1:{server.server_port}/", flush=True)
server.serve_forever()
