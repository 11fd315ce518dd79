"""The container image: its build steps performed here, without an engine, and the promises of its last stage."""

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.charts import REPOSITORY, run, serving
from tests.deploy.dockerfile import Build, Stage, exec_form, parse

IMAGE = REPOSITORY / "deploy" / "image"
DOCKERFILE = REPOSITORY / "Dockerfile"
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))


def stages() -> list[Stage]:
    return parse(DOCKERFILE.read_text("utf-8"))


def final() -> Stage:
    return stages()[-1]


def pinned(name: str) -> dict[str, str]:
    """Package to version, of a requirements file."""
    text = (IMAGE / name).read_text("utf-8")
    return {found[1]: found[2] for found in re.finditer(r"(?m)^([a-z0-9.-]+)==([^ ;\\]+)", text)}


# What is pinned


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-build.txt"])
def test_every_pin_has_hashes_and_no_registry_is_named(name: str) -> None:
    text = (IMAGE / name).read_text("utf-8")
    blocks = re.split(r"(?m)^(?=[a-z0-9])", re.sub(r"(?m)^\s*#.*\n", "", text))
    assert [block.split()[0] for block in blocks if block.strip() and "--hash=sha256:" not in block] == []
    assert not re.search(r"https?://|--index|--find-links|--trusted-host", text)


def test_the_pins_fulfil_what_the_package_asks_for() -> None:
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    wanted = [Requirement(text) for text in (*project["dependencies"], *extras["postgres"])]
    pins = pinned("requirements.txt")
    for requirement in wanted:
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is not pinned; run deploy/image/update"
        assert requirement.specifier.contains(pins[name]), (
            f"{requirement} excludes {pins[name]}; run deploy/image/update"
        )


def test_nothing_that_only_development_needs_is_pinned() -> None:
    assert not {"pytest", "mypy", "ruff", "hypothesis", "dataiku-api-client"} & pinned("requirements.txt").keys()


def test_the_build_tools_are_those_of_the_build_system() -> None:
    pins = pinned("requirements-build.txt")
    for requirement in map(Requirement, PYPROJECT["build-system"]["requires"]):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])


# The steps


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the stages before the last were performed."""
    if not (REPOSITORY / "README.md").exists():
        pytest.skip("README.md is not written yet, and the wheel wants it")
    python = shutil.which("python3.13") or sys.executable
    if subprocess.run([python, "--version"], capture_output=True).returncode != 0:
        python = sys.executable  # a shim without its Python
    root = tmp_path_factory.mktemp("image")
    outside = root / "outside"
    run(python, "-m", "venv", outside)
    keep = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_")) or name == "HOME"}
    environment = keep | {"PATH": f"{outside / 'bin'}:/usr/bin:/bin", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    build = Build(root, REPOSITORY, environment)
    for stage in stages()[:-1]:
        build.perform(stage)
    return root


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_built_environment_holds_tocsin_and_just_the_pins(built: Path) -> None:
    script = "from importlib.metadata import distributions as d; print(*sorted(x.name.lower() for x in d()))"
    names = {canonicalize_name(name) for name in run(built / "opt/tocsin/bin/python", "-c", script).stdout.split()}
    assert "tocsin" in names
    assert names - {"tocsin"} <= pinned("requirements.txt").keys()
    assert "pip" not in names


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_built_command_runs_from_the_wheel_alone(built: Path, tmp_path: Path) -> None:
    command = built / "opt" / "tocsin" / "bin" / "tocsin"
    done = subprocess.run([command, "--help"], capture_output=True, text=True, cwd=tmp_path, env={}, timeout=60)
    if "nothing here yet" in done.stderr:
        pytest.skip("the command line is not written yet")
    assert done.returncode == 0, done.stderr
    assert "run" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_byte_code_is_there_so_that_a_read_only_root_starts_fast(built: Path) -> None:
    assert list(built.glob("opt/tocsin/lib/python*/site-packages/tocsin/__pycache__/__init__.*.pyc"))


def test_what_the_steps_copy_is_not_ignored() -> None:
    rules = [
        line for line in (REPOSITORY / ".dockerignore").read_text("utf-8").splitlines() if line[:1] not in ("#", "")
    ]
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    copied = [
        word
        for stage in stages()
        for text in stage.all("COPY")
        if not text.startswith("--from")
        for word in text.split()[:-1]
    ]
    assert rules[0] == "*"
    assert [word for word in copied if not any(fnmatch.fnmatch(word, f"{rule}*") for rule in kept)] == []


# The last stage


def test_hadolint_finds_nothing(tool: Callable[[str], str]) -> None:
    run(tool("hadolint"), DOCKERFILE)


def test_the_process_gets_its_signals_itself() -> None:
    assert exec_form(final().last("ENTRYPOINT")) == ["tocsin"]
    assert exec_form(final().last("CMD")) == ["run"]


def test_it_runs_as_a_fixed_user_and_group_0_owns_what_it_writes() -> None:
    assert final().last("USER") == "10001:0"
    made = final().last("RUN")
    assert "useradd --uid 10001 --gid 0" in made
    assert "install --directory --owner 10001 --group 0 --mode 0770 /var/lib/tocsin" in made
    assert final().last("VOLUME") == "/var/lib/tocsin"


def test_no_compiler_and_no_package_manager_runs_in_the_last_stage() -> None:
    text = " ".join(instruction.text for instruction in final().instructions)
    assert not re.search(r"\b(apt-get|pip|gcc|build-essential|curl|wget)\b", text)
    assert final().base.endswith("-slim-trixie")


def test_it_is_labelled() -> None:
    label = final().last("LABEL")
    for key in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{key}=" in label
    assert f'licenses="{PYPROJECT["project"]["license"]}"' in label


def test_the_environment_variables_are_those_that_the_settings_read() -> None:
    load = REPOSITORY / "daemon" / "tocsin" / "config" / "load.py"
    if not load.exists():
        pytest.skip("the settings are not written yet")
    names = [*re.findall(r"\b(TOCSIN_[A-Z_]+)=", final().last("ENV")), "TOCSIN_CONFIG"]
    assert len(names) > 1
    assert [name for name in names if name not in load.read_text("utf-8")] == []


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_says_what_the_daemon_says(status: int, code: int) -> None:
    with serving(lambda path, _: (status if path == "/-/healthy" else 404, b"")) as port:
        text = final().last("HEALTHCHECK").partition("CMD ")[2].replace("8080", str(port))
        program, *arguments = exec_form(text)
        # A proxy in the environment must not stand between.
        done = subprocess.run([sys.executable, *arguments], env={"HTTP_PROXY": "http://127.0.0.1:9"}, timeout=30)
    assert (program, done.returncode) == ("python", code)


def test_the_health_check_fails_when_nobody_listens() -> None:
    _, *arguments = exec_form(final().last("HEALTHCHECK").partition("CMD ")[2].replace("8080", "9"))
    assert subprocess.run([sys.executable, *arguments], stderr=subprocess.DEVNULL, timeout=30).returncode == 1
