import csv
from dataclasses import asdict, replace

import pytest

from experiments.files import write_atomically
from experiments.reporting.report import write_csv
from experiments.store import Evaluation, LayerCount, Result, Store, Trial, settings_name

TRIAL = Trial("fcn", "relu", "digits", "LAP", 4, 0, 100, 50, 60, 1.2e-3)
RESULT = Result(
    TRIAL,
    0.0625,
    None,
    (LayerCount("Dense_0", 100, 6, 10, 2),),
    (
        Evaluation(-1, 0.0, 0.1, 0.02, 0.2),
        Evaluation(0, 0.4, 1.0, 0.5, 1.1),
        Evaluation(50, 0.01, None, 0.03, None),
    ),
    1.5,
)


def test_what_is_stored_comes_back(tmp_path):
    other = replace(RESULT, trial=replace(TRIAL, tau=5), kept=0.1)
    Store(tmp_path).add([RESULT])
    Store(tmp_path).add([other])
    assert Store(tmp_path).names() == {TRIAL.name, other.trial.name}
    assert Store(tmp_path).load() == [RESULT, other]


def test_a_trial_is_stored_once(tmp_path):
    store = Store(tmp_path)
    store.add([RESULT])
    again = replace(RESULT, kept=0.5, evaluations=RESULT.evaluations[:2])
    store.add([again])
    assert store.load() == [again]


def test_names_are_stable():
    assert TRIAL.name == "1ab76aea38f39dcd"
    assert replace(TRIAL, tau=5).name != TRIAL.name


def test_a_new_field_at_its_default_leaves_names_as_they_are():
    old = {"model": "fcn", "tau": 4}
    new = {**old, "decay": 0.0}
    assert settings_name(new, {"decay": 0.0}) == settings_name(old, {})
    assert settings_name({**old, "decay": 0.1}, {"decay": 0.0}) != settings_name(old, {})


def test_csv_holds_settings_and_numbers(tmp_path):
    path = tmp_path / "results.csv"
    write_csv([RESULT], path)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["-1", "0", "50"]
    assert all(row["method"] == "LAP" for row in rows)
    assert float(rows[-1]["test_error"]) == RESULT.retrained.test_error
    assert set(rows[0]) >= set(asdict(TRIAL)) | {"kept", "train_loss", "seconds"}


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "table.md"
    write_atomically(path, b"old")

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr("experiments.files.os.replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
