"""One of the three processes of a model server that repeats what it is told.

part.py controller --port P                            knows which worker has which model
part.py worker --port P --controller URL --model NAME  has the "model"; registers with the controller
part.py api --port P --controller URL                  the OpenAI-like front; asks the controller, then the worker
"""

import argparse
import json
import os
import sys
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

parser = argparse.ArgumentParser()
parser.add_argument("part", choices=["controller", "worker", "api"])
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--controller")
parser.add_argument("--model")
args = parser.parse_args()

workers = {}  # the controller's: model to worker


def ask(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(url, data, timeout=30) as answer:
        return json.load(answer)


def controller(path, body):
    if path == "/register":
        workers[body["model"]] = body["url"]
        return {}
    return {"workers": workers}


def worker(path, body):
    said = body["messages"][-1]["content"]
    return {"text": f"{said}! says {args.model} of replica {os.environ.get('SKYPILOT_SERVE_REPLICA_ID', '?')}"}


def api(path, body):
    known = ask(args.controller + "/workers")["workers"]
    if path == "/v1/models":
        if not known:
            raise RuntimeError("no model is loaded yet")
        return {"object": "list", "data": [{"id": model, "object": "model"} for model in known]}
    model = body.get("model") or next(iter(known))
    text = ask(known[model] + "/generate", body)["text"]
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"object": "chat.completion", "created": int(time.time()), "model": model, "choices": [choice]}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        try:
            status, answer = 200, {"controller": controller, "worker": worker, "api": api}[args.part](self.path, body)
        except Exception as error:
            status, answer = 503, {"error": str(error)}
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET


server = ThreadingHTTPServer((args.host, args.port), Handler)
if args.part == "worker":
    while True:
        try:
            ask(args.controller + "/register", {"model": args.model, "url": f"http://127.0.0.1:{args.port}"})
            break
        except OSError:
            time.sleep(0.05)
    print(f"{args.model} registered with {args.controller}", flush=True)
print(f"{args.part} listens on {args.host}:{args.port}", file=sys.stderr, flush=True)
server.serve_forever()
