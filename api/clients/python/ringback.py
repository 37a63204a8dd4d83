"""A client of Ringback, with nothing but the standard library.

    client = Client("https://ringback.example.com", key="rbk_…")
    done = client.sync({"text": "hello"})
    accepted = client.enqueue({"text": "hello"}, "https://hooks.example.com/ringback")
    for request in client.follow(accepted["id"]):
        print(request["status"], request.get("callback_state"))

verify checks callbacks. Requests and answers are dictionaries, as
openapi.yaml describes them.
"""

import base64
import binascii
import hashlib
import hmac
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

#: The calls of Client, by the operations of openapi.yaml.
OPERATIONS = {
    "doSync": ("POST", "/sync"),
    "doSyncByName": ("POST", "/sync/{work}"),
    "doAsync": ("POST", "/async"),
    "doAsyncByName": ("POST", "/async/{work}"),
    "doAsyncBatch": ("POST", "/async/batch"),
    "listWorks": ("GET", "/works"),
    "listRequests": ("GET", "/requests"),
    "getRequest": ("GET", "/requests/{id}"),
    "cancelRequest": ("POST", "/requests/{id}/cancel"),
    "redeliverRequest": ("POST", "/requests/{id}/redeliver"),
    "discardRequest": ("POST", "/requests/{id}/discard"),
    "redeliver": ("POST", "/redeliveries"),
    "discard": ("POST", "/discards"),
}


class Problem(Exception):
    """An answer that is not 2xx (RFC 9457)."""

    def __init__(self, status, body, headers):
        self.status = status
        self.type = body.get("type", "about:blank")
        self.title = body.get("title", "")
        self.detail = body.get("detail", "")
        self.errors = body.get("errors", [])
        #: Seconds to wait before trying again, None where the service doesn't say.
        self.retry_after = int(headers["Retry-After"]) if headers.get("Retry-After") else None
        #: The address of the request that failed, None where there is none.
        self.location = headers.get("Location")
        super().__init__(f"{status} {self.type}: {self.detail}")


class Client:
    """Calls one service.

    A call that is refused with 429 or 503, or gets no answer, is tried again up to
    `retries` times, where that is safe: reads, and calls with an Idempotency-Key, which
    sync and enqueue make where they are given none.
    """

    def __init__(self, url, key=None, timeout=70.0, retries=3):
        self.url, self.key, self.timeout, self.retries = url.rstrip("/"), key, timeout, retries

    def sync(self, input, work=None, idempotency_key=None):
        """Does the work and returns the request with its result."""
        return self._work("Sync", {"input": input}, work, idempotency_key)

    def enqueue(self, input, callback_url=None, work=None, idempotency_key=None, wait=None, **fields):
        """Has a request accepted and returns its id, status and time of acceptance.

        With wait (seconds, at most 60), it returns the whole request where the work ends
        in time. fields are the others of POST /async: callback, delay, run_at, expires_in,
        ordering_key.
        """
        body = {"input": input, **fields}
        if callback_url is not None:
            body["callback_url"] = callback_url
        return self._work("Async", body, work, idempotency_key, wait)

    def enqueue_batch(self, requests):
        """Has up to 1,000 requests accepted; returns an answer for each, in order."""
        return self._call("doAsyncBatch", body={"requests": requests})["requests"]

    def works(self):
        """Lists the kinds of work."""
        return self._call("listWorks")

    def get(self, id, wait=None):
        """Returns a whole request, after its work has ended or wait seconds."""
        return self._call("getRequest", {"id": id}, headers=_prefer(wait))

    def list(self, **filter):
        """Yields the requests that match, newest first, from all pages.

        A filter whose name is a word of Python ends in an underscore: from_.
        """
        query = {name.rstrip("_"): value for name, value in filter.items()}
        while True:
            page = self._call("listRequests", query=query)
            yield from page["requests"]
            if "next_cursor" not in page:
                return
            query["cursor"] = page["next_cursor"]

    def follow(self, id, every=1.0):
        """Yields a request each time that it has changed, until its callback has ended."""
        seen = None
        while True:
            request = self.get(id, wait=None if seen is None else 30)
            state = (request["status"], request.get("callback_state"), len(request["attempts"]))
            if state != seen:
                yield request
            seen = state
            if request["status"] != "accepted":
                if request.get("callback_state") not in ("waiting", "pending"):
                    return
                time.sleep(every)

    def cancel(self, id):
        """Stops the steps that have not ended; returns the request and the steps."""
        return self._call("cancelRequest", {"id": id})

    def redeliver(self, id):
        """Sends a callback again that is dead or delivered."""
        return self._call("redeliverRequest", {"id": id})

    def discard(self, id):
        """Gives a dead letter up."""
        return self._call("discardRequest", {"id": id})

    def redeliver_all(self, filter=None, **fields):
        """Sends many callbacks again, a thousand a call; fields: rate, dry_run, cursor."""
        return self._call("redeliver", body={"filter": filter or {}, **fields})

    def discard_all(self, filter, **fields):
        """Gives many dead letters up, a thousand a call; {} picks all; fields: dry_run, cursor."""
        return self._call("discard", body={"filter": filter, **fields})

    def _work(self, mode, body, work, idempotency_key, wait=None):
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4()), **_prefer(wait)}
        if work is None:
            return self._call(f"do{mode}", body=body, headers=headers)
        return self._call(f"do{mode}ByName", {"work": work}, body=body, headers=headers)

    def _call(self, operation, path=None, query=None, body=None, headers=None):
        method, template = OPERATIONS[operation]
        address = template.format(**{name: urllib.parse.quote(str(value), safe="") for name, value in (path or {}).items()})
        if query:
            address += "?" + urllib.parse.urlencode(query)
        headers = dict(headers or {})
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        call = urllib.request.Request(self.url + address, data, headers, method=method)
        left = self.retries if method == "GET" or "Idempotency-Key" in headers else 0
        while True:
            try:
                with urllib.request.urlopen(call, timeout=self.timeout) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                problem = _problem(error)
                if left == 0 or problem.status not in (429, 503):
                    raise problem from None
                delay = problem.retry_after or 1
            except (urllib.error.URLError, ConnectionError):
                if left == 0:
                    raise
                delay = 1
            left -= 1
            time.sleep(delay)


def _prefer(wait):
    return {} if wait is None else {"Prefer": f"wait={wait}"}


def _problem(error):
    with error:
        try:
            body = json.load(error)
        except ValueError:  # a proxy in between answered
            body = {}
    return Problem(error.code, body, error.headers)


class VerificationError(Exception):
    """A callback that is not to be trusted."""


def verify(secret, headers, body, tolerance=300, now=None):
    """Returns the content of a callback, once its signature is right (Standard Webhooks).

    secret is the client's, with whsec_. headers is a mapping of the names, in any letter
    case. body is bytes, as they came. The timestamp may be off by tolerance seconds.
    It raises VerificationError. A receiver also drops a webhook-id that it has seen.
    """
    headers = {name.lower(): value for name, value in headers.items()}
    try:
        id, timestamp, signatures = (headers["webhook-" + name] for name in ("id", "timestamp", "signature"))
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        age = (time.time() if now is None else now) - int(timestamp)
    except KeyError as missing:
        raise VerificationError(f"the header {missing} is missing") from None
    except binascii.Error:
        raise VerificationError("the secret is not base64") from None
    except ValueError:
        raise VerificationError("the timestamp is not a number") from None
    if abs(age) > tolerance:
        raise VerificationError("the timestamp is too far from now")
    signed = f"{id}.{timestamp}.".encode() + body
    want = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    if not any(hmac.compare_digest(want.encode(), got.encode()) for got in signatures.split(" ")):
        raise VerificationError("no signature matches")
    return json.loads(body)
