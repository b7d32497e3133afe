"""RLAIF-V round by round: its files, what kills cost, and real records from end to end."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from fake_judge import FakeJudge, body
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sightline.data.load import load_prompts
from sightline.data.schema import append_groups, read_groups, write_groups
from sightline.errors import DataError, NothingToLearn, RecipeError, ServiceError
from sightline.evaluation.results import read_measured
from sightline.loops import common, rlaif_v
from sightline.loops.rlaif_v import RlaifV
from sightline.loops.run import run_loop
from sightline.loops.stages import Round
from sightline.recipes.load import check_spec
from sightline.recipes.load_loop import load_loop
from sightline.recipes.rlaif_v import RlaifVSpec
from sightline.recipes.schema import DataSpec, ModelSpec
from sightline.rewards.claims.feedback import FEEDBACK, feedback_of
from sightline.rewards.claims.held_out import held_out, in_training
from sightline.rollouts.hf import load_engine
from sightline.types import Group, Prompt, Response
from tiny_models import byte_level_tokenizer

FILES = ("samples", "claims", "questions", "verdicts", "scored", "pairs")


FIELDS = {
    "sampling": {"n": 4, "temperature": 1.0, "max_new_tokens": 24, "batch_size": 2},
    "claims": {"by": "sentences"},
    "questions": {"by": "template", "text": "is this true? {claim}"},
    "score": "mean",
    "pairs": {"min_gap": 0.0, "most": 2},
}
"""Without a writer: sentences are claims, and the model itself says which are right."""


def method(**fields):
    return RlaifV(spec=check_spec(RlaifVSpec, "method", name="rlaif_v", **FIELDS | fields))


def prompts(pictures, count=3):
    def asked(n):
        parts = [{"type": "image"}, {"type": "text", "text": f"describe the image in detail {n}"}]
        messages = ({"role": "user", "content": parts},)
        return Group(prompts=(Prompt(id=f"p{n}", messages=messages, images=(pictures[n],)),), source=f"f:{n}")

    return [asked(n) for n in range(count)]


def round_of(folder: Path, model: Path, groups, seed=1):
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "prompts.jsonl").exists():
        write_groups(folder / "prompts.jsonl", groups)
    return Round(
        number=1,
        folder=folder,
        spec=ModelSpec(path=str(model)),
        prompts=folder / "prompts.jsonl",
        seed=seed,
    )


def go(made, round):
    for stage in made.stages(round):
        stage.run()
    return {name: (round.folder / f"{name}.jsonl").read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny, pictures):
    """An unbroken round."""
    round = round_of(tmp_path_factory.mktemp("rlaif_v"), tiny["llava"], prompts(pictures))
    return round, go(method(), round)


def test_every_step_is_a_file_in_which_the_account_of_each_answer_grows(whole):
    round, _ = whole
    groups = {name: list(read_groups(round.folder / f"{name}.jsonl")) for name in FILES}
    told = [FEEDBACK in groups[name][0].prompts[0].facts for name in FILES]
    assert told == [False, True, True, True, True, False]
    engine = load_engine(round.spec)
    assert groups["samples"] == engine.generate(prompts_of(round), method().spec.sampling, seed=round.seed)
    for group in groups["scored"]:
        for response, one in zip(group.responses, feedback_of(group), strict=True):
            if one.error is None:
                told = [claim.yes / (claim.yes + claim.no) for claim in one.claims]
                assert response.reward == pytest.approx(sum(told) / len(told)) and response.rewards["claims"] == len(
                    told
                )
                assert all(claim.question == f"is this true? {claim.text}" for claim in one.claims)
            else:
                assert response.reward is None and response.reward_error == one.error
    for group in groups["pairs"]:
        ends = [(group.responses[edge.winner].reward, group.responses[edge.loser].reward) for edge in group.edges]
        assert 1 <= len(ends) <= 2 and all(winner > loser for winner, loser in ends)
    figures = json.loads((round.folder / "feedback.json").read_text())
    assert figures["answers"] == 12 and figures["scored"] == sum(
        response.reward is not None for group in groups["scored"] for response in group.responses
    )
    lengths = json.loads((round.folder / "lengths.json").read_text())
    assert lengths["kept"] == sum(len(group.edges) for group in groups["pairs"]) <= lengths["pairs"]


def prompts_of(round):
    return list(read_groups(round.prompts))


def test_verdicts_are_the_probabilities_that_the_model_itself_gives(whole):
    round, _ = whole
    engine = load_engine(round.spec)
    for group in read_groups(round.folder / "verdicts.jsonl"):
        for claim in (claim for one in feedback_of(group) if one.error is None for claim in one.claims):
            text = f"{claim.question} Please answer yes or no."
            content = [{"type": "image"}, {"type": "text", "text": text}]
            asked = replace(group.prompts[0], messages=({"role": "user", "content": content},))
            (found,) = engine.first_words([Group(prompts=(asked,))], ("yes", "no"))
            assert (claim.yes, claim.no) == pytest.approx(tuple(found.probabilities.values()), abs=1e-6)


class Killed(BaseException):
    """As a kill is: nothing is tidied up."""


def test_a_round_killed_at_any_piece_of_work_ends_as_an_unbroken_one(tiny, pictures, tmp_path, monkeypatch):
    """Every run gets one piece further, and dies while it writes the next: every second time within a line."""
    for name in ("_LABELLED", "_SCORED"):
        monkeypatch.setattr(rlaif_v, name, 2)
    made = method(sampling=FIELDS["sampling"] | {"batch_size": 1})
    round = round_of(tmp_path / "whole", tiny["llava"], prompts(pictures, 5))
    files = go(made, round)
    broken = replace(round, folder=tmp_path / "broken")
    hit, left = [], 0

    def append(out, groups, *, below):
        nonlocal left
        if left:
            left -= 1
            return append_groups(out, groups)
        hit.append(out.name)
        if len(hit) % 2:
            append_groups(out, groups)
            with out.open("rb+") as file:
                file.truncate(out.stat().st_size - 7)
        raise Killed

    monkeypatch.setattr(common, "append_groups", append)
    for number in range(30):
        left = min(number, 1)
        try:
            found = go(made, broken)
            break
        except Killed:
            continue
    assert found == files and set(hit) == {f"{name}.jsonl" for name in FILES[:-1]} and len(hit) >= 12


def test_stages_name_all_that_they_read_and_what_changes_them(whole, tmp_path):
    round, _ = whole
    made = method(
        claims={"by": "model", "writer": {"model": "local:writer", "template": str(tmp_path / "split.txt")}},
        questions={"by": "model"},
        labeller={"model": "local:labeller", "options": {"dtype": "bfloat16", "batch_size": 2}},
    )
    stages = {stage.name: stage for stage in made.stages(round)}
    assert list(stages) == ["sample", "claims", "questions", "label", "score", "pairs"]
    assert set(stages["sample"].reads) == {round.model, round.prompts}
    assert [stage.name for stage in method(held_out=0.5).stages(round)][:2] == ["hold_out", "sample"]
    assert list(stages["claims"].reads)[1:] == [tmp_path / "split.txt", Path("writer")]
    assert list(stages["questions"].reads)[1:] == [Path("labeller")]  # a writer is the labeller where none is named
    assert stages["label"].settings["options"] == {"dtype": "bfloat16"}  # what changes no reply is left out
    own = {stage.name: stage for stage in method().stages(round)}
    assert round.model in own["label"].reads and own["label"].settings["own"]["dtype"] == "float32"
    assert "batch_size" not in own["sample"].settings["sampling"]
    json.dumps([stage.settings for stage in stages.values()])
    patient = {"model": "openai:m", "options": {"url": "http://h/v1", "timeout": 5}}
    hasty = {"model": "openai:m", "options": {"url": "http://h/v1", "timeout": 9, "workers": 2}}
    told = [
        [stage.settings for stage in method(claims={"by": "model"}, labeller=labeller).stages(round)]
        for labeller in (patient, hasty)
    ]
    assert told[0] == told[1] and told[0][1]["temperature"] == 0.2


def test_a_round_in_which_too_much_failed_stops_and_says_what(whole, tmp_path):
    round, _ = whole
    broken = replace(round, folder=tmp_path)
    made = method(questions={"by": "scenes"})  # sentences of these answers name no shapes
    with pytest.raises(DataError, match=r"scored.jsonl: for \d+ of 12 answers something failed .*names no shape"):
        go(made, broken)
    assert (tmp_path / "verdicts.jsonl").exists() and not (tmp_path / "pairs.jsonl").exists()
    assert json.loads((tmp_path / "feedback.json").read_text())["failed"] > 6


def test_what_could_not_work_is_said_before_the_first_answer(pictures, tmp_path):
    bare = prompts(pictures)[0]
    with pytest.raises(DataError, match="has no picture"):
        method().check([replace(bare, prompts=(replace(bare.prompts[0], images=()),))])
    with pytest.raises(DataError, match="cannot be read"):
        method(claims={"by": "model", "writer": {"template": str(tmp_path / "none")}}).check([bare])
    (tmp_path / "split.txt").write_text("{{answer}} {{facts}}")
    with pytest.raises(DataError, match="the template names facts"):
        method(claims={"by": "model", "writer": {"template": str(tmp_path / "split.txt")}}).check([bare])
    for line, told in (
        (f"local:{tmp_path / 'none'}", "none"),
        ("oracle", "there is no judge 'oracle'"),
        (f"replay:{tmp_path / 'none'}", "cannot be read"),
    ):
        with pytest.raises((DataError, RecipeError), match=told):
            method(labeller={"model": line}).check([bare])
        with pytest.raises((DataError, RecipeError), match=told):
            method(claims={"by": "model", "writer": {"model": line}}).check([bare])
    with pytest.raises(DataError, match="unknown options batch"):
        method(labeller={"model": f"local:{tmp_path}", "options": {"batch": 3}}).check([bare])
    with pytest.raises(DataError, match=r"held_out: 0\.999999 leaves none of 3 prompts to ask"):
        method(held_out=0.999999).check(prompts(pictures))


def test_a_round_by_a_server_that_dies_on_the_way_asks_nothing_twice(pictures, tiny, tmp_path):
    """Writer and labeller are one server: it dies after so many requests, and a second call asks for the rest."""
    made = method(
        claims={"by": "model"},
        questions={"by": "model", "writer": {"attempts": 2}},
        labeller={"model": "openai:m", "options": {"url": "URL", "tries": 1, "workers": 1}},
        score="rejected",
        pairs={"min_gap": 1, "most": 2, "balance": None},
    )
    answered = []

    def reply(number, request):
        if dies and len(answered) >= dies[0]:
            return 503, {}, b"busy", 0
        content = request["messages"][-1]["content"]
        if isinstance(content, list):  # a picture: the labeller is asked
            question = content[-1]["text"]
            yes = 0.9 if len(question) % 3 else 0.05
            told = body("Yes")
            top = [{"token": "Yes", "logprob": math.log(yes)}, {"token": "No", "logprob": math.log(0.95 - yes)}]
            told["choices"][0]["logprobs"] = {"content": [{"token": "Yes", "top_logprobs": top}]}
            key = ("label", question)
        elif "Answer: " in content:
            told = body("".join(f"- claim {word}\n" for word in ascii(content[-8:]).split()) or "- none")
            key = ("split", content)
        else:
            claims = [line for line in content.splitlines() if line.startswith("- claim ")]
            told = body("\n".join(f"{line}?" for line in claims))
            key = ("ask", content)
        answered.append(key)
        return 200, {}, told, 0

    dies = [5]
    with FakeJudge(reply) as server:
        spec = made.spec
        labeller = replace(spec.labeller, options=spec.labeller.options | {"url": server.url})
        made = RlaifV(spec=replace(spec, labeller=labeller))
        round = round_of(tmp_path, tiny["llava"], prompts(pictures))
        with pytest.raises(ServiceError, match=r"m gave no reply to p\d/\d: HTTP 503: busy .*goes on here"):
            go(made, round)
        dies = [30]
        with pytest.raises(ServiceError, match="HTTP 503"):
            go(made, round)
        dies = []
        go(made, round)
    pictures_asked = [key for key in answered if key[0] == "label"]
    assert len(answered) > 30 and pictures_asked
    # the same question about another picture is another request; to texts no request came twice
    assert len({key for key in answered if key[0] != "label"}) == len(answered) - len(pictures_asked)
    asked = [
        (group.id, question)
        for group in read_groups(round.folder / "verdicts.jsonl")
        for question in dict.fromkeys(c.question for one in feedback_of(group) for c in one.claims)
    ]
    assert len(pictures_asked) == len(asked)
    for group in read_groups(round.folder / "scored.jsonl"):
        for response, one in zip(group.responses, feedback_of(group), strict=True):
            wrong = [c for c in one.claims if len(f"{c.question} Please answer yes or no.") % 3 == 0]
            assert response.reward == (-len(wrong) if one.error is None else None)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """A tiny chat model without pictures, of random weights."""
    folder = tmp_path_factory.mktemp("language_model")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level_tokenizer(["<pad>", "<s>", "</s>"]), pad_token="<pad>", eos_token="</s>"
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        eos_token_id=2,
        max_position_embeddings=2048,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("line", ["labeller", "self", "local"])
def test_a_writer_that_writes_rubbish_fails_answers_and_never_scores_them(line, language_model, whole, tmp_path):
    """A chat model on this machine, and the vision-language model without a picture; both of random weights."""
    round, _ = whole
    broken = replace(round, folder=tmp_path)
    model = f"local:{language_model}" if line == "local" else line
    writer = {"model": model, "max_tokens": 8, "attempts": 2, "temperature": 0.5}
    made = method(claims={"by": "model", "writer": writer})
    made.check(prompts_of(round))
    with pytest.raises(DataError, match=r"for \d+ of 12 answers something failed .*not split into claims: the reply"):
        go(made, broken)
    for group in read_groups(tmp_path / "scored.jsonl"):
        assert all(response.reward is None or response.rewards["claims"] > 0 for response in group.responses)


def test_a_language_model_is_refused_as_labeller(language_model, pictures):
    with pytest.raises(RecipeError, match="sees no pictures, expected a vision-language model"):
        method(labeller={"model": f"local:{language_model}"}).check(prompts(pictures))


def test_held_out_pictures_are_on_one_side_alone_whatever_is_beside_them(pictures):
    groups = prompts(pictures, 6)
    asked, out = in_training(groups, 0.5), held_out(groups, 0.5)
    assert {one.id for one in asked} | {one.id for one in out} == {one.id for one in groups} and asked and out
    assert [one.id for one in in_training(groups[:4], 0.5)] == [one.id for one in asked if one in groups[:4]]
    both = replace(groups[0], prompts=(replace(groups[0].prompts[0], images=(*pictures[:6],)),))
    assert in_training([both, *groups], 0.5) == asked and held_out([both, *groups], 0.5) == out
    assert in_training(groups, None) == groups


def test_cut_answers_can_be_left_out_of_comparisons(whole):
    round, _ = whole
    scored = list(read_groups(round.folder / "scored.jsonl"))
    cut = {r.text for group in scored for r in group.responses if r.finish_reason == "length"}
    made = method(pairs={"min_gap": 0.0, "cut_answers": "leave_out"})
    assert cut
    try:
        made._pair(round, round.folder / "scored.jsonl")
    except DataError as error:
        assert "no pair among 3 groups" in str(error)
    else:
        kept = {r.text for group in read_groups(round.pairs) for r in group.responses}
        assert not kept & cut


@pytest.mark.parametrize(
    ("rewards", "kind", "why"),
    [
        ((0.5, 0.5), NothingToLearn, r"\(all rewards of each prompt are equal, or too near each other\)"),
        ((0.5, None), DataError, r"\(to none are there two answers that have a score\)"),
    ],
)
def test_a_round_without_a_pair_has_converged_only_where_scores_were_compared(whole, tmp_path, rewards, kind, why):
    scored = [
        replace(group, responses=tuple(replace(r, reward=s) for r, s in zip(group.responses[:2], rewards, strict=True)))
        for group in read_groups(whole[0].folder / "scored.jsonl")
    ]
    write_groups(tmp_path / "scored.jsonl", scored)
    with pytest.raises(DataError, match=f"no pair among 3 groups {why}") as caught:
        method()._pair(whole[0], tmp_path / "scored.jsonl")
    assert type(caught.value) is kind


@pytest.mark.real
def test_real_questions_about_real_pictures_from_end_to_end(shared_data, tiny, tmp_path):
    """Three of the questions that RLAIF-V's own pipeline is shown with."""
    source = shared_data / "rlaifv_examples" / "detail_questions.jsonl"
    groups = load_prompts(DataSpec(path=str(source), rename={"question": "prompt", "image": "images"}, limit=3))
    made = method()
    made.check(groups)
    round = round_of(tmp_path, tiny["qwen2_5_vl"], groups)
    go(made, round)
    pairs = list(read_groups(round.pairs))
    assert pairs and all(Path(path).is_file() for group in pairs for path in group.prompts[0].images)
    assert {group.id for group in read_groups(round.folder / "verdicts.jsonl")} == {group.id for group in groups}


def test_a_labeller_without_the_words_is_refused_before_it_is_asked(whole, tmp_path, monkeypatch):
    round, _ = whole
    monkeypatch.setattr("sightline.rewards.claims.label.WORDS", ("yesterday", "no"))
    with pytest.raises(RecipeError, match="no token that spells 'yesterday'"):
        go(method(), replace(round, folder=tmp_path))


def test_a_loop_is_trained_and_its_round_chosen_by_claims_of_held_out_questions(tiny, pictures, tmp_path):
    """One round: the exam asks the start and the trained model the questions that the round did not ask."""
    write_groups(tmp_path / "prompts.jsonl", prompts(pictures, 6))
    exam = tmp_path / "exam"
    exam.mkdir()
    (exam / "claims.json").write_text(json.dumps({"prompts": "../prompts.jsonl", "share": 0.5}))
    recipe = tmp_path / "loop.yaml"
    recipe.write_text(
        json.dumps(
            {
                "name": "rlaif_v",
                "output_dir": str(tmp_path / "loop"),
                "rounds": 1,
                "model": {"path": str(tiny["llava"])},
                "prompts": {"path": str(tmp_path / "prompts.jsonl")},
                "method": {"name": "rlaif_v", "held_out": 0.5, **FIELDS},
                "train": {"max_steps": 1, "batch_size": 2, "learning_rate": 1e-3},
                "exam": {
                    "benches": [
                        {
                            "bench": "sightline.rewards.claims.bench:BENCH",
                            "data": str(exam),
                            "selects": True,
                            "max_new_tokens": 16,
                            "options": {
                                "labeller": {"model": f"local:{tiny['llava']}"},
                                "score": "mean",
                                **{name: FIELDS[name] for name in ("claims", "questions")},
                            },
                        }
                    ],
                    "best": "claims/score",
                    "kl_prompts": 0,
                },
            }
        )
    )
    done = run_loop(load_loop(recipe), quiet=True)
    folder = tmp_path / "loop"
    asked = {group.id for group in read_groups(folder / "round-1/samples.jsonl")}
    examined = [
        json.loads(line)["id"] for line in (folder / "round-1/exam/claims/answers.jsonl").read_text().splitlines()
    ]
    assert asked and examined and not asked & set(examined) and len(asked) + len(examined) == 6
    told = [read_measured(folder / f"round-{n}/exam/claims/results.json").result for n in (0, 1)]
    values = [one.metrics["score"] for one in told]
    assert done.value == max(values) and done.best == values.index(max(values)) and min(values) > 0
    assert {"score", "rejected", "claims", "words"} == set(told[0].metrics) and "labeller: local:" in told[0].notes[0]
    assert run_loop(load_loop(recipe), quiet=True).stages == 0
    with pytest.raises(RecipeError, match=r"asks the share 0\.5 .* leave out 0\.4: some questions would be trained on"):
        load_loop(recipe, ["method.held_out=0.4"])
    with pytest.raises(RecipeError, match="sft, which learns from single answers"):
        run_loop(load_loop(recipe, ["algorithm={name: sft}"]), quiet=True)
    labeller = f"exam.benches.0.options={{labeller: {{model: 'local:{tmp_path / 'none'}'}}}}"
    with pytest.raises(RecipeError, match="none"):
        run_loop(load_loop(recipe, [labeller]), quiet=True)
    with pytest.raises(RecipeError, match="another judge in each round"):
        run_loop(load_loop(recipe, ["exam.benches.0.options={labeller: {model: self}}"]), quiet=True)


def test_answers_that_claim_nothing_are_no_failures(tmp_path, whole, pictures):
    round, _ = whole
    group = prompts(pictures)[0]
    answers = tuple(Response(text=text) for text in ("A dog. A cat.", "A dog.", "?!", "..."))
    made, folder = method(), replace(round, folder=tmp_path)
    write_groups(tmp_path / "samples.jsonl", [replace(group, responses=answers)])
    for stage in made.stages(folder)[1:]:
        stage.run()
    figures = json.loads((tmp_path / "feedback.json").read_text())
    assert (figures["scored"], figures["without_claims"], figures["failed"]) == (2, 2, 0)
