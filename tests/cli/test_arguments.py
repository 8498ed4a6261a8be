"""Every way in which a command line or a preset can be wrong, and the line that says so."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
from trl import DPOConfig, ScriptArguments

from fdpo.cli import arguments


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Options:
    """Options of the tests."""

    loss: str = field(default="sigmoid", metadata={"help": "name of the loss"})
    alpha: float | None = field(default=None, metadata={"help": "parameter, no unit"})
    number: float | None = None
    loss_args: dict | None = field(default=None, metadata={"help": "other parameters"})
    kwargs_or_file: dict[str, Any] | str | None = None
    model_name: str | None = None
    batch_size: int = field(default=8, metadata={"help": "pairs, 100%% of them"})
    learning_rate: float = 1e-6
    shuffle: bool = True
    sft: bool = False
    half: bool | None = None
    names: list[str] = field(default_factory=lambda: ["a"])
    weights: list[float] | None = None
    report_to: None | str | list[str] = "none"
    split: Literal["train", "test"] = "train"
    colour: Colour | str = Colour.RED

    def __post_init__(self) -> None:
        if self.batch_size == 13:
            raise ValueError(f"--batch_size: not\n{self.batch_size}")


@dataclass
class Needed:
    path: str


Preset = Callable[[str], str]


@pytest.fixture
def preset(tmp_path: Path) -> Preset:
    def write(text: str) -> str:
        path = tmp_path / "preset.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def parse(*argv: str, **settings: Any) -> Options:
    return arguments.parse([Options], argv, program="train.py", **settings)[0]


def error_of(capsys: pytest.CaptureFixture[str], *argv: str, **settings: Any) -> str:
    """The message of a usage error, of which there is one line, without a traceback."""
    with pytest.raises(SystemExit) as exit_:
        parse(*argv, **settings)
    assert exit_.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("train.py: error: ")
    return err.removeprefix("train.py: error: ").strip()


VALUES = [
    ("loss", "jsd", "jsd"),
    ("loss", "no", "no"),
    ("model_name", "123", "123"),
    ("alpha", "1e-4", 1e-4),
    ("alpha", "-0.5", -0.5),
    ("alpha", "-1e-3", -1e-3),
    ("number", "-inf", -float("inf")),
    ("number", "inf", float("inf")),
    ("batch_size", "16", 16),
    ("shuffle", "false", False),
    ("shuffle", "no", False),
    ("sft", "true", True),
    ("half", "yes", True),
    ("report_to", "wandb", "wandb"),
    ("names", "x", ["x"]),
    ("split", "test", "test"),
    ("colour", "blue", "blue"),
    ("loss_args", '{"t": 0.3}', {"t": 0.3}),
    ("kwargs_or_file", '{"t": true}', {"t": True}),
    ("loss_args", "none", None),
    ("kwargs_or_file", "none", None),
]


@pytest.mark.parametrize(("name", "text", "value"), VALUES)
def test_a_value_is_the_same_in_all_spellings(
    preset: Preset, name: str, text: str, value: object
) -> None:
    dashed = name.replace("_", "-")
    quoted = f"'{text}'" if text.startswith("{") else text
    spellings = [(f"--{name}", text), (f"--{name}={text}",), (f"--{dashed}={text}",)]
    spellings.append((f"--config={preset(f'{name}: {quoted}')}",))
    assert [getattr(parse(*one), name) for one in spellings] == [value] * 4


def test_defaults_are_those_of_the_dataclass() -> None:
    assert parse() == Options()
    assert parse().names is not parse().names


def test_switches() -> None:
    assert parse("--sft").sft and not parse("--no_shuffle").shuffle
    assert not parse("--no-shuffle").shuffle
    assert parse("--half").half is True and parse("--half", "false").half is False


def test_lists() -> None:
    assert parse("--names", "x", "y").names == ["x", "y"]
    assert parse("--weights", "1", "-2.5").weights == [1.0, -2.5]


def test_the_last_of_an_option_wins_and_the_command_line_over_the_preset(preset: Preset) -> None:
    file = preset("alpha: 3")
    assert parse("--alpha", "1", "--alpha", "2").alpha == 2
    assert parse("--alpha", "1", "--config", file).alpha == 1
    assert parse("--config", file, "--alpha=1").alpha == 1


def test_yaml_structures(preset: Preset) -> None:
    text = """
        names: [no, '1', two]
        weights: [1e-4, -2]
        report_to: [wandb, tensorboard]
        loss_args: {t: 0.3, deep: {on: true}}
        kwargs_or_file: {n: 2}
        alpha: null
        model_name:
        loss: 'null'
    """
    got = parse("--config", preset(text))
    assert got.names == ["no", "1", "two"] and got.weights == [1e-4, -2.0]
    assert got.report_to == ["wandb", "tensorboard"]
    assert got.loss_args == {"t": 0.3, "deep": {True: True}} and got.kwargs_or_file == {"n": 2}
    assert (got.alpha, got.model_name, got.loss) == (None, None, "null")


def test_env_of_a_preset(preset: Preset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FDPO_TEST_VARIABLE", "before")
    parse("--config", preset("env: {FDPO_TEST_VARIABLE: 3}"))
    assert os.environ["FDPO_TEST_VARIABLE"] == "3"


def test_a_dictionary_may_be_named_by_its_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text("{}")
    assert parse("--kwargs_or_file", str(file)).kwargs_or_file == str(file)


WRONG_COMMAND_LINES = [
    (["--los", "jsd"], "unknown option --los; did you mean --loss"),
    (["--learning-rat=1"], "unknown option --learning-rat; did you mean --learning_rate"),
    (["--batch", "1"], "unknown option --batch; did you mean --batch_size"),
    (["--zzz"], "unknown option --zzz; --help_all lists all"),
    (["-x"], "unknown option -x"),
    (["stray"], "unexpected argument 'stray'"),
    (["--batch_size", "two"], "--batch_size: invalid int value: 'two'"),
    (["--batch-size=1.5"], "--batch_size: invalid int value: '1.5'"),
    (["--learning_rate", "fast"], "--learning_rate: invalid float value: 'fast'"),
    (["--sft=maybe"], "--sft: .*maybe.*true/false"),
    (["--split", "dev"], "--split: invalid choice: 'dev' .*train.*test"),
    (["--colour", "green"], "--colour: invalid choice: 'green' .*red.*blue"),
    (["--loss"], "--loss: expected one argument"),
    (["--loss_args", "t=0.3"], """--loss_args: a JSON object .*, found 't=0.3'"""),
    (["--loss_args", "[1]"], r"--loss_args: a JSON object .*, found '\[1\]'"),
    (["--kwargs_or_file", "{t: 1"], "--kwargs_or_file: a JSON object .*, found '{t: 1'"),
    (["--kwargs_or_file", "absent.json"], "--kwargs_or_file: a JSON object .*absent.json"),
    (["--batch_size", "13"], "^--batch_size: not 13$"),
    (["--batch_size", "0"], "^--batch_size must be at least 1, got 0$"),
    (["--config"], "--config: expected one argument"),
    (["--config", "absent.yaml"], "--config: there is no file absent.yaml"),
    (["--config=absent.yaml"], "--config: there is no file absent.yaml"),
]


@pytest.mark.parametrize(("argv", "message"), WRONG_COMMAND_LINES)
def test_wrong_command_lines(
    capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert re.search(message, error_of(capsys, *argv))


WRONG_PRESETS = [
    ("loss: jsd\nlos: x", "line 2: unknown option 'los'; did you mean loss"),
    ("learning-rate: 1", "line 1: unknown option 'learning-rate'; did you mean learning_rate"),
    ("\nbatch_size: two", "line 2: batch_size: invalid int value: 'two'"),
    ("batch_size: 1.5", "line 1: batch_size: invalid int value: '1.5'"),
    ("batch_size: true", "line 1: batch_size: invalid int value: 'true'"),
    ("batch_size: [1]", "line 1: batch_size: a value is expected, found a list"),
    ("batch_size:", "line 1: batch_size: a value is expected, found nothing"),
    ("learning_rate: {a: 1}", "line 1: learning_rate: a value is expected, found a mapping"),
    ("sft: maybe", "line 1: sft: .*maybe"),
    ("split: dev", "line 1: split: invalid choice: 'dev' .*train.*test"),
    ("weights: [1, two]", "line 1: weights: invalid float value: 'two'"),
    ("names: [[a]]", "line 1: names: a list of single values .* a list in it"),
    ("loss_args: t", "line 1: loss_args: a JSON object .* found 't'"),
    ("loss_args: [1]", "line 1: loss_args: a value is expected, found a list"),
    ("loss_args: {a: !!python/object:os.x {}}", "line 1: loss_args: the tag .* is not read"),
    ("env: 3", "line 1: env: a mapping is expected, found a value"),
    ("alpha: 1\nalpha: 2", "line 2: alpha is given a second time"),
    ("batch_size: 0", "--batch_size must be at least 1, got 0"),
    ("- loss", r"preset.yaml: lines like 'beta: 0.1' are expected, found a list"),
    ("", r"preset.yaml: lines like .* found nothing"),
    ("loss: jsd\nalpha: [1", "line 2: not valid YAML|line 3: not valid YAML"),
    ("loss: \x00", "preset.yaml: not a text file of YAML"),
]


@pytest.mark.parametrize(("text", "message"), WRONG_PRESETS)
def test_wrong_presets(
    capsys: pytest.CaptureFixture[str], preset: Preset, text: str, message: str
) -> None:
    file = preset(text)
    found = error_of(capsys, "--config", file)
    assert re.search(message, found)
    assert found.startswith(file) or "--batch_size must be at least" in found


def test_binary_preset(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_bytes(b"\xff\xfe\xfa")
    assert "p.yaml: not a text file" in error_of(capsys, f"--config={tmp_path / 'p.yaml'}")


ALIASES = {"model": "model_name", "size": "batch_size"}


def test_aliases(capsys: pytest.CaptureFixture[str], preset: Preset) -> None:
    assert parse("--model", "m", aliases=ALIASES).model_name == "m"
    assert parse("--model=m", "--model_name", "n", aliases=ALIASES).model_name == "n"
    file = preset("model: m\nsize: 3")
    got = parse("--config", file, "--size", "4", aliases=ALIASES)
    assert (got.model_name, got.batch_size) == ("m", 4)
    assert "--size: invalid int" in error_of(capsys, "--size", "x", aliases=ALIASES)
    twice = preset("model: m\nmodel_name: n")
    assert "line 2: model_name is given a second" in error_of(
        capsys, "--config", twice, aliases=ALIASES
    )


RESETS = {"loss": ("alpha", "loss_args")}


def test_an_alpha_does_not_survive_another_loss(preset: Preset) -> None:
    file = preset("loss: alpha\nalpha: 0.3\nloss_args: {t: 1}\nbatch_size: 2")
    kept = parse("--config", file, resets=RESETS)
    assert (kept.loss, kept.alpha, kept.loss_args) == ("alpha", 0.3, {"t": 1})
    other = parse("--config", file, "--loss", "jsd", resets=RESETS)
    assert (other.loss, other.alpha, other.loss_args, other.batch_size) == ("jsd", None, None, 2)
    both = parse("--alpha=0.7", "--config", file, "--loss=alpha", resets=RESETS)
    assert (both.alpha, both.loss_args) == (0.7, None)


@pytest.mark.parametrize("kind", [ValueError, TypeError, ImportError, NotImplementedError])
def test_what_a_dataclass_refuses(
    capsys: pytest.CaptureFixture[str], kind: type[Exception]
) -> None:
    @dataclass
    class Refusing:
        def __post_init__(self) -> None:
            raise kind("this\nneeds bitsandbytes")

    with pytest.raises(SystemExit) as exit_:
        arguments.parse([Refusing], [], program="p")
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "p: error: this needs bitsandbytes\n"


def test_a_needed_option(capsys: pytest.CaptureFixture[str], preset: Preset) -> None:
    with pytest.raises(SystemExit):
        arguments.parse([Needed], [], program="p")
    assert capsys.readouterr().err == "p: error: --path is needed\n"
    file = preset("path: x")
    assert arguments.parse([Needed], ["--config", file], program="p")[0].path == "x"


def test_check_sees_all_dataclasses(capsys: pytest.CaptureFixture[str]) -> None:
    def check(options: Options, needed: Needed) -> None:
        raise ValueError(f"{options.loss} does not go with {needed.path}")

    with pytest.raises(SystemExit):
        arguments.parse([Options, Needed], ["--path", "x"], program="p", check=check)
    assert capsys.readouterr().err == "p: error: sigmoid does not go with x\n"


def test_resolved_is_flat() -> None:
    got = arguments.resolved(parse("--alpha", "2"), Needed("x"))
    assert (got["alpha"], got["path"], got["names"]) == (2.0, "x", ["a"])


COMMON = "dataset_name output_dir beta learning_rate max_steps num_train_epochs seed bf16".split()


@dataclass
class LossConfig:
    """The loss."""

    loss: str = field(default="sigmoid", metadata={"help": "name of the loss"})
    epsilon: float = field(default=0.5, metadata={"help": "share of flipped pairs, 0 to 0.5"})


@dataclass
class TrainerConfig(DPOConfig):
    """Training."""

    beta: float = field(default=0.2, metadata={"help": "strength of the divergence, no unit"})
    tail: float | None = field(default=10.0, metadata={"help": "log-slope of the tail, nats"})


def with_trl(*argv: str) -> tuple[Any, ...]:
    types = [LossConfig, ScriptArguments, TrainerConfig]
    aliases = {"dataset": "dataset_name"}
    return arguments.parse(types, argv, program="t.py", common=COMMON, aliases=aliases)


def test_trl_configuration(preset: Preset, tmp_path: Path) -> None:
    text = """
        dataset: pairs.jsonl
        learning_rate: 1e-4
        lr_scheduler_kwargs: {num_cycles: 2}
        eval_strategy: no
        report_to: none
        bf16: false
        use_cpu: true
        max_length: null
    """
    _, data, training = with_trl(
        "--config", preset(text), '--model_init_kwargs={"a": 1}', f"--output_dir={tmp_path}"
    )
    assert data.dataset_name == "pairs.jsonl" and training.learning_rate == 1e-4
    assert training.lr_scheduler_kwargs == {"num_cycles": 2}
    assert training.eval_strategy == "no" and training.report_to == []
    assert training.max_length is None and training.model_init_kwargs == {"a": 1}


def test_trl_post_init_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        with_trl("--use_cpu", "--bf16=false", "--load_best_model_at_end")
    err = capsys.readouterr().err
    assert exit_.value.code == 2 and err.count("\n") == 1 and "load_best_model_at_end" in err


def test_help_fits_two_screens(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as exit_:
        with_trl("--help", "--unknown")
    assert exit_.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100 and len(lines) <= 15 + 2 * len(COMMON)
    shown = {match[1] for line in lines if (match := re.match(r"  --(\w+)", line))}
    ours = {"loss", "epsilon", "tail"}
    assert shown == {*ours, *COMMON, "dataset"} - {"dataset_name"}
    text = "\n".join(lines)
    assert re.search(r"--tail NUMBER +log-slope of the tail, nats \(10.0\)", text)
    assert re.search(r"--beta NUMBER +strength of the divergence, no unit \(0.2\)", text)
    assert "Training:" in text and "The loss:" in text


def test_help_all_shows_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        with_trl("--help_all")
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    shown = set(re.findall(r"^  --(\w+)", text, re.MULTILINE))
    assert {"tail", "dataset", "adam_beta1", "gradient_checkpointing"} <= shown
    assert len(shown) > 140 and "%%" not in text
