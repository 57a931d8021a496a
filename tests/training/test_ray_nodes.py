"""Two machines, as two Ray nodes on this one, of which one goes away."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from training.test_loop import assert_same_run

from diffpo.config import TrainConfig
from diffpo.training.loop import train

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:a rollout worker was lost")
def test_a_machine_that_leaves_is_survived(short_run: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    from diffpo.training.ray_workers import RayCollector

    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        monkeypatch.setenv(name, "0")
    train(short_run, quiet=True)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        original = RayCollector.begin

        def begin(self: RayCollector, step: int, *rest) -> None:  # type: ignore[no-untyped-def]
            original(self, step, *rest)
            if step == 2:  # its units are given out
                cluster.remove_node(nodes.pop(), allow_graceful=False)

        monkeypatch.setattr(RayCollector, "begin", begin)
        rollout = replace(short_run.rollout, workers=2, address=cluster.address)
        shared = replace(short_run, rollout=rollout, output=short_run.output + "_shared")
        train(shared, quiet=True)
    finally:
        cluster.shutdown()
    assert len(nodes) == 1
    assert_same_run(shared.output, short_run.output)


@pytest.mark.parametrize("name", ["cluster.yaml", "kuberay.yaml"])
def test_files_of_clusters_are_yaml_and_run_diffpo(name: str) -> None:
    text = (ROOT / "deploy/ray" / name).read_text()
    assert isinstance(yaml.safe_load(text), dict)
    assert "diffpo train" in text and "--rollout.address auto" in text


def test_the_pods_of_a_cluster_see_the_same_folder() -> None:
    cluster = yaml.safe_load((ROOT / "deploy/ray/kuberay.yaml").read_text())["spec"]["rayClusterSpec"]
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    pods = [group["template"]["spec"] for group in (head, workers)]
    assert pods[0]["volumes"] == pods[1]["volumes"]
    assert pods[0]["containers"][0]["volumeMounts"] == pods[1]["containers"][0]["volumeMounts"]
    assert head["rayStartParams"]["num-gpus"] == "0"


def test_the_batch_script_is_bash() -> None:
    subprocess.run(["bash", "-n", ROOT / "deploy/ray/slurm.sh"], check=True)
