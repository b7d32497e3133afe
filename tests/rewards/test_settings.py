"""What changes the numbers of a reward, and what it reads."""

from pathlib import Path

from sightline.recipes.load import terms_of
from sightline.rewards.settings import inputs_of, reward_settings


def terms(tmp_path, text):
    (tmp_path / "terms.yaml").write_text(text)
    return terms_of(str(tmp_path / "terms.yaml"))


def test_where_and_how_a_judge_is_reached_changes_nothing(tmp_path):
    one, two, other = (
        reward_settings(terms(tmp_path, f"judge: {{judge: 'openai:m', options: {options}}}"))
        for options in (
            "{url: 'http://a/v1', timeout: 5}",
            "{url: 'http://b/v1', workers: 9, tries: 2}",
            "{model: n}",
        )
    )
    assert one == two != other and one["judge.judge"] == "openai:m"


def test_files_count_by_what_they_hold_and_names_by_themselves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("clip").mkdir()
    Path("own_reward.py").write_text("")
    Path("scenes").mkdir()  # a folder of the name of the built-in reward
    monkeypatch.syspath_prepend(tmp_path)
    files, settings = inputs_of(terms(tmp_path, "clip: {path: clip}\nmine: {kind: function, path: 'own_reward:f'}"))
    assert files == [Path("clip"), tmp_path / "own_reward.py"]
    assert "clip.path" not in settings and settings["mine.path"] == "own_reward:f"
    assert inputs_of(terms(tmp_path, "clip: {path: hub/clip}"))[1]["clip.path"] == "hub/clip"
    assert inputs_of("scenes") == ([], {"name": "scenes"}) and inputs_of("clip") == ([Path("clip")], {})
