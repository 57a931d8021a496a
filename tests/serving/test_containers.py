"""What stands in the files of the containers is true of the code: no image is built here, every name is looked up."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import tiny_policy
from prometheus_client.parser import text_string_to_metric_families
from serving.live import serving

from diffpo.cli import parse
from diffpo.cli.serving import Serve
from diffpo.config import RolloutConfig, ServeConfig
from diffpo.serving.metrics import Metrics

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
BOARD = json.loads((ROOT / "deploy/grafana/board.json").read_text())
PAGE = (ROOT / "docs/serving.md").read_text().split("## In a container\n")[1].split("\n## ")[0]
FILES = [ROOT / name for name in ("Dockerfile", ".dockerignore", "compose.yaml")]
FILES += [path for path in sorted((ROOT / "deploy").rglob("*")) if path.is_file()]


def instructions() -> list[tuple[str, str]]:
    """Word and rest of each instruction of the Dockerfile, its comments gone and its lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def last(word: str) -> str:
    return [rest for each, rest in instructions() if each == word][-1]


def copied() -> list[str]:
    """What the Dockerfile copies from the checkout."""
    copies = [rest.split() for word, rest in instructions() if word == "COPY" and "--from" not in rest]
    return [source for *sources, _ in copies for source in sources]


def server(*words: str) -> ServeConfig:
    """The configuration that `diffpo` takes from these words."""
    command = parse(*words)
    assert isinstance(command, Serve)
    return command.config


def substituted(text: str) -> str:
    """With the defaults of compose's variables."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


# --- the Dockerfile ----------------------------------------------------------------------------------------------


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*" and copied()
    for source in copied():
        assert (ROOT / source).exists(), source
    assert {rule[1:] for rule in rules if rule.startswith("!")} == {*copied()}


def test_what_is_copied_makes_a_wheel() -> None:
    """All that pyproject.toml builds the package from, and the versions that it is installed with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    hatch = project["tool"]["hatch"]
    wheel = hatch["build"]["targets"]["wheel"]
    fragments = [each["path"] for each in hatch["metadata"]["hooks"]["fancy-pypi-readme"]["fragments"]]
    needed = [*project["project"]["license-files"], *wheel["packages"], *wheel["force-include"], *fragments]
    for path in ["pyproject.toml", "constraints.txt", *needed]:
        assert any(Path(path).is_relative_to(source) for source in copied()), path


def test_stages_and_arguments_are_there() -> None:
    froms = [rest.split(" AS ") for word, rest in instructions() if word == "FROM"]
    stages = {names[1] for names in froms if len(names) == 2}
    assert froms[-1] == ["${DEVICE}"] and instructions()[0] == ("ARG", "DEVICE=cpu")
    assert stages == {"build", "cpu", "cuda"}
    assert ("ARG", "TORCH_INDEX") in instructions()  # without a default: no index is named here
    for source in re.findall(r"--from=(\S+)", " ".join(rest for _, rest in instructions())):
        assert source in stages
    given = re.findall(r"--build-arg (\w+)=(\w+)", PAGE)
    assert ("DEVICE", "cuda") in given
    assert all(value in stages for name, value in given if name == "DEVICE")
    assert {name for name, _ in given} <= {"DEVICE", "TORCH_INDEX"}


def test_the_process_is_not_root() -> None:
    words = [word for word, _ in instructions()]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last("USER"))
    assert f"--uid {last('USER').split(':')[0]} " in last("RUN")
    assert words.index("USER") > max(place for place, word in enumerate(words) if word in ("RUN", "COPY"))


def test_the_command_is_one_that_diffpo_takes() -> None:
    (script,) = json.loads(last("ENTRYPOINT"))
    assert script in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    config = server(*json.loads(last("CMD")))
    assert config.host == "0.0.0.0" and str(config.port) == last("EXPOSE")


def test_the_health_check_tells_a_live_server_from_none() -> None:
    python, *words = json.loads(last("HEALTHCHECK").partition(" CMD ")[2])
    assert python == "python" and words[1].count(last("EXPOSE")) == 1
    with serving(
        tiny_policy(1), ServeConfig(rollout=RolloutConfig(temperature=0.0, sampler="top_k:1", gen_length=8))
    ) as live:
        port = live.url.rpartition(":")[2]
        check = [sys.executable, words[0], words[1].replace(last("EXPOSE"), port)]
        assert subprocess.run(check, capture_output=True).returncode == 0
    assert subprocess.run(check, capture_output=True).returncode != 0


# --- compose, Prometheus, Grafana --------------------------------------------------------------------------------


def test_ports_agree() -> None:
    port = server(*shlex.split(substituted(SERVICES["diffpo"]["command"]))).port
    (job,) = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())["scrape_configs"]
    (source,) = yaml.safe_load((ROOT / "deploy/grafana/sources.yml").read_text())["datasources"]
    assert [each["targets"] for each in job["static_configs"]] == [[f"diffpo:{port}"]]
    assert source["url"] == f"http://prometheus:{SERVICES['prometheus']['ports'][0].split(':')[-1]}"
    for name, service in SERVICES.items():
        ((address, outside, inside),) = [each.split(":") for each in service["ports"]]
        assert address == "127.0.0.1" and outside == inside and re.search(rf"at (port )?{outside}\b", PAGE), name
    assert SERVICES["diffpo"]["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_mounts_lead_somewhere() -> None:
    targets = {}
    for service in SERVICES.values():
        for mount in service["volumes"]:
            if isinstance(mount, dict):
                assert mount["source"] == "./runs" and mount["target"] == f"{last('WORKDIR')}/runs"
                continue
            source, target = mount.split(":")[:2]
            assert (ROOT / source).is_file() if source.startswith("./") else source in COMPOSE["volumes"], mount
            targets[target] = source
    assert "/cache" in targets and "HF_HOME=/cache" in last("ENV")
    (provider,) = yaml.safe_load((ROOT / "deploy/grafana/boards.yml").read_text())["providers"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert targets[home] == "./deploy/grafana/board.json" and Path(home).parent == Path(provider["options"]["path"])


def test_compose_passes_what_the_dockerfile_takes() -> None:
    cuda = yaml.safe_load((ROOT / "deploy/compose.cuda.yaml").read_text())["services"]
    assert cuda.keys() <= SERVICES.keys()
    assert SERVICES["diffpo"]["build"]["args"] == {"DEVICE": "cpu", "TORCH_INDEX": "${TORCH_INDEX:-}"}
    assert cuda["diffpo"]["build"]["args"] == {"DEVICE": "cuda"}


def test_the_server_has_the_time_to_answer_when_stopped() -> None:
    assert int(SERVICES["diffpo"]["stop_grace_period"].removesuffix("s")) > ServeConfig().timeout
    assert int(re.findall(r"--stop-timeout (\d+)", PAGE)[0]) > ServeConfig().timeout


def test_no_address_of_elsewhere_is_written_down() -> None:
    for path in FILES:
        hosts = set(re.findall(r"https?://([\w.-]+)", path.read_text()))
        assert hosts <= SERVICES.keys(), path.name


# --- the board ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """Every sample that a server exports, with the names of its labels."""
    metrics = Metrics()
    metrics.ended(1.0, "stop", tokens=4, calls=2, learned=True)
    metrics.answered.labels("/v1/completions", "200").inc()
    families = text_string_to_metric_families(metrics.text.decode())
    return {sample.name: {*sample.labels} for family in families for sample in family.samples}


def queries() -> list[dict[str, Any]]:
    return [target for panel in BOARD["panels"] for target in panel["targets"]]


def test_every_figure_of_the_board_is_exported(exported: dict[str, set[str]]) -> None:
    for query in queries():
        expression = query["expr"]
        named = re.findall(r"\bdiffpo_\w+", expression)
        assert named and {*named} <= exported.keys(), expression
        labels = {label for inside in re.findall(r"\bby \(([^)]*)\)", expression) for label in inside.split(", ")}
        shown = set(re.findall(r"\{\{(\w+)\}\}", query["legendFormat"]))
        chosen = set(re.findall(r"(\w+)[=!]~?\"", expression))
        for name in named:
            assert labels | chosen <= exported[name], expression
        assert shown == labels - {"le"}, expression


def test_every_figure_that_is_exported_is_on_the_board(exported: dict[str, set[str]]) -> None:
    def stem(name: str) -> str:
        return re.sub(r"_(bucket|sum|count|total|created)$", "", name)

    shown = {stem(name) for query in queries() for name in re.findall(r"\bdiffpo_\w+", query["expr"])}
    assert shown == {stem(name) for name in exported}


def test_counts_are_shown_as_rates_and_brackets_close() -> None:
    for query in queries():
        expression = query["expr"]
        assert expression.count("(") == expression.count(")") and expression.count("[") == expression.count("]")
        for name, after in re.findall(r"(\bdiffpo_\w+)(?:\{[^}]*\})?(\[?)", expression):
            assert bool(after) == name.endswith(("_total", "_bucket", "_sum", "_count")), expression


def test_the_board_reads_the_source_and_is_the_one_of_the_page() -> None:
    (source,) = yaml.safe_load((ROOT / "deploy/grafana/sources.yml").read_text())["datasources"]
    panels = BOARD["panels"]
    assert all(panel["datasource"] == {"type": source["type"], "uid": source["uid"]} for panel in panels)
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels) and all(panel["gridPos"]["w"] == panel["gridPos"]["h"] == 8 for panel in panels)
    listed = re.findall(r"^\| ([^|]+) \|", PAGE, re.MULTILINE)
    assert listed[2:] == [panel["title"] for panel in panels]


# --- the page ----------------------------------------------------------------------------------------------------


def test_commands_of_the_page_are_taken() -> None:
    runs = re.findall(r"docker run .*?\bdiffpo(?::cuda)? (serve .*)", PAGE.replace("\\\n", ""))
    assert len(runs) == 2
    for words in runs:
        assert server(*shlex.split(words)).host == "0.0.0.0", words
    for path in re.findall(r"-f (\S+)", PAGE):
        assert (ROOT / path).is_file(), path
