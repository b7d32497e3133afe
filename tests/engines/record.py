"""Writes ``recorded.json``: what a real server of vLLM answers on the routes that Sightline calls.

    make .engines/vllm && PYTHONPATH=src:tests python -m engines.record

Run it after a change of version, and look at the difference.
"""

from __future__ import annotations

import base64
import io
import json
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from PIL import Image

from engines.models import save_served
from engines.serving import serving

OUT = Path(__file__).parent / "recorded.json"


def call(url: str, path: str, body: object = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data=data, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=300) as reply:
            status, content = reply.status, reply.read()
    except urllib.error.HTTPError as error:
        status, content = error.code, error.read()
    try:
        told = json.loads(content)
    except ValueError:
        told = content.decode()
    return {"status": status, "body": told}


def picture() -> str:
    written = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 30, 30)).save(written, "PNG")
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"


def main() -> None:
    from engines.models import tiny_adapter

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = save_served("llava", folder / "llava")
        adapter = tiny_adapter(model, folder / "adapter")
        with serving(model, folder) as server:
            params = {
                "n": 2, "seed": 5, "temperature": 0.7, "top_p": 1.0, "top_k": 0, "max_tokens": 6, "logprobs": 0,
                "stop_token_ids": [2], "logit_bias": {"3": -100}, "detokenize": False,
            }  # fmt: skip
            ask = {
                "token_ids": [1, 54, 52, 3, 13, 60, 61, 62],
                "content_parts": [{"type": "image_url", "url": picture()}],
                "return_token_ids": True,
                "model": None,
                "sampling_params": params,
            }
            generate = "/inference/v1/generate"
            load = {"lora_name": "one", "lora_path": str(adapter)}
            greedy = ask | {"sampling_params": params | {"temperature": 0}}
            found = {
                "models": call(server.url, "/v1/models"),
                "version": call(server.url, "/version"),
                "weight_info": call(server.url, "/weight_info"),
                "world_size": call(server.url, "/get_world_size"),
                "generate": call(server.url, generate, ask),
                "no_model": call(server.url, generate, ask | {"model": "nosuch"}),
                "greedy": call(server.url, generate, greedy),
                "adapter_missing": call(server.url, "/v1/load_lora_adapter", load | {"lora_path": "/nowhere"}),
                "adapter_loaded": call(server.url, "/v1/load_lora_adapter", load),
                "generate_adapter": call(server.url, generate, ask | {"model": "one"}),
                "adapter_unloaded": call(server.url, "/v1/unload_lora_adapter", {"lora_name": "one"}),
                "pause": call(server.url, "/pause?mode=wait", {}),
                "resume": call(server.url, "/resume", {}),
            }
            found |= transferred(server.url, model)
    text = json.dumps(found, indent=1).replace(str(folder), "/models")
    OUT.write_text(text + "\n", encoding="utf-8")


def transferred(url: str, model: Path) -> dict[str, dict]:
    """The answers of a transfer of all weights."""
    import threading
    from dataclasses import asdict

    from engines.models import loaded
    from sightline.models.serving import served_weights
    from sightline.rollouts.transfer import Group, Manifest, Meeting, listen

    policy, _ = loaded(model)
    found: dict[str, dict] = {}
    store = listen(60)
    meeting = Meeting(address="127.0.0.1", port=store.port, size=2, seconds=60)

    def beside(name: str, path: str, body: object) -> threading.Thread:
        thread = threading.Thread(target=lambda: found.update({name: call(url, path, body)}))
        thread.start()
        return thread

    thread = beside("init", "/init_weight_transfer_engine", {"init_info": asdict(meeting)})
    group = Group(meeting, 0, policy.device, listening=store)
    thread.join()
    call(url, "/pause?mode=wait", {})
    found["start"] = call(url, "/start_weight_update", {})
    weights = served_weights(policy)
    thread = beside(
        "update", "/update_weights", {"update_info": asdict(Manifest.of((one.name, one.stored) for one in weights))}
    )
    group.send(one.whole() for one in weights)
    thread.join()
    found["finish"] = call(url, "/finish_weight_update", {"weight_version": "run-1"})
    call(url, "/resume", {})
    group.close()
    return found


if __name__ == "__main__":
    main()
