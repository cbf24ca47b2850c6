"""A real HTTP server of the chat completions protocol, on this machine, that misbehaves on demand."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

from truing.models.sampling import choose, noise_stream
from truing.models.types import Sampling


class Server:
    """Answers each request with a text made from its body, unless `script` holds something to do instead.

    Attributes:
        script: callables ``(handler, body) -> None``, each taken by one request.
        requests: bodies, in the order of their arrival.
        headers: of each request.
        most: the highest number of requests that were in flight.
        slow: seconds that an answer takes.
        completions: gives the answer to a request of ``/v1/completions``, or something to do; None where there is none.
    """

    def __init__(self):
        self.script, self.requests, self.headers, self.times = [], [], [], []
        self.most = self.flying = 0
        self.slow = 0.0
        self.completions = None
        self.lock, self.answering = threading.Lock(), threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                return

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.requests.append(body)
                    outer.headers.append({name.lower(): told for name, told in self.headers.items()})
                    outer.times.append(time.monotonic())
                    outer.flying += 1
                    outer.most = max(outer.most, outer.flying)
                    act = outer.script.pop(0) if outer.script else None
                time.sleep(outer.slow)
                # Before the answer, since who asked may ask again as soon as it is there.
                with outer.lock:
                    outer.flying -= 1
                text = self.path == "/v1/completions" and outer.completions is not None
                if self.path != "/v1/chat/completions" and not text:
                    send(404, {"error": {"message": f"no route {self.path}"}})(self, body)
                elif act is not None:
                    act(self, body)
                elif text:
                    with outer.answering:
                        told = outer.completions(body)
                    (told if callable(told) else send(200, told))(self, body)
                elif body.get("stream"):
                    stream(self, body)
                else:
                    send(200, answer(body))(self, body)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"


def text_of(body):
    """What the server says: the last message, in capitals, with the seed where the answer is sampled."""
    said = body["messages"][-1]["content"].upper()
    return f"{said} #{body.get('seed')}" if body.get("temperature") else said


def answer(body, **changes):
    words = [word for message in body["messages"] for word in message["content"].split()]
    choice = {"index": 0, "message": {"role": "assistant", "content": text_of(body)}, "finish_reason": "stop"}
    usage = {"prompt_tokens": len(words), "completion_tokens": len(text_of(body).split()), "total_tokens": 0}
    return {
        "id": "x", "object": "chat.completion", "created": 1, "model": body["model"],
        "choices": [{**choice, **changes}], "usage": usage,
    }  # fmt: skip


def send(status, value, headers=()):
    """Something to do: answer with a status, and JSON or raw bytes."""

    def act(handler, body):
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        for name, told in dict(headers).items():
            handler.send_header(name, told)
        handler.end_headers()
        handler.wfile.write(data)

    return act


def hang_up(first):
    """Something to do: send some bytes, and close the connection."""

    def act(handler, body):
        handler.wfile.write(first)
        handler.close_connection = True

    return act


def stream(handler, body, upto=None, reason="stop"):
    """Answer letter by letter as server-sent events; ``upto`` letters, and then hang up."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Connection", "close")
    handler.end_headers()

    def event(value):
        handler.wfile.write(b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n")

    def chunk(delta, finish=None, **more):
        choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
        return {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}

    event(chunk({"role": "assistant", "content": ""}))
    for letter in text_of(body)[:upto]:
        event(chunk({"content": letter}))
    handler.close_connection = True
    if upto is not None:
        return
    event(chunk({}, reason))
    # The last chunk has the usage and no choices.
    event(chunk({}, usage={"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}) | {"choices": []})
    event(b"[DONE]")


@contextlib.contextmanager
def serving():
    """A server for the time of the block."""
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()


class Continues:
    """What ``/v1/completions`` answers: a local model's continuation of a text, token by token with probabilities.

    Args:
        model: tiny, since every token is a forward pass over the whole text.
        echo: whether it echoes the prompt with log-probabilities; if not, it refuses to.
        form: "classic" log-probabilities, "content" as chat completions have them, or "none".
    """

    def __init__(self, model, echo=True, form="classic"):
        self.model, self.echo, self.form = model, echo, form
        self.scored = {}

    def scores(self, ids):
        """Log-probabilities after each of these tokens; one pass for each prefix, as if nothing was cached."""
        key = tuple(ids)
        if key not in self.scored:
            with torch.inference_mode():
                read = torch.tensor([ids])
                out = self.model.weights(input_ids=read, attention_mask=torch.ones_like(read), use_cache=False)
            self.scored[key] = out.logits[0, -1].float().log_softmax(0)
        return self.scored[key]

    def __call__(self, body):
        tokenizer = self.model.tokenizer
        if body.get("echo") and not self.echo:
            return send(400, {"error": {"message": "echo is not supported"}})
        prompt = list(tokenizer(body["prompt"])["input_ids"])
        sampling = Sampling(
            temperature=body.get("temperature", 1.0), top_p=body.get("top_p", 1.0), seed=body.get("seed", 0)
        )
        ids, told, reason = list(prompt), [], "length"
        for step in range(body["max_tokens"]):
            found = self.scores(ids)
            token = choose(found[None], sampling, [noise_stream(prompt)], step)[0]
            told.append((token, found))
            if token == tokenizer.eos_token_id:
                reason = "stop"
                break
            ids.append(token)
        text = tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if body.get("echo"):
            before = [(token, self.scores(prompt[:at]) if at else None) for at, token in enumerate(prompt)]
            told, text = [*before, *told], body["prompt"] + text
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(ids) - len(prompt) + (reason == "stop")}
        choice = {"index": 0, "text": text, "finish_reason": reason, "logprobs": self.told(told)}
        return {"id": "x", "object": "text_completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}

    def told(self, rows):
        spelled = self.model.tokenizer.decode
        if self.form == "none":
            return None
        if self.form == "content":
            return {
                "content": [
                    {
                        "token": spelled([token]), "logprob": float(found[token]),
                        "top_logprobs": [{"token": spelled([int(found.argmax())]), "logprob": float(found.max())}],
                    }
                    for token, found in rows
                ]
            }  # fmt: skip
        return {
            "tokens": [spelled([token]) for token, _ in rows],
            "token_logprobs": [None if found is None else float(found[token]) for token, found in rows],
            "top_logprobs": [
                None if found is None else {spelled([int(found.argmax())]): float(found.max())} for _, found in rows
            ],
            "text_offset": [0] * len(rows),
        }
