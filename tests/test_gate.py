"""One gate: what .ci/run checks, a commit and a pull request are checked by as well."""

import configparser
import pathlib
import re

import yaml

ROOT = pathlib.Path(__file__).parents[1]
GATE = (ROOT / ".ci" / "run").read_text()


def test_the_hooks_before_a_commit_are_the_gates_checks():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = [hook["entry"] for hook in repository["hooks"]]
    assert hooks == re.findall(r"^\.venv/bin/(python -m (?:ruff|mypy).*)$", GATE, re.MULTILINE)


def test_a_pull_request_runs_the_gate():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    commands = [step.get("run") for step in workflow["jobs"]["gate"]["steps"]]
    assert ".ci/run" in commands


def test_the_published_site_is_built_as_strictly_as_in_the_tests():
    """With the requirements of the extra, and without TensorFlow: the build imports no package."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "site.yml").read_text())
    install, build = (step["run"] for step in workflow["jobs"]["build"]["steps"] if "run" in step)
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = setup["options.extras_require"]["docs"].split()
    assert sorted(re.findall(r'"(.+?)"', install)) == sorted(wanted)
    assert build == "python -m mkdocs build --strict"


def test_the_gate_runs_slow_tests_too():
    assert re.search(r'^bash -euc "\$test -m \'\' .*"$', GATE, re.MULTILINE)
    assert "-m 'not slow'" in (ROOT / "pyproject.toml").read_text()
