"""Runs against the service at RINGBACK_URL, in local mode."""

import http.server
import json
import os
import queue
import threading
import unittest
import urllib.request

import ringback

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # of local mode


class Receiver:
    """Verifies callbacks and keeps their content."""

    def __enter__(self):
        taken = self.taken = queue.Queue()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                try:
                    taken.put((self.headers["webhook-id"], ringback.verify(SECRET, self.headers, body)))
                    self.send_response(204)
                except ringback.VerificationError as error:
                    taken.put(error)
                    self.send_response(401)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class AgainstTheService(unittest.TestCase):
    client = ringback.Client(os.environ.get("RINGBACK_URL", "http://127.0.0.1:8080"))

    def test_operations_are_those_of_the_document(self):
        with urllib.request.urlopen(self.client.url + "/openapi.json") as answer:
            document = json.load(answer)
        described = {
            operation["operationId"]: (method.upper(), path)
            for path, item in document["paths"].items()
            for method, operation in item.items()
            if operation["tags"] != ["Service"]
        }
        self.assertEqual(described, ringback.OPERATIONS)

    def test_sync_answers_with_the_result(self):
        done = self.client.sync({"text": "hello"})
        self.assertEqual((done["status"], done["result"]["words"]), ("succeeded", 1))
        named = self.client.sync({"text": "hello"}, work=self.client.works()["default"])
        self.assertEqual(named["result"], done["result"])

    def test_key_repeats_the_answer(self):
        first = self.client.sync({"text": "hello"}, idempotency_key="python-once")
        self.assertEqual(self.client.sync({"text": "hello"}, idempotency_key="python-once"), first)

    def test_async_is_followed_until_its_callback_is_delivered(self):
        with Receiver() as receiver:
            accepted = self.client.enqueue({"text": "hello"}, receiver.url, ordering_key="python")
            last = None
            for last in self.client.follow(accepted["id"], every=0.05):
                pass
            self.assertEqual((last["status"], last["callback_state"]), ("succeeded", "delivered"))
            id, callback = receiver.taken.get(timeout=60)
            self.assertEqual(id, "req_" + accepted["id"])
            self.assertEqual((callback["type"], callback["data"]["result"]), ("request.succeeded", last["result"]))
            self.assertIn(accepted["id"], [request["id"] for request in self.client.list(mode="async", limit=1)])

    def test_batch_and_cancel(self):
        answers = self.client.enqueue_batch([
            {"input": {"text": "hello"}, "callback_url": "http://127.0.0.1:9/", "delay": 3600},
            {"input": {"text": ""}, "callback_url": "http://127.0.0.1:9/"},
        ])
        self.assertEqual(answers[1]["problem"]["type"], "/problems/invalid-input")
        cancelled = self.client.cancel(answers[0]["request"]["id"])
        self.assertEqual((cancelled["request"]["status"], cancelled["stopped"]), ("cancelled", ["work", "callback"]))

    def test_mistakes_are_problems(self):
        with self.assertRaises(ringback.Problem) as caught:
            self.client.sync({"text": ""})
        self.assertEqual((caught.exception.status, caught.exception.type), (422, "/problems/invalid-input"))
        self.assertEqual(caught.exception.errors[0]["pointer"], "#/input/text")


class Verify(unittest.TestCase):
    """With the vector that Standard Webhooks publishes."""

    body = b'{"test": 2432232314}'
    headers = {
        "Webhook-Id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "Webhook-Timestamp": "1614265330",
        "Webhook-Signature": "v1,bm9wZQ== v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }

    def verify(self, now=1614265330, secret=SECRET, **changed):
        headers = {**self.headers, **{name.replace("_", "-"): value for name, value in changed.items()}}
        return ringback.verify(secret, headers, self.body, now=now)

    def test_right_signature(self):
        self.assertEqual(self.verify(), {"test": 2432232314})
        self.assertEqual(self.verify(now=1614265630), {"test": 2432232314})

    def test_wrong_ones(self):
        other = "whsec_" + "A" * 32
        for refused in (
            lambda: self.verify(now=1614265631),
            lambda: self.verify(now=1614265029),
            lambda: self.verify(secret=other),
            lambda: self.verify(secret="whsec_?"),
            lambda: self.verify(Webhook_Id="msg_other"),
            lambda: self.verify(Webhook_Timestamp="soon"),
            lambda: self.verify(Webhook_Signature="v1,g0hM9SsE"),
            lambda: self.verify(Webhook_Signature="v1,é"),
            lambda: ringback.verify(SECRET, {}, self.body),
        ):
            self.assertRaises(ringback.VerificationError, refused)


if __name__ == "__main__":
    unittest.main()
