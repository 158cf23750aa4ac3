"""The Stack as a Compose project, judged by the real `docker compose config`."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from builder.archive import Archive
from builder.cache import Cache
from builder.progress import Stages
from builder.sandbox import remove_tree
from builder.tools import ToolsTree, open_tools
from stack.compose import compose
from stack.stack import Stack
from tests.unit.stack_samples import COMPONENTS

_PLUGIN = "/usr/libexec/docker/cli-plugins/docker-compose"
"""Docker Compose runs without the docker program, and `config` without a daemon."""

Judge = Callable[[Any], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def judge() -> Judge:
    """Lets Docker Compose of Debian 13 read a project and print what it makes of it."""
    cache = Cache(Cache.default().root, remove_tree)
    tree = ToolsTree("Docker Compose", ("docker-compose",))
    sandbox = open_tools(tree, cache, Archive.from_environment(), Stages())

    def run(project: Any) -> subprocess.CompletedProcess[str]:
        with cache.workspace() as work:
            # JSON is YAML.
            (work / "compose.yaml").write_text(json.dumps(project))
            command = sandbox.command([_PLUGIN, "-f", sandbox.inside(work / "compose.yaml"), "config", "--format=json"])
            return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="module")
def project() -> Any:
    """The Stack as it is shipped."""
    return compose(Stack.load(COMPONENTS), "darkpipe:test")


def test_docker_compose_accepts_the_stack(judge: Judge, project: Any) -> None:
    judged = judge(project)
    assert judged.returncode == 0, judged.stderr
    assert "level=warning" not in judged.stderr
    found = json.loads(judged.stdout)
    assert set(found["services"]) == set(project["services"])
    for name, container in project["services"].items():
        assert found["services"][name].get("cap_add", []) == container["cap_add"]
        assert [mount["target"] for mount in found["services"][name]["volumes"]] == [
            mount["target"] for mount in container["volumes"]
        ]
    assert found["services"]["postfix"]["depends_on"]["dovecot"]["condition"] == "service_healthy"


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("services", "postfix", "depends_on", "nobody"), {"condition": "service_started"}, "undefined service"),
        (("services", "postfix", "capabilities"), ["KILL"], "capabilities"),
        (("services", "postfix", "read_only"), "perhaps", "read_only"),
        (("volumes",), {}, "undefined volume"),
    ],
)
def test_docker_compose_refuses_a_planted_mistake(
    judge: Judge, project: Any, path: tuple[str, ...], value: object, complaint: str
) -> None:
    wrong = copy.deepcopy(project)
    place = wrong
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    judged = judge(wrong)
    assert judged.returncode != 0
    assert complaint in judged.stderr
