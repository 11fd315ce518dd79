"""Performs the build stages of a Dockerfile without an engine, in a folder instead of a file system.

It knows what Tocsin's Dockerfile uses and refuses the rest. Absolute paths that an instruction writes to lie below the
folder; all stages share it, so that ``COPY --from`` has nothing to do but to check.
"""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Instruction:
    word: str
    text: str


@dataclass
class Stage:
    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        return [instruction.text for instruction in self.instructions if instruction.word == word]

    def last(self, word: str) -> str:
        return self.all(word)[-1]


def parse(text: str) -> list[Stage]:
    """The stages in their order; comments, blank lines and line continuations are gone."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    stages: list[Stage] = []
    for line in joined.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append(Stage(base, name))
        elif stages:
            stages[-1].instructions.append(Instruction(word, rest.strip()))
        else:
            assert word == "ARG", f"{word} before the first FROM"
    return stages


class Build:
    """Performs stages below ``root`` with the files of ``context`` and the programs of ``path`` first."""

    def __init__(self, root: Path, context: Path, environment: dict[str, str]) -> None:
        self.root = root
        self.context = context
        self.environment = environment
        self._placed = ("/src", "/wheels", "/opt")

    def perform(self, stage: Stage) -> None:
        workdir = self.root
        for instruction in stage.instructions:
            match instruction.word:
                case "WORKDIR":
                    workdir = self.root / instruction.text.lstrip("/")
                    workdir.mkdir(parents=True, exist_ok=True)
                case "COPY":
                    self._copy(instruction.text.split(), workdir)
                case "RUN":
                    self._run(instruction.text, workdir)
                case other:
                    raise AssertionError(f"{other} is not known here")

    def _copy(self, words: list[str], workdir: Path) -> None:
        if words[0].startswith("--from="):
            assert (self.root / words[1].lstrip("/")).exists(), f"{words[1]} was not made"
            return
        *sources, target = words
        for source in sources:
            origin = self.context / source
            assert origin.exists(), f"COPY {source}: not in the build context"
            if origin.is_dir():
                shutil.copytree(origin, workdir / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(origin, workdir / target)

    def _run(self, command: str, workdir: Path) -> None:
        command = command.replace(" --no-cache-dir", "")  # keeps a layer small; here a cache only saves time
        for place in self._placed:
            command = re.sub(rf"(?<![\w.]){place}(?=[/\s]|$)", str(self.root) + place, command)
        done = subprocess.run(
            ["sh", "-euc", command], cwd=workdir, env=self.environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"RUN {command}\n{done.stdout}\n{done.stderr}"


def exec_form(text: str) -> list[str]:
    """The words of an instruction in exec form; fails on shell form, which swallows signals."""
    words = json.loads(text)
    assert isinstance(words, list), f"{text} is in shell form"
    return words
