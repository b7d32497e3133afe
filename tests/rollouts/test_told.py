"""Answers whose tokens are told of: the numbers are those of transformers' own forward."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from sightline.errors import DivergenceError
from sightline.evaluation.bench import JudgeRequest
from sightline.evaluation.judges.local import LocalBackend
from sightline.evaluation.logprobs import LogprobScorer
from sightline.recipes.csr import SearchSpec
from sightline.recipes.schema import ModelSpec, SamplingSpec
from sightline.rollouts.engine import ToldToken
from sightline.rollouts.hf import load_engine
from sightline.rollouts.sentence_search import SentenceSearch
from sightline.rollouts.text import load_text_engine
from sightline.types import Group, Prompt, Response
from tiny_models import FAMILIES, save_text_model


def asked(text, *images, id="q"):
    parts = [{"type": "image"}] * len(images) + [{"type": "text", "text": text}]
    return Group(prompts=(Prompt(id=id, messages=({"role": "user", "content": parts},), images=tuple(images)),))


def check(told, logprobs, spelled):
    """Of each token [V] log-probabilities."""
    for one, expected in zip(told, logprobs, strict=True):
        best = expected.topk(5)
        assert [text for text, _ in one.likeliest] == [spelled([id]) for id in best.indices.tolist()]
        assert [value for _, value in one.likeliest] == pytest.approx(best.values.tolist(), abs=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_told_of_as_a_plain_forward_rates_them(family, tiny, pictures):
    """Answers of several lengths in one batch that is refilled, drawn at another temperature."""
    engine = load_engine(ModelSpec(path=str(tiny[family])))
    sampling = SamplingSpec(n=1, temperature=0.7, top_p=0.9, max_new_tokens=4, batch_size=2)
    groups = [asked(text, picture, id=text) for text in ("a moon?", "what is in it?") for picture in pictures[:2]]
    told = engine.told(groups, sampling, seed=1, likeliest=5)
    generated = [group.responses[0] for group in engine.generate(groups, sampling, seed=1)]
    assert [response for response, _ in told] == generated
    processor = AutoProcessor.from_pretrained(tiny[family])
    model = AutoModelForImageTextToText.from_pretrained(tiny[family], dtype=torch.float32).eval()
    for group, (response, tokens) in zip(groups, told, strict=True):
        assert [one.logprob for one in tokens] == list(response.rollout_logprobs)
        text = processor.apply_chat_template([dict(m) for m in group.prompts[0].messages], add_generation_prompt=True)
        inputs = processor(
            text=[text],
            images=[Image.open(path).convert("RGB") for path in group.prompts[0].images],
            return_tensors="pt",
        )
        answer = torch.tensor([response.tokens])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], answer], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if "token_type_ids" in inputs or "mm_token_type_ids" in inputs:
            for name in {"token_type_ids", "mm_token_type_ids"} & set(inputs):
                inputs[name] = torch.cat([inputs[name], torch.zeros_like(answer)], dim=1)
        with torch.no_grad():
            logits = model(**inputs).logits[0, -1 - len(response.tokens) : -1]
        check(tokens, logits.log_softmax(-1), processor.tokenizer.decode)


def test_a_judge_that_tells_of_its_tokens_may_say_nothing():
    """Where the answer ends at once, its end is told of; else an empty reply is none."""

    class Ends:
        def read(self, group):
            return (1,)

        def told(self, groups, sampling, *, seed, likeliest):
            return [(self.answer, (ToldToken(text="</s>", logprob=-0.5, likeliest=(("yes", -1.0),)),)) for _ in groups]

        def generate(self, groups, sampling, *, seed):
            return [replace(group, responses=(self.answer,)) for group in groups]

        answer = Response(text="", tokens=(2,), finish_reason="stop")

    found = {}
    requests = [JudgeRequest(id="a", messages=[{"role": "user", "content": "x"}], likeliest=n) for n in (1, None)]
    LocalBackend(Ends, name="m").answer(requests, found.__setitem__)
    assert found[0].reply.text == "" and found[0].tokens[0].likeliest == (("yes", -1.0),)
    assert found[1].reply.text is None and not found[1].tokens


def test_a_language_model_tells_of_its_tokens(tmp_path):
    engine = load_text_engine(ModelSpec(path=str(save_text_model(tmp_path))))
    groups = [asked("is there a moon?", id="a"), asked("a star?", id="b")]
    sampling = SamplingSpec(n=1, temperature=1.0, max_new_tokens=3, batch_size=2)
    told = engine.told(groups, sampling, seed=1, likeliest=5)
    generated = [group.responses[0] for group in engine.generate(groups, sampling, seed=1)]
    assert [response for response, _ in told] == generated
    tokenizer, model = engine.model.tokenizer, engine.model.model
    for group, (response, tokens) in zip(groups, told, strict=True):
        text = f"user: {group.prompts[0].messages[0]['content'][0]['text']} assistant:"
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            logits = model(torch.cat([ids, torch.tensor([response.tokens])], dim=1)).logits[0, ids.shape[1] - 1 : -1]
        check(tokens, logits.log_softmax(-1), tokenizer.decode)
        chosen = logits.log_softmax(-1).gather(1, torch.tensor(response.tokens)[:, None])[:, 0]
        assert [one.logprob for one in tokens] == pytest.approx(chosen.tolist(), abs=2e-5)


@pytest.mark.parametrize("kind", ["pictures", "text"])
def test_a_model_whose_numbers_are_none_is_refused_whatever_it_is_asked(tmp_path, tiny, pictures, kind):
    """Greedily it would take the first token, and drawn one that is not there."""
    if kind == "text":
        engine, group = load_text_engine(ModelSpec(path=str(save_text_model(tmp_path)))), asked("is there a moon?")
        head = engine.model.model.get_output_embeddings()
    else:
        engine, group = load_engine(ModelSpec(path=str(tiny["llava"]))), asked("is there a moon?", pictures[0])
        head = engine.policy.base.get_output_embeddings()
        search = SentenceSearch(engine, SearchSpec(max_new_tokens=3, max_sentences=1))
        scorer = LogprobScorer(engine.policy, engine.renderer)
        answered = replace(group, responses=(Response(text="one two"),))
    head.weight.data[1] = float("nan")
    greedy, drawn = (SamplingSpec(n=1, temperature=at, max_new_tokens=3) for at in (0.0, 1.0))
    ways = [
        lambda: engine.generate([group], greedy, seed=0),
        lambda: engine.generate([group], drawn, seed=0),
        lambda: engine.told([group], drawn, seed=0, likeliest=2),
        lambda: engine.first_words([group], ("yes", "no")),
        *([] if kind == "text" else [lambda: search.grow([group]), lambda: scorer.scores([answered])]),
    ]
    for way in ways:
        with pytest.raises(DivergenceError, match="the model gives nan where log-probabilities were expected"):
            way()
