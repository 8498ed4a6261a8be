"""Captioned pairs of Pick-a-Pic's columns and of image paths: loading, counts, errors, checks."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fdpo.diffusion.text_to_image.image_checks import check_images
from fdpo.diffusion.text_to_image.load_pairs import load_captioned_pairs
from fdpo.preferences.pairs import PairingConfig
from fdpo.runs.rows import write_rows


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


def jpg(colour: str) -> bytes:
    file = BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


RED, BLUE = jpg("red"), jpg("blue")


def row(label: Any = 1.0, caption: Any = "a cat", **more: Any) -> dict[str, Any]:
    return {"jpg_0": RED, "jpg_1": BLUE, "label_0": label, "caption": caption, **more}


def parquet(folder: Path, *rows: dict[str, Any]) -> str:
    write_rows(folder / "pick.parquet", rows)
    return str(folder / "pick.parquet")


def test_labels_say_which_side_won(tmp_path: Path) -> None:
    pairs, counts = load_captioned_pairs(parquet(tmp_path, row(1.0), row(0.5), row(0.0, "a dog")))
    assert (pairs.caption(0), pairs.caption(1)) == ("a cat", "a dog")
    assert [pairs.read(i, "chosen") for i in (0, 1)] == [RED, BLUE]
    assert [pairs.read(i, "rejected") for i in (0, 1)] == [BLUE, RED]
    assert pairs.where(1, "chosen").endswith("pick.parquet, row 3, jpg_1")
    assert counts == {"candidates": 3, "ties": 1, "made": 2}
    unlabelled, counts = load_captioned_pairs(parquet(tmp_path, row(1.0), row(0.5)), labelled=False)
    assert len(unlabelled) == 2 and not counts["ties"]
    first, _ = load_captioned_pairs(parquet(tmp_path, *[row()] * 5), limit=2)
    assert len(first) == 2


def test_folders_of_parquet_and_columns_of_images(tmp_path: Path) -> None:
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageColumn

    features = Features(
        jpg_0=ImageColumn(), jpg_1=ImageColumn(), label_0=Value("float64"), caption=Value("string"),
        has_label=Value("bool"),
    )  # fmt: skip
    rows = [
        {**row(), "jpg_0": {"bytes": RED}, "jpg_1": {"bytes": BLUE}, "has_label": labelled}
        for labelled in (True, False)
    ]
    (tmp_path / "data").mkdir()
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "data/part-0.parquet")
    pairs, counts = load_captioned_pairs(str(tmp_path))
    assert pairs.read(0, "chosen") == RED and len(pairs) == 1 and counts["unlabelled"] == 1


def folder(place: Path, *rows: dict[str, Any]) -> str:
    for name, data in (("red.png", RED), ("blue.png", BLUE), ("torn.png", RED[:50])):
        (place / name).write_bytes(data)
    (place / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(place)


def test_rows_of_image_paths(tmp_path: Path) -> None:
    rows = [
        {"caption": "a cat", "chosen": "red.png", "rejected": "blue.png"},
        {"prompt": "a dog", "chosen": "blue.png", "rejected": "red.png"},
        {"prompt": "a dog", "chosen": "blue.png", "rejected": "blue.png"},
    ]
    pairs, counts = load_captioned_pairs(folder(tmp_path, *rows))
    assert [pairs.caption(i) for i in (0, 1)] == ["a cat", "a dog"]
    assert pairs.read(1, "chosen") == BLUE and pairs.read(1, "rejected") == RED
    assert len(pairs) == 2 and counts["equal_texts"] == 1


def test_scored_candidates_become_pairs(tmp_path: Path) -> None:
    names = ["red.png", "blue.png", "torn.png"]
    group = {"caption": "a cat", "completions": names, "scores": [0.1, 0.9, 0.5]}
    pairs, counts = load_captioned_pairs(
        folder(tmp_path, group), pairing=PairingConfig(rule="best_worst")
    )
    assert len(pairs) == 1 and pairs.read(0, "chosen") == BLUE and pairs.read(0, "rejected") == RED
    everything, _ = load_captioned_pairs(folder(tmp_path, group), pairing=PairingConfig(rule="all"))
    assert len(everything) == 3


def test_every_image_is_checked(tmp_path: Path) -> None:
    rows = [row(), row(jpg_1=RED[:50]), row(0.5), row(jpg_0=None)]
    pairs, _ = load_captioned_pairs(parquet(tmp_path, *rows))
    with pytest.raises(
        ValueError, match=r"row 2, jpg_1: cannot be read .*\(and 1 other pairs\); --skip_unreadable"
    ):
        check_images(pairs)
    readable, dropped = check_images(pairs, skip_unreadable=True)
    assert len(readable) == 1 and dropped == 2 and readable.read(0, "chosen") == RED
    torn = {"caption": "a", "chosen": "red.png", "rejected": "torn.png"}
    with pytest.raises(ValueError, match=r"train.jsonl, row 1, torn.png: cannot be read"):
        check_images(load_captioned_pairs(folder(tmp_path, torn))[0])
    with pytest.raises(ValueError, match="no pair is left"):
        check_images(load_captioned_pairs(folder(tmp_path, torn))[0], skip_unreadable=True)


WRONG_TABLES = [
    ([row(0.7)], "pick.parquet, row 1: label_0 is 0.7; allowed are 1 .* 0 .* 0.5"),
    ([row(), row(None)], "row 2: label_0 is None"),
    ([row(), row(caption="  ")], "row 2: the caption is empty"),
    ([row(caption=None)], "row 1: caption must be a text, not null"),
    ([{"jpg_0": RED, "caption": "a", "label_0": 1.0}], "no column jpg_1; found jpg_0, caption"),
    ([{"jpg_0": RED, "jpg_1": BLUE}], "no column label_0, caption; found jpg_0, jpg_1"),
    ([row(0.5)], r"no pair is left \(1 candidates, 1 ties\)"),
]


@pytest.mark.parametrize(("rows", "message"), WRONG_TABLES, ids=lambda v: str(v)[:20])
def test_wrong_tables(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_captioned_pairs(parquet(tmp_path, *rows))
    assert "\n" not in str(caught.value)


PAIR = {"caption": "a", "chosen": "red.png", "rejected": "blue.png"}
WRONG_FOLDERS = [
    ({"caption": "a", "chosen": "red.png"}, "row 2: no column rejected"),
    ({**PAIR, "rejected": None}, "row 2: prompt, chosen and rejected must be"),
    ({**PAIR, "rejected": "no.png"}, "row 2: no.png: no such file"),
    ({**PAIR, "caption": ""}, "row 2: the caption is empty"),
    ({**PAIR, "caption": 3}, "row 2: caption must be a text, not int"),
    ({"chosen": "red.png", "rejected": "blue.png"}, "row 2: no column caption; found chosen"),
]


@pytest.mark.parametrize(("second", "message"), WRONG_FOLDERS, ids=lambda v: str(v)[:30])
def test_wrong_folders(tmp_path: Path, second: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"train.jsonl, {message}"):
        load_captioned_pairs(folder(tmp_path, PAIR, second))


def test_sources_that_do_not_exist(tmp_path: Path) -> None:
    for name, message in [
        ("nowhere.parquet", "no such file"),
        ("nowhere.jsonl", "no such file"),
        ("./nowhere", "neither a folder, nor a Parquet or JSONL file, nor a hub id"),
        ("nobody/no-such-data", "nobody/no-such-data: cannot be loaded"),
        (str(tmp_path), r"neither train.jsonl nor \*.parquet"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_captioned_pairs(name)
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match="torn.parquet: cannot be loaded"):
        load_captioned_pairs(str(tmp_path / "torn.parquet"))
    with pytest.raises(ValueError, match="rule would only rank scored groups"):
        load_captioned_pairs(parquet(tmp_path, row()), pairing=PairingConfig(rule="all"))
