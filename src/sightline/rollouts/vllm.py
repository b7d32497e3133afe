"""Rollouts on servers of vLLM: ``vllm serve``, in environments of their own, over HTTP.

Token ids in, token ids out: a prompt is written by our own template and tokenizer, with one placeholder per picture,
and its pictures go along as the trainer sees them. The server puts the pictures' tokens in and answers with the prompt
as it read it, which must be the trainer's, id by id. Placeholders are banned from answers by a bias of -100. The server
reports log-probabilities of the raw logits (its default, ``--logprobs-mode raw_logprobs``): temperature 1, whole
vocabulary, without that bias, which is what ``Policy`` scores.

An answer's random numbers come from the seed, the id of the prompt and its number, whatever else is in the call. vLLM
computes in batches, though, and sums of a batch depend on its size in their last bits: now and then another token is
drawn in the same place. Restarted on the same servers a run is the same in distribution, and not always in every token.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from typing import Any

from sightline.data.encode import ChatEncoder
from sightline.data.picture import read_picture
from sightline.data.recent import Recent
from sightline.data.render import Renderer
from sightline.errors import EngineError
from sightline.models.policy import Policy
from sightline.recipes.engine import EngineSpec
from sightline.recipes.schema import SamplingSpec
from sightline.rollouts.engine import Progress, check_one_prompt, check_room
from sightline.rollouts.hf import end_ids, longest_row, placeholder_ids
from sightline.rollouts.servers import Lacking, Server, Servers, Unreachable
from sightline.rollouts.vllm_sync import Sync
from sightline.types import Group, Response

NO_LOGPROB = -9999.0
"""What vLLM sends in place of a log-probability that is not finite."""
_PICTURES = 256 * 2**20
"""Bytes of encoded pictures that are kept."""


class VLLMEngine:
    """A ``RolloutEngine`` on one or more servers of vLLM.

    >>> engine = VLLMEngine(policy, renderer, EngineSpec(name="vllm", urls=("http://127.0.0.1:8000",)), sync)
    ... # doctest: +SKIP
    >>> engine.update(0)  # doctest: +SKIP
    >>> engine.generate(groups, SamplingSpec(n=8), seed=0)  # doctest: +SKIP
    """

    def __init__(self, policy: Policy, renderer: Renderer, spec: EngineSpec, sync: Sync) -> None:
        """
        Args:
            policy: tells which ids are banned and which end an answer.
            renderer: writes the prompts as the trainer does.
            spec: where the servers are.
            sync: gives them the policy.
        """
        self.servers = Servers(spec.urls, timeout=spec.timeout, patience=spec.patience)
        self.renderer, self.sync, self.longest = renderer, sync, longest_row(policy)
        self.forbidden = placeholder_ids(policy)
        self.ends = sorted({*end_ids(policy), renderer.encoder.end_id})
        # the server's processor writes what stands around a picture, as the trainer's own does
        self._encoder = ChatEncoder(renderer.processor)
        self._pictures: Recent[str] = Recent(_PICTURES, len)
        self._context: dict[str, int] = {}

    def update(self, version: int) -> None:
        """From now on answers come from the policy as it is at this call, named ``version``. Every rank must call."""
        self.sync.ranks.gather_objects(None)  # no rank still waits for answers of the version before
        self.sync.publish(version)
        # the main process first, which alone sends weights; a server that does not answer gets them when it is back
        if self.sync.ranks.rank == 0:
            self._hold_all()
        self.sync.ranks.gather_objects(None)
        self._hold_all()

    def generate(
        self, groups: Sequence[Group], sampling: SamplingSpec, *, seed: int, on_progress: Progress | None = None
    ) -> list[Group]:
        """See ``RolloutEngine.generate``; ``sampling.batch_size`` prompts are in flight at each server. An answer with
        a banned token or a log-probability that is not finite has ``finish_reason`` ``error``.

        Raises:
            EngineError: a server refuses, or reads a prompt in other tokens than the trainer; or none answers for too
                long.
        """
        asked = [replace(group, responses=(), edges=()) for group in groups]
        answered: dict[int, Group] = {}
        pool = ThreadPoolExecutor(max_workers=sampling.batch_size * len(self.servers.all))
        try:
            futures = {pool.submit(self._answer, group, i, sampling, seed): i for i, group in enumerate(asked)}
            for future in as_completed(futures):
                index = futures[future]
                answered[index] = replace(asked[index], responses=future.result())
                if on_progress is not None:
                    on_progress(len(answered), len(groups))
        finally:
            pool.shutdown(cancel_futures=True)
        return [answered[index] for index in range(len(groups))]

    def read(self, group: Group) -> tuple[int, ...]:
        """See ``ReadEngine.read``."""
        body = self._request(group, SamplingSpec(temperature=0, max_new_tokens=1), 0)
        return tuple(self.servers.ask(lambda server: self._post(server, body, 0))["prompt_token_ids"])

    def close(self) -> None:
        """Servers go on: others may ask them."""

    def _answer(self, group: Group, index: int, sampling: SamplingSpec, seed: int) -> tuple[Response, ...]:
        check_one_prompt(group)
        rendered = self.renderer.render(group)
        check_room(rendered, sampling, self.longest)
        (prompt,) = rendered.prompts
        body = self._request(group, sampling, seed)
        most = len(prompt.tokens) + sampling.max_new_tokens
        reply = self.servers.ask(lambda server: self._post(server, body, most), first=index)
        if tuple(reply["prompt_token_ids"]) != prompt.tokens:
            raise EngineError(differing(group, prompt.tokens, reply["prompt_token_ids"], self.renderer.placeholder))
        choices = sorted(reply["choices"], key=lambda choice: choice["index"])
        copies = sampling.n // len(choices)
        return tuple(self._response(choice) for choice in choices) * copies

    def _request(self, group: Group, sampling: SamplingSpec, seed: int) -> dict[str, Any]:
        prompt = group.prompts[0]
        greedy = sampling.temperature == 0  # such answers are equal: one is made
        digest = hashlib.sha256(f"{seed}/{group.id}".encode()).digest()
        return {
            "token_ids": list(self._encoder.prompt(prompt.messages).ids),
            "content_parts": [{"type": "image_url", "url": self._picture(path)} for path in prompt.images] or None,
            "return_token_ids": True,
            "sampling_params": {
                "n": 1 if greedy else sampling.n,
                "seed": int.from_bytes(digest[:4], "big") >> 1,  # its n-th answer has this and n
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
                "max_tokens": sampling.max_new_tokens,
                "logprobs": 0,
                "stop_token_ids": self.ends,
                "logit_bias": {str(token): -100 for token in self.forbidden},
                "detokenize": False,
            },
        }

    def _picture(self, path: str) -> str:
        return self._pictures.get(path, lambda: data_url(path))

    def _hold_all(self) -> None:
        for number in range(len(self.servers.all)):
            self.servers.ask(self._hold, first=number)

    def _hold(self, server: Server) -> None:
        """Makes sure that the server holds the policy."""
        with server.lock:
            if server.version != self.sync.version:
                self.sync.bring(server)
                self._context[server.url] = server.get("/v1/models")["data"][0]["max_model_len"]
                server.version = self.sync.version

    def _post(self, server: Server, body: dict[str, Any], most: int) -> Any:
        self._hold(server)
        if most > self._context[server.url]:  # it would cut the answer without a word
            raise EngineError(
                f"{server.url} takes {self._context[server.url]} tokens, and a prompt with its longest answer has "
                f"{most}. Start it with a larger --max-model-len, or lower online.sampling.max_new_tokens"
            )
        reply = server.post("/inference/v1/generate", body | {"model": self.sync.model})
        if any(choice["finish_reason"] not in ("stop", "length") for choice in reply["choices"]):
            raise Unreachable(f"{server.url}: the request was aborted")
        if not self.sync.holds(reply):
            raise Lacking(f"{server.url} answered with other weights than it was given")
        return reply

    def _response(self, choice: dict[str, Any]) -> Response:
        tokens = tuple(choice["token_ids"])
        logprobs = tuple(float(one["logprob"]) for one in choice["logprobs"]["content"])
        if not tokens or min(logprobs) <= NO_LOGPROB or set(tokens) & set(self.forbidden):
            return Response(text="", finish_reason="error")
        return Response(
            text=self.renderer.tokenizer.decode(tokens, skip_special_tokens=True).strip(),
            tokens=tokens,
            rollout_logprobs=logprobs,
            finish_reason="stop" if tokens[-1] in self.ends else "length",
            weight_versions=(self.sync.version,) * len(tokens),
        )


def data_url(path: str) -> str:
    """A picture as the trainer sees it, without loss."""
    written = io.BytesIO()
    read_picture(path).save(written, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"


def differing(group: Group, ours: Sequence[int], theirs: Sequence[int], placeholder: int) -> str:
    """Says how an engine reads a prompt otherwise than the trainer."""
    counts = [list(tokens).count(placeholder) for tokens in (ours, theirs)]
    if counts[0] != counts[1]:
        found = f"{counts[1]} tokens of pictures, and the trainer's {counts[0]}"
        remedy = "Give the server the trainer's picture settings (--mm-processor-kwargs, model.image_size)"
    else:
        found = f"{len(theirs)} tokens that are not the trainer's {len(ours)}"
        remedy = "Serve the same model, with the same files of its processor"
    return f"{group.source or group.id}: the engine reads the prompt as {found}. {remedy}"
