"""The trainer of image models: its loss against formulas, its runs against each other."""

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, mse_loss
from torch.utils.data import default_collate

from fdpo.diffusion import (
    DDPM,
    DiffusionConfig,
    DiffusionTrainer,
    Flow,
    ImagePairs,
    PairDataset,
    PixelUNet,
)
from fdpo.diffusion.dataset import ResumableSampler

MakeTrainer = Callable[..., DiffusionTrainer]


def tiny_model(seed: int = 0) -> PixelUNet:
    torch.manual_seed(seed)
    return PixelUNet(sample_size=8, block_out_channels=(8, 16), norm_num_groups=4)


def tiny_pairs(n: int = 16) -> ImagePairs:
    generator = torch.Generator().manual_seed(7)
    pictures = torch.rand(2 * n, 1, 8, 8, generator=generator) * 2 - 1
    return ImagePairs(pictures, [(i, n + i) for i in range(n)])


@pytest.fixture
def make_trainer(tmp_path: Path) -> MakeTrainer:
    """Makes a trainer of the tiny model; options as keywords, ``flow`` for the other process."""

    def make(flow: bool = False, name: str = "run", **options: object) -> DiffusionTrainer:
        small = {
            "output_dir": str(tmp_path / name),
            "max_train_steps": 4,
            "train_batch_size": 4,
            "lr_warmup_steps": 0,
            "learning_rate": 1e-3,
            "use_cpu": True,
            "reference_cache": "off",
        }
        config = DiffusionConfig(**{**small, **options})  # type: ignore[arg-type]
        # Accelerate keeps one state for a process: a trainer is to be used before the next is made.
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        process = Flow() if flow else DDPM()
        return DiffusionTrainer(tiny_model(), process, tiny_pairs(), config)

    return make


SMALL_STEP = 0.02  # of the weights, where a policy is to differ from its reference


def batch_of(trainer: DiffusionTrainer, n: int = 4) -> dict[str, Any]:
    return default_collate([trainer.drawn[0, index] for index in range(n)])


def moved(trainer: DiffusionTrainer, seed: int = 3) -> None:
    """Takes the policy a step away from the reference."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainer.policy.parameters():
            if parameter.requires_grad:
                parameter += SMALL_STEP * torch.randn(parameter.shape, generator=generator)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(
    a: dict[str, Tensor], b: dict[str, Tensor], rtol: float = 0, atol: float = 0
) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=rtol, atol=atol)


@pytest.mark.parametrize("flow", [False, True], ids=["ddpm", "flow"])
def test_reverse_kl_is_diffusion_dpo_to_the_gradient(make_trainer: MakeTrainer, flow: bool) -> None:
    trainer = make_trainer(flow, kappa=2500.0, beta=1.0, loss="sigmoid")
    moved(trainer)
    batch = batch_of(trainer)
    trainer.compute_loss(batch)[0].backward()
    ours = [p.grad.clone() for p in trainer.policy.parameters() if p.grad is not None]
    trainer.policy.zero_grad()

    def error(model: nn.Module, x: Tensor) -> Tensor:
        times, noise = batch["times"][:, 0], batch["noise"][:, 0]
        x_t = trainer.process.noised(x, noise, times)
        target = trainer.process.target(x, noise, times)
        found = model(x_t, trainer.process.model_times(times)).sample
        return (found - target).square().mean(dim=(1, 2, 3))

    policy = error(trainer.policy, batch["chosen"]) - error(trainer.policy, batch["rejected"])
    assert trainer.reference is not None
    with torch.no_grad():
        base = error(trainer.reference, batch["chosen"]) - error(
            trainer.reference, batch["rejected"]
        )
    published = -logsigmoid(-0.5 * 5000 * (policy - base)).mean()
    assert trainer.compute_loss(batch)[0].item() == pytest.approx(published.item(), rel=1e-4)
    published.backward()
    theirs = [p.grad for p in trainer.policy.parameters() if p.grad is not None]
    rounding = 1e-5 * max(gradient.abs().max().item() for gradient in theirs)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=rounding)


@pytest.mark.parametrize("loss", ["sigmoid", "jsd", "alpha", "chi2_kl"])
def test_swapping_the_sides_negates_the_margin(make_trainer: MakeTrainer, loss: str) -> None:
    alpha = 0.5 if loss == "alpha" else None
    trainer = make_trainer(loss=loss, alpha=alpha, timesteps_per_pair=3)
    moved(trainer)
    batch = batch_of(trainer)
    swapped = {**batch, "chosen": batch["rejected"], "rejected": batch["chosen"]}
    margin = trainer.compute_loss(batch)[1]["rewards/margins"]
    other = trainer.compute_loss(swapped)[1]["rewards/margins"]
    assert margin.abs().min() > 0
    torch.testing.assert_close(other, -margin, rtol=1e-4, atol=1e-6)


def test_both_sides_share_their_draws(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(timesteps_per_pair=3)
    x, times, noise, _ = trainer._stacked_sides(batch_of(trainer))
    assert len(x) == 2 * 4 * 3
    for values in (times, noise):
        first, second = values.chunk(2)
        assert torch.equal(first, second) and len(values.unique(dim=0)) == 12
    assert torch.equal(x[:3], x[:1].expand(3, 1, 8, 8)) and not torch.equal(x[0], x[12])


def test_draws_follow_from_seed_epoch_and_pair_alone(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    pairs = [
        PairDataset(tiny_pairs(), trainer.process, seed=seed)[epoch, index]["noise"]
        for seed, epoch, index in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    ]
    assert torch.equal(trainer.drawn[0, 0]["noise"], pairs[0])
    assert all(not torch.equal(a, b) for i, a in enumerate(pairs) for b in pairs[:i])


def test_an_epoch_gives_every_pair_once_and_goes_on_from_anywhere() -> None:
    order = list(ResumableSampler(5, 12, seed=1))
    assert sorted(order[:5]) == [(0, i) for i in range(5)]
    assert sorted(order[5:10]) == [(1, i) for i in range(5)]
    assert [i for _, i in order[:5]] != [i for _, i in order[5:10]]
    for start in range(12):
        assert list(ResumableSampler(5, 12 - start, start, seed=1)) == order[start:]


def test_the_terms_of_the_loss(make_trainer: MakeTrainer) -> None:
    """Each weight adds its term; a loser's error counts up to its bound."""
    mixed = make_trainer(dpo_weight=0.1, sft_weight=1.0, negative_sft_weight=0.5)
    moved(mixed)
    batch = batch_of(mixed)
    loss, figures = mixed.compute_loss(batch)
    chosen, rejected = figures["errors/chosen"], figures["errors/rejected"]
    bounded = torch.minimum(rejected, 2 * figures["base_errors/rejected"])
    preference = -logsigmoid(figures["rewards/margins"])
    expected = 0.1 * preference + chosen + 0.5 * (chosen - bounded)
    torch.testing.assert_close(figures["loss"], expected, rtol=1e-5, atol=1e-6)
    assert loss.item() == pytest.approx(expected.mean().item(), rel=1e-5)
    imitating = make_trainer(method="sft")
    loss, figures = imitating.compute_loss(batch)
    assert set(figures) == {"loss", "errors/chosen"} and imitating.reference is None
    times, noise = batch["times"][:, 0], batch["noise"][:, 0]
    x_t = imitating.process.noised(batch["chosen"], noise, times)
    assert loss.item() == pytest.approx(mse_loss(imitating.policy(x_t, times).sample, noise).item())


def test_a_bounded_loser_gives_no_gradient(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(method="negative_sft", negative_sft_bound=0.5)
    batch = batch_of(trainer)
    assert (batch["chosen"] != batch["rejected"]).any()
    trainer.compute_loss(batch)[0].backward()
    bounded = [p.grad.clone() for p in trainer.policy.parameters() if p.grad is not None]
    imitating = make_trainer(method="sft")
    imitating.compute_loss(batch)[0].backward()
    alone = [p.grad for p in imitating.policy.parameters() if p.grad is not None]
    for mine, other in zip(bounded, alone, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_the_true_weight_is_that_of_the_path(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(true_weight=True, max_kappa=2000.0)
    moved(trainer)
    batch = batch_of(trainer)
    figures = trainer.compute_loss(batch)[1]
    kappa = (64 * trainer.process.path_weights(batch["times"][:, 0])).clamp(max=2000).float()
    assert kappa.min() < 2000
    expected = -kappa * (figures["errors/chosen"] - figures["base_errors/chosen"])
    torch.testing.assert_close(figures["log_ratios/chosen"], expected, rtol=1e-4, atol=1e-4)


def test_an_untouched_policy_is_its_reference(make_trainer: MakeTrainer) -> None:
    """Log-ratios are 0 bit for bit, and a tie counts half as accurate."""
    for options in ({"rank": 2}, {"rank": 0}, {"mixed_precision": "bf16", "rank": 2}):
        trainer = make_trainer(**options)
        figures = trainer.compute_loss(batch_of(trainer))[1]
        for side in ("chosen", "rejected"):
            assert not figures[f"log_ratios/{side}"].any()
        assert (figures["rewards/accuracies"] == 0.5).all()


def test_a_model_with_dropout_is_refused(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer.policy.register_forward_hook(
        lambda model, inputs, output: setattr(
            output, "sample", nn.functional.dropout(output.sample, 0.1, model.training)
        )
    )
    with pytest.raises(RuntimeError, match="differs from its reference .* dropout"):
        trainer.train()


def test_an_adapter_leaves_its_reference_alone(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(rank=2, loss="jsd")
    base = tiny_model().requires_grad_(False)  # as what lies under an adapter
    trainer.train()
    batch = batch_of(trainer)
    x_t, times = batch["noise"][:, 0], batch["times"][:, 0]
    with torch.no_grad():
        reference = trainer._reference(x_t, times, None)
        expected = base(x_t, times).sample
        policy = trainer.policy(x_t, times).sample
        merged = trainer.merged()(x_t, times).sample
    assert torch.equal(reference, expected) and not torch.equal(policy, expected)
    torch.testing.assert_close(merged, policy, rtol=1e-4, atol=1e-5)
    assert type(trainer.merged()) is type(base)


@pytest.mark.parametrize("rank", [0, 2])
def test_accumulated_batches_are_one_large_batch(make_trainer: MakeTrainer, rank: int) -> None:
    # Large, so that Adam does not turn the rounding of gradients that are 0 into steps.
    options = {"rank": rank, "adam_epsilon": 1e-3}
    torch.manual_seed(0)
    large = make_trainer(train_batch_size=8, name="a", **options)
    large.train()
    torch.manual_seed(0)
    parts = make_trainer(train_batch_size=2, gradient_accumulation_steps=4, name="b", **options)
    parts.train()
    assert_same(weights(large.policy), weights(parts.policy), rtol=1e-3, atol=2e-5)
    for one, other in zip(large.log, parts.log, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


@pytest.mark.parametrize("options", [{}, {"rank": 2}, {"use_ema": True}], ids=str)
def test_a_resumed_run_ends_with_the_same_weights(
    make_trainer: MakeTrainer, tmp_path: Path, options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    whole = make_trainer(name="whole", max_train_steps=6, logging_steps=1, **options)
    whole.train()
    torch.manual_seed(0)
    first = make_trainer(
        name="parted", max_train_steps=6, logging_steps=1, checkpointing_steps=3, **options
    )
    first.config.max_train_steps = 4  # as if it had been stopped after the fourth update
    first.train()
    again = make_trainer(name="parted", max_train_steps=6, logging_steps=1, **options)
    again.train(tmp_path / "parted/checkpoint-3")
    assert_same(weights(whole.finished()), weights(again.finished()))
    assert [row["loss"] for row in whole.log] == [row["loss"] for row in again.log]
    assert [row["step"] for row in again.log] == [1, 2, 3, 4, 5, 6]
    lines = (tmp_path / "parted/log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def reference_runs(trainer: DiffusionTrainer) -> tuple[list[float], int]:
    """Trains; returns the losses of all updates and how many batches met the reference."""
    runs, run = [], trainer._reference

    def counted(*inputs: Any) -> Tensor:
        runs.append(1)
        return run(*inputs)

    trainer._reference = counted  # type: ignore[method-assign]
    trainer.train()
    return [row["loss"] for row in trainer.log], len(runs) - 1  # less the look before the start


@pytest.mark.parametrize("rank", [0, 2])
def test_the_reference_is_run_once_for_the_same_draws(
    make_trainer: MakeTrainer, tmp_path: Path, rank: int
) -> None:
    """Over repeated draws, and over the cells of a sweep; the losses are those without a cache."""
    options: dict[str, Any] = {
        "rank": rank, "lora_target_modules": ["conv1"], "logging_steps": 1, "max_train_steps": 8,
        "repeat_draws": 1, "reference_cache": str(tmp_path / "cache"), "timesteps_per_pair": 2,
    }  # fmt: skip
    _, runs = reference_runs(make_trainer(**options))
    assert runs == 4  # of two epochs of 16 pairs in batches of 4
    for other in ({"loss": "jsd", "beta": 3.0}, {"kappa": 50.0}, {"learning_rate": 3e-3}):
        kept, runs = reference_runs(make_trainer(**{**options, **other}))
        plain, _ = reference_runs(make_trainer(**{**options, **other, "reference_cache": "off"}))
        assert runs == 0 and kept == pytest.approx(plain, rel=1e-4)
    for changed in ({"seed": 1}, {"flow": True}, {"mixed_precision": "bf16"}):
        assert reference_runs(make_trainer(**{**options, **changed}))[1] == 4


def test_draws_repeat_where_that_is_asked_for(make_trainer: MakeTrainer) -> None:
    drawn = make_trainer(repeat_draws=2, reference_cache=None).drawn
    assert torch.equal(drawn[0, 3]["noise"], drawn[2, 3]["noise"])
    assert torch.equal(drawn[1, 3]["keys"]["chosen"], drawn[3, 3]["keys"]["chosen"])
    assert not torch.equal(drawn[0, 3]["noise"], drawn[1, 3]["noise"])


def test_the_moving_average_is_what_comes_out(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(use_ema=True, ema_decay=0.5, max_train_steps=1)
    trainer.train()
    plain = weights(trainer.policy)
    assert trainer.ema is not None
    shadow = [p.clone() for p in trainer.ema.shadow_params]
    kept = list(trainer.finished().parameters())
    for value, parameter in zip(shadow, kept, strict=True):
        assert torch.equal(value, parameter)
    assert plain.keys() == weights(trainer.policy).keys()


def test_validation_sees_the_finished_model_and_leaves_training_alone(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    """The same weights come out whether anybody looks or not, the moving average's included."""
    options = {"use_ema": True, "ema_decay": 0.5, "logging_steps": 4}
    unseen = make_trainer(name="unseen", **options)
    unseen.train()
    seen: list[Tensor] = []

    def validate(model: nn.Module) -> dict[str, float]:
        assert not model.training
        torch.randn(5)
        seen.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
        return {"share": len(seen) / 4}

    trainer = make_trainer(name="seen", validation_steps=2, **options)
    trainer.train(validate=validate)
    weights = nn.utils.parameters_to_vector(trainer.finished().parameters())
    assert torch.equal(
        weights, nn.utils.parameters_to_vector(unseen.finished().parameters())
    ) and torch.equal(weights, seen[1])
    rows = [json.loads(line) for line in (tmp_path / "seen/log.jsonl").open()]
    assert [(r["step"], r["validation/share"]) for r in rows if "validation/share" in r] == [
        (2, 0.25), (4, 0.5),
    ]  # fmt: skip


def test_trackers_get_the_log(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    trainer = make_trainer(report_to="wandb,tensorboard", logging_steps=2, validation_steps=4)
    trainer.train(validate=lambda model: {"share": 0.5})
    trainer.accelerator.end_training()
    wandb.teardown()  # which would keep the folder for the tests to come
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    events = EventAccumulator(str(tmp_path / "run/fdpo"))
    events.Reload()
    steps = {name: [e.step for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert steps["log_ratios/chosen"] == [2, 4] and steps["validation/share"] == [4]
    values = [event.value for event in events.Scalars("errors/rejected")]
    logged = [row["errors/rejected"] for row in trainer.log if "errors/rejected" in row]
    assert values == pytest.approx(logged, rel=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    pairs: Any = trainer.drawn.pairs
    pairs.pictures[pairs.pairs[5][0]] = float("nan")
    with pytest.raises(FloatingPointError, match=r"step \d+: the loss of pair 5 is nan"):
        trainer.train()


def test_a_step_with_any_loss_moves_the_sides_apart(make_trainer: MakeTrainer) -> None:
    for loss in ("sigmoid", "hinge", "jsd", "fkl", "jeffreys", "0.5*js+0.5*reverse_kl"):
        trainer = make_trainer(loss=loss, train_batch_size=16, max_train_steps=8)
        trainer.train()
        batch = batch_of(trainer, 16)
        assert trainer.compute_loss(batch)[1]["rewards/margins"].mean() > 0, loss
        assert set(trainer.quantiles()) == {
            f"log_ratio_{side}_q{q}" for side in ("chosen", "rejected") for q in ("05", "50", "95")
        }


WRONG = [
    ({"kappa": 0.0}, "--kappa must be finite and above 0, got 0"),
    ({"kappa": -1.0}, "--kappa must be finite and above 0"),
    ({"kappa": 1.0, "true_weight": True}, "--kappa has no effect with --true_weight"),
    ({"beta": 0.0}, "--beta must be a finite number above 0"),
    ({"timesteps_per_pair": 0}, "--timesteps_per_pair must be finite and above 0"),
    ({"dpo_weight": 0.0}, "not all 0"),
    ({"sft_weight": -1.0}, "must be finite, at least 0"),
    ({"loss": "kl"}, "no loss 'kl'"),
    ({"loser_gradient": 2.0}, r"--loser_gradient must lie in \[0, 1\]"),
    ({"ema_decay": 1.0}, r"--ema_decay must lie in \[0, 1\)"),
    ({"rank": -1}, "--rank must be at least 0"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=lambda value: str(value)[:30])
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffusionConfig(**options)


def test_layers_that_are_not_there(make_trainer: MakeTrainer) -> None:
    with pytest.raises(ValueError, match="--lora_target_modules: .*nowhere"):
        make_trainer(rank=2, lora_target_modules=["nowhere"])


SCRIPT = """
import json, os, signal, sys, torch
from fdpo.diffusion import DDPM, DiffusionConfig, DiffusionTrainer, ImagePairs, PixelUNet
{functions}
folder, size = sys.argv[1], int(sys.argv[2])
config = DiffusionConfig(
    output_dir=folder, loss="jsd", train_batch_size=size, max_train_steps=4, use_cpu=True,
    logging_steps=1, lr_warmup_steps=2, learning_rate=1e-3, checkpointing_steps=3,
)
trainer = DiffusionTrainer(tiny_model(), DDPM(), tiny_pairs(), config)
if sys.argv[3:] == [os.environ.get("RANK")]:
    trainer.schedule.step = lambda: os.kill(os.getpid(), signal.SIGTERM)
trainer.train()
"""


def train_tiny(folder: Path, processes: int, *, stopped: str = "") -> list[dict[str, float]]:
    """Trains with a batch of 8 in all, and returns the log; one process may be told to stop."""
    script = folder.with_suffix(".py")
    functions = "".join(inspect.getsource(one) for one in (tiny_model, tiny_pairs))
    script.write_text(SCRIPT.replace("{functions}", functions))
    root = Path(__file__).parents[2]
    environment = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [sys.executable, *(launch if processes > 1 else []), str(script)]
    arguments = [*command, str(folder), str(8 // processes), *filter(None, [stopped])]
    done = subprocess.run(
        arguments, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in (folder / "log.jsonl").open()]


def test_two_processes_give_the_curve_of_one(tmp_path: Path) -> None:
    logs = [train_tiny(tmp_path / str(number), number) for number in (1, 2)]
    for one, two in zip(*logs, strict=True):
        assert one.keys() == two.keys()
        for name in one.keys() - {"grad_norm"}:
            assert two[name] == pytest.approx(one[name], rel=1e-3, abs=1e-4), name
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-2)


def test_all_processes_stop_when_one_is_told_to(tmp_path: Path) -> None:
    log = train_tiny(tmp_path / "run", 2, stopped="1")
    assert [row["step"] for row in log] == [1]
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-1"]
