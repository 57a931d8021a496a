"""Several ranks compute what one process computes: DDP, FSDP2, resumes with another world, signals, launches."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import tiny_denoiser, tiny_shape
from safetensors.torch import load_file
from training.ranks import Job, run_job, run_on_ranks

from diffpo.config import LoadConfig, LoraConfig, ObjectiveConfig, OptimConfig, TaskConfig, ThresholdConfig, TrainConfig
from diffpo.files.places import BEST
from diffpo.files.recipe import to_json
from diffpo.models.policy import Policy, load_policy
from diffpo.models.transformer import Transformer
from diffpo.processes.world import World
from diffpo.training.metrics import read_metrics
from diffpo.training.run import Run
from diffpo.training.sharding import shard
from diffpo.training.update import in_step

ROOT = Path(__file__).parents[2]
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
MODES = {"ddp": {}, "fsdp2": FSDP2}
DONE = {"ddp": "done", "fsdp2": "done, with 50% of a weight"}


@pytest.fixture
def config(start: str, easy_task: TaskConfig, tmp_path: Path) -> TrainConfig:
    """Five prompts for two ranks, a KL term, micro-batches that do not divide the rows."""
    return TrainConfig(
        model=start,
        task=easy_task,
        output=str(tmp_path / "alone"),
        steps=2,
        prompts_per_step=5,
        num_generations=4,
        save_every=1,
        eval_every=2,
        num_threads=1,
        load=LoadConfig(device="cpu"),
        objective=ObjectiveConfig(num_iterations=2, beta=0.1),
        optim=OptimConfig(learning_rate=1e-3, micro_batch_tokens=100, weight_decay=0.01),
        threshold=ThresholdConfig(delay_steps=1),
        eval=replace(TrainConfig().eval, num_prompts=5),
    )


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    assert files
    return {f"{file.stem}/{name}": tensor for file in files for name, tensor in load_file(file).items()}


def assert_same(one: str | Path, other: str | Path, tolerance: float = 1e-5) -> None:
    """The metrics of every step and the final weights of two runs agree but for the order of summation."""
    ours, theirs = read_metrics(Path(one) / "metrics.jsonl"), read_metrics(Path(other) / "metrics.jsonl")
    assert len(ours) == len(theirs)
    for mine, its in zip(ours, theirs, strict=True):
        mine, its = ({k: v for k, v in row.items() if not k.startswith("time/")} for row in (mine, its))
        assert mine == pytest.approx(its, rel=tolerance, abs=tolerance / 10), mine["step"]
    for place in ("policy", BEST) if (Path(other) / BEST).is_dir() else ("policy",):
        weights, expected = tensors(Path(one) / place), tensors(Path(other) / place)
        assert weights.keys() == expected.keys()
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, expected[name], rtol=tolerance, atol=tolerance)


def tied(start: str, folder: Path) -> str:
    """Fresh weights with a tied head and wide heads with norms, for the tokens of `start`."""
    policy = load_policy(start)
    denoiser = Transformer(replace(policy.denoiser.config, tied=True, qk_norm=True, head_dim=32))
    denoiser.initialize(torch.Generator().manual_seed(0))
    Policy(denoiser, policy.tokenizer).save_pretrained(folder)
    return str(folder)


ALONE = """
import os

from diffpo import Tracker
from diffpo.tasks.tiny_sudoku import TinySudoku


class Alone(TinySudoku):
    start = set()

    def verify(self, prompt, completion):
        if os.environ["RANK"] == "1" and prompt.id.startswith("sudoku-SPLIT"):
            if "train" in prompt.id or prompt.id in self.start:  # an evaluation of the start is none of a step
                raise KeyError("no such column")
            self.start.add(prompt.id)
        return super().verify(prompt, completion)


class Deaf(Tracker):
    def log(self, step, values):
        if step:
            raise ConnectionError("no answer")

    def close(self):
        pass
"""


def test_what_one_rank_raises_is_raised_on_all_and_costs_no_step(config: TrainConfig, tmp_path: Path) -> None:
    """In rollouts of the second step, an evaluation, a tracker, the user's own function: the main rank alone talks."""
    verifier = "VerifierError: task 'tiny_sudoku': the verifier raised KeyError('no such column') on prompt 'sudoku-"
    config = replace(config, save_every=100)
    expected, jobs = {}, []
    for name, split, saved in (("train", "train-9", "step_000001"), ("test", "test-", "step_000001_iteration_02")):
        own = tmp_path / f"{name}.py"
        own.write_text(ALONE.replace("SPLIT", split))
        jobs.append(Job(replace(config, output=str(tmp_path / name), task=replace(config.task, name=f"{own}:Alone"))))
        expected[name] = (verifier + split, saved)
    jobs.append(Job(replace(config, output=str(tmp_path / "tracker"), log_with=(f"{own}:Deaf",))))
    expected["tracker"] = (f"ValueError: log_with {own}:Deaf: ConnectionError('no answer')", "step_000002")
    jobs.append(Job(replace(config, output=str(tmp_path / "own")), step_raises=True))
    expected["own"] = ("RuntimeError: KeyError: 'no such metric'", "step_000001")
    ends = run_on_ranks(jobs, tmp_path / "ranks")
    for first, second, (name, (said, saved)) in zip(*ends, expected.items(), strict=True):
        assert first.startswith(said) and (first == second or name == "own")
        assert [path.name for path in (tmp_path / name / "checkpoints").iterdir()] == [saved]


@pytest.mark.parametrize("mode", MODES)
def test_two_ranks_train_as_one_process(config: TrainConfig, tmp_path: Path, mode: str) -> None:
    """Straight, with nothing to do for a rank, with adapters (also fp32 ones on bf16 weights), tied, the sampler alone.

    A folder that holds a run already is an error on every rank.
    """
    lean = replace(config, prompts_per_step=1, objective=ObjectiveConfig(num_iterations=3), train="joint")
    adapters = replace(
        config, lora=LoraConfig(rank=2), optim=replace(config.optim, gradient_checkpointing=True), eval_every=0
    )
    plain = replace(config, objective=ObjectiveConfig(num_iterations=2), optim=OptimConfig())
    cases = {
        "straight": Job(config),
        "lean": Job(lean, one_row=True),
        "adapters": Job(adapters),
        "one update": Job(replace(config, steps=1, objective=ObjectiveConfig(num_iterations=1), eval_every=0)),
        "bfloat16": Job(replace(adapters, steps=1, load=LoadConfig(dtype="bfloat16", device="cpu"))),
        # all weights learn in fp32 and compute in bf16: sharded ones are gathered in bf16, and summed in fp32
        "masters": Job(replace(config, steps=1, load=LoadConfig(dtype="bfloat16", device="cpu"), eval_every=0)),
        "tied": Job(replace(config, model=tied(config.model, tmp_path / "start"), steps=1, eval_every=0), one_row=True),
        "sampler": Job(replace(plain, steps=1, train="sampler", threshold=ThresholdConfig(delay_steps=0))),
    }
    jobs = []
    for name, job in cases.items():
        assert run_job(replace(job, config=replace(job.config, output=str(tmp_path / name)))) == "done"
        output = str(tmp_path / f"{name}_{mode}")
        jobs.append(replace(job, config=replace(job.config, output=output), max_logits=64))
    ends = run_on_ranks([*jobs, jobs[0]], tmp_path / "ranks", **MODES[mode])
    for end in ends:
        assert end[:-2] == [DONE[mode]] * (len(jobs) - 1)
        assert end[-2] == "done"  # the rollouts need all of a denoiser, and it does not learn: it is not sharded
        assert end[-1].startswith("ValueError") and "already holds a run: resume it" in end[-1]
    for name in cases.keys() - {"bfloat16", "masters"}:
        assert_same(tmp_path / f"{name}_{mode}", tmp_path / name)
    for case in ("bfloat16", "masters"):
        (ours,), (theirs,) = (read_metrics(tmp_path / name / "metrics.jsonl") for name in (f"{case}_{mode}", case))
        assert ours["model/grad_norm"] == pytest.approx(theirs["model/grad_norm"], rel=0.05)
    last = read_metrics(tmp_path / "lean" / "metrics.jsonl")[-1]
    assert last["model/grad_norm"] > 0 and last["sampler/grad_norm"] > 0


def test_runs_stop_together_and_go_on_in_another_world(config: TrainConfig, tmp_path: Path) -> None:
    """Rollouts are the same bit for bit, and 1 -> 2 ranks, DDP -> FSDP2, FSDP2 -> 1 end as a run never stopped."""
    assert run_job(Job(config)) == "done"
    outputs = {name: str(tmp_path / name) for name in ("one", "ddp", "fsdp2")}
    stop = {name: Job(replace(config, output=output), stop_after=1) for name, output in outputs.items()}
    go_on = {name: Job(replace(config, output=output), resume=True) for name, output in outputs.items()}
    saved = "KeyboardInterrupt: saved {}; a resumed run goes on from there"
    place = "checkpoints/step_000000_iteration_01"

    assert run_job(stop["one"]).startswith("KeyboardInterrupt")
    in_hand = tensors(Path(outputs["one"]) / place)
    ends = run_on_ranks([stop["ddp"], go_on["one"]], tmp_path / "first")
    assert ends == [[saved.format(f"{outputs['ddp']}/{place}"), "done"]] * 2
    batches = [tensors(Path(outputs["ddp"]) / place)]
    ends = run_on_ranks([stop["fsdp2"], go_on["ddp"]], tmp_path / "second", **FSDP2)
    assert ends == [[saved.format(f"{outputs['fsdp2']}/{place}"), DONE["fsdp2"]]] * 2
    batches.append(tensors(Path(outputs["fsdp2"]) / place))
    assert run_job(go_on["fsdp2"]) == "done"

    for batch in batches:
        assert batch.keys() == in_hand.keys()
        for name, tensor in batch.items():
            if name.startswith("experience/batch") or name == "experience/cuts":
                assert torch.equal(tensor, in_hand[name]), name
            else:
                torch.testing.assert_close(tensor, in_hand[name], rtol=1e-5, atol=1e-6)
    for output in outputs.values():
        assert_same(output, config.output)


def test_shares_that_are_not_alike_are_saved_and_read_whole(config: TrainConfig, tmp_path: Path) -> None:
    """Three ranks do not divide the 64 of an MLP: FSDP2 gathers a larger tensor than there is."""
    config = replace(config, eval_every=0)
    assert run_job(Job(config)) == "done"
    again = replace(config, output=str(tmp_path / "thirds"))
    jobs = [Job(again, stop_after=1), Job(again, resume=True)]
    for stopped, end in run_on_ranks(jobs, tmp_path / "ranks", num_ranks=3, **FSDP2):
        assert stopped.startswith("KeyboardInterrupt: saved") and end.startswith("done, with 3")
    assert_same(again.output, config.output)


@pytest.mark.parametrize("mode", MODES)
def test_accelerate_launch_with_the_recipe_that_ships(config: TrainConfig, tmp_path: Path, mode: str) -> None:
    """The command of the README, on two processes of this machine."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", f"recipes/accelerate/{mode}.yaml"]
    launch += ["--num_processes", "2", "--main_process_port", "0", "-m", "diffpo"]
    flags = f"--model {config.model} --output {tmp_path}/launched --task.name tiny_sudoku --steps 1"
    flags += (
        " --task.easy 1 1 --task.hard 2 2 --prompts-per-step 5 --num-generations 4 --num-threads 1 --load.device cpu"
    )
    done = subprocess.run(
        [*launch, "train", *flags.split()],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    alone = TrainConfig(
        model=config.model,
        task=config.task,
        output=str(tmp_path / "alone"),
        steps=1,
        prompts_per_step=5,
        num_generations=4,
        num_threads=1,
        load=LoadConfig(device="cpu"),
    )
    assert run_job(Job(alone)) == "done"
    assert_same(tmp_path / "launched", alone.output)
    assert done.stderr.count("train 1/1") == 1  # rank 0 alone talks
    assert (tmp_path / "launched/config.json").read_text() == to_json(
        replace(alone, output=f"{tmp_path}/launched")
    ) + "\n"


@pytest.mark.parametrize("count", [0, 1, 2, 7, 24])
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
def test_shares_are_contiguous_even_and_complete(count: int, num_ranks: int) -> None:
    shares = [World(rank, num_ranks).share(count) for rank in range(num_ranks)]
    assert [index for share in shares for index in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert list(World(num_ranks - 1, num_ranks).share(count)) == list(shares[-1])


def test_a_rank_that_has_run_out_goes_on_with_passes_that_do_not_count() -> None:
    assert list(in_step("ab", 4, lambda: "idle")) == [("a", True), ("b", True), ("idle", False), ("idle", False)]
    assert list(in_step("ab", World().passes(2), lambda: "idle")) == [("a", True), ("b", True)]


@pytest.mark.parametrize(
    ("variable", "value", "mend"),
    [
        ("ACCELERATE_USE_DEEPSPEED", "true", "fsdp2.yaml"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "set load.dtype"),
        ("FSDP_VERSION", "1", "fsdp_version: 2"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "optim.gradient_checkpointing"),
    ],
)
def test_settings_of_the_launch_that_would_do_nothing_are_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, mend: str
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert World.join("cpu") == World()
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=f"{variable} = {value}: .*{mend}"):
        World.join("cpu")


@pytest.mark.parametrize("lacks", ["RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_half_a_launch_is_refused(monkeypatch: pytest.MonkeyPatch, lacks: str) -> None:
    for name in {"WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} - {lacks}:
        monkeypatch.setenv(name, "2")
    monkeypatch.delenv(lacks, raising=False)
    with pytest.raises(ValueError, match=f"^WORLD_SIZE = 2 without {lacks}: each process would run alone; .*torchrun"):
        World.join("cpu")


def test_a_launch_whose_processes_cannot_meet_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("MASTER_PORT", "0")  # as torchrun --master_port 0 gives it
    with pytest.raises(ValueError, match=r"^MASTER_PORT = 0: .* torchrun --standalone, or name a port$"):
        World.join("cpu")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"optim.learning_rate": 1e-9}, "optim.learning_rate"),
        ({"seed": 5, "steps": 1}, "steps, seed"),
        ({"model (file)": {}}, r"model \(file\)"),
        ({"task.reward (file)": {"rewards.py": "0"}}, r"task.reward \(file\)"),
    ],
)
def test_ranks_of_other_settings_or_files_are_refused(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, changed: dict[str, object], named: str
) -> None:
    monkeypatch.setattr(World, "gather", lambda self, items: [*items, items[0] | changed])
    with (
        pytest.raises(ValueError, match=f"^the processes differ in {named}: give each the same command and files$"),
        Run("train", config, World(num_ranks=2)),
    ):
        raise AssertionError("it began")


@pytest.mark.parametrize("device", ["gpu", "", "3", "cuda:x", "meta", "mps"])
def test_a_device_that_is_not_one_is_refused_by_name(device: str) -> None:
    with pytest.raises(ValueError, match=f"^load.device '{device}': [^\n]+$"):
        World.join(device)


def test_four_bit_weights_are_not_sharded() -> None:
    denoiser = tiny_denoiser(tiny_shape(9))
    denoiser.blocks[0].up_proj.weight = torch.nn.Parameter(torch.zeros(8, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ValueError, match=r"4-bit weights are not sharded: launch with recipes/accelerate/ddp\.yaml"):
        shard(World(num_ranks=2, shards=True), denoiser)
