"""Stands in for ``vllm serve`` where there is none: the routes that Sightline calls, with the shapes of answers that a
real server gave (``recorded.json``, written by ``record.py``). For tests alone.

Tokens come from plain transformers, the whole row anew for each of them: nothing of Sightline's engine is used.
"""

from __future__ import annotations

import base64
import copy
import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import sightline.models  # noqa: F401  (makes torchvision importable, so before transformers)

# isort: split

import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from sightline.rollouts.transfer import Group, Manifest, Meeting

RECORDED = json.loads((Path(__file__).parent / "recorded.json").read_text(encoding="utf-8"))


class Refused(Exception):
    """Answered as the real server answered ``RECORDED[name]``."""

    def __init__(self, name: str, *, status: int = 0, **words: str) -> None:
        self.status, body = status or RECORDED[name]["status"], copy.deepcopy(RECORDED[name]["body"])
        for old, new in words.items():
            body["error"]["message"] = body["error"]["message"].replace(old, new)
        self.body = body


class FakeServer:
    """Serves a model folder on a port of its own."""

    def __init__(self, model: Path) -> None:
        self.folder, self.calls = model, list[str]()
        self.processor = AutoProcessor.from_pretrained(model)
        self.broken = ""
        """Fault to show: ``hangs``, ``fails`` (status 500), ``pads`` (a picture of one token too many),
        ``placeholders``."""
        self.mends_after = 0
        """Answers after which it fails no more; 0: it never mends."""
        self._lock = threading.Lock()
        self._http: ThreadingHTTPServer | None = None
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """As after a restart: the model as it is on disk, no adapters."""
        self.model = AutoModelForImageTextToText.from_pretrained(self.folder, dtype=torch.float32).eval()
        self.version, self.paused, self.adapters = "default", False, dict[str, str]()
        self.models = {"tiny": self.model}
        self.group: Group | None = None
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                self.do_POST()

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                try:
                    status, answer = 200, fake.answer(self.path, json.loads(body) if body else {})
                except Refused as refused:
                    status, answer = refused.status, refused.body
                content = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        ThreadingHTTPServer.allow_reuse_address = True
        self._http = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None

    def answer(self, path: str, body: dict):
        route = urlsplit(path).path
        self.calls.append(route)
        if self.broken == "hangs":
            threading.Event().wait(30)
        if route == "/inference/v1/generate":
            if self.broken == "fails":
                self.mends_after -= 1
                self.broken = "fails" if self.mends_after else ""
                raise Refused("no_model", status=500)
            while self.paused:  # as the real one: the request waits
                time.sleep(0.01)
            with self._lock:
                return self.generate(body)
        with torch.no_grad():
            return getattr(self, route.strip("/").replace("/", "_"))(body)

    # --- routes ---

    def v1_models(self, body):
        names = ["tiny", *self.adapters]
        entry = RECORDED["models"]["body"]["data"][0]
        return RECORDED["models"]["body"] | {"data": [entry | {"id": name} for name in names]}

    def v1_load_lora_adapter(self, body):
        if not Path(body["lora_path"]).is_dir():
            raise Refused("adapter_missing")
        self.adapters[body["lora_name"]] = body["lora_path"]
        return RECORDED["adapter_loaded"]["body"]

    def v1_unload_lora_adapter(self, body):
        del self.adapters[body["lora_name"]]
        self.models.pop(body["lora_name"], None)
        return RECORDED["adapter_unloaded"]["body"]

    def weight_info(self, body):
        return {"weight_version": self.version}

    def get_world_size(self, body):
        return RECORDED["world_size"]["body"]

    def pause(self, body):
        self.paused = True
        return RECORDED["pause"]["body"]

    def resume(self, body):
        self.paused = False
        return RECORDED["resume"]["body"]

    def init_weight_transfer_engine(self, body):
        self.group = Group(Meeting(**body["init_info"]), 1, torch.device("cpu"))
        return RECORDED["init"]["body"]

    def start_weight_update(self, body):
        assert self.paused, "vLLM's caches stay stale without a pause"
        return RECORDED["start"]["body"]

    def update_weights(self, body):
        own = dict(self.model.named_parameters())
        for name, tensor in self.group.receive(Manifest(**body["update_info"])):
            own[name.replace(".vision_model.", ".")].copy_(tensor)
        return RECORDED["update"]["body"]

    def finish_weight_update(self, body):
        self.version = body["weight_version"]
        return RECORDED["finish"]["body"]

    @torch.no_grad()
    def generate(self, body):
        params = body["sampling_params"]
        if params["temperature"] == 0 and params["n"] > 1:
            raise Refused("greedy")
        name = body.get("model") or "tiny"
        if name != "tiny" and name not in self.adapters:
            raise Refused("no_model", nosuch=name)
        if name not in self.models:
            self.models[name] = PeftModel.from_pretrained(copy.deepcopy(self.model), self.adapters[name]).eval()
        model = self.models[name]
        pictures, tokens = self._pictures(body.get("content_parts") or [])
        image = self.processor.image_token_id
        prompt: list[int] = []
        spans = []
        for token in body["token_ids"]:
            count = next(tokens) if token == image else 1
            if token == image:
                spans.append({"offset": len(prompt), "length": count})
            prompt += [token] * count
        reply = copy.deepcopy(RECORDED["generate"]["body"])
        shape = reply["choices"][0]
        choices = [self._choice(model, prompt, pictures, params, k, copy.deepcopy(shape)) for k in range(params["n"])]
        return reply | {
            "model": name,
            "prompt_token_ids": prompt + [image] * (self.broken == "pads"),
            "mm_placeholders": {"image": spans} if spans else None,
            "choices": choices,
        }

    def _pictures(self, parts):
        decoded = [Image.open(io.BytesIO(base64.b64decode(part["url"].partition(",")[2]))) for part in parts]
        if not decoded:
            return {}, iter(())
        text = self.processor.image_token * len(decoded)
        made = self.processor(images=decoded, text=text, return_tensors="pt", add_special_tokens=False)
        ids = made.pop("input_ids")
        made.pop("attention_mask")
        each = (ids == self.processor.image_token_id).sum().item() // len(decoded)  # all of one size in these tests
        return made, iter([each] * len(decoded))

    def _choice(self, model, prompt, pictures, params, number, choice):
        generator = torch.Generator().manual_seed(params["seed"] + number)
        tokens, content = [], []
        while len(tokens) < params["max_tokens"]:
            raw = self._logits(model, prompt + tokens, pictures)
            biased = raw.clone()
            for token, bias in params["logit_bias"].items():
                biased[int(token)] += bias
            if params["temperature"] == 0:
                token = int(biased.argmax())
            else:
                token = int(torch.multinomial((biased / params["temperature"]).softmax(-1), 1, generator=generator))
            tokens.append(token)
            content.append({"token_id": token, "logprob": float(raw.log_softmax(-1)[token]), "rank": 1})
            if token in params["stop_token_ids"]:
                break
        ended = tokens[-1] in params["stop_token_ids"]
        return choice | {
            "index": number,
            "token_ids": [*tokens[:-1], self.processor.image_token_id] if self.broken == "placeholders" else tokens,
            "logprobs": {"content": content},
            "finish_reason": "stop" if ended else "length",
            "weight_versions": [{"version": self.version, "start": 0, "end": len(tokens)}],
        }

    def _logits(self, model, tokens, pictures):
        ids = torch.tensor([tokens])
        marks = {"mm_token_type_ids": (ids == self.processor.image_token_id).int()} if pictures else {}
        if "mm_token_type_ids" not in pictures:
            marks = {}
        return model(input_ids=ids, **{**pictures, **marks}).logits[0, -1]
