"""A configuration that is made to break its reader is refused by one line, before anything is built of it."""

from pathlib import Path

import pytest

from tocsin.config import BadConfig, load_file

NODE = "nodes: [{name: prod, url: 'https://dss.example.com', api_key: k}]\n"
RULE = NODE + "rules: [{alert: A, kind: overlong, times_usual: 3, %s}]\n"


def aliases() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    return "\n".join(lines + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)])


def merges() -> str:
    lines = ["b0: &b0 {k: 1}"]
    return "\n".join(lines + [f"b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}'] * 9)}]}}" for n in range(1, 10)])


BOMBS: dict[str, tuple[str | bytes, str]] = {
    "five megabytes": (NODE + "#" * 5_000_000, "is larger than 4 MiB"),
    "a million items": (NODE + "templates: [" + "a," * 1_000_000 + "]", "2: holds more than 100000 keys and values"),
    "half a million keys": (NODE + "x: {" + "".join(f"k{n}: 1," for n in range(400_000)) + "}", "larger than 4 MiB"),
    "a value of megabytes": (NODE + f"log: {{level: {'a' * 3_000_000}}}", "2: a value of more than 100000 characters"),
    "aliases of aliases": (aliases(), "holds more than 100000 keys and values, with its aliases"),
    "merges of merges": (merges(), "holds more than 100000 keys and values, with its aliases"),
    "an alias in itself": ("a: &a [*a]", "1: an alias stands within itself"),
    "a number of 5 000 digits": (
        NODE + f"metrics: {{max_scenarios: {'9' * 5000}}}",
        "2: a number of more than 18 digits",
    ),
    "a fraction beyond all": (NODE + "rules: [{alert: A, kind: overlong, times_usual: 1.0e999}]", "a finite number"),
    "a duration of ages": (NODE + "store: {retention: 999999999d}", "longer than a hundred years"),
    "runs without end": (RULE % "min_runs: 999999999", "less than or equal to 1000"),
    "lists in lists": ("nodes: " + "[" * 200_000, "nesting depth"),
    "mappings in mappings": ("nodes: " + "{a: " * 100_000, "1: is nested more than 50 deep"),
    "blocks in blocks": ("\n".join(" " * n + "a:" for n in range(500)), "51: is nested more than 50 deep"),
    "a NUL": (NODE + "# \0", r"2: holds the character '\x00', which YAML does not allow"),
    "not UTF-8": (b"# a\nnodes: \xe9\n", "2: is not UTF-8 text"),
    "UTF-16": (NODE.encode("utf-16"), "1: is not UTF-8 text"),
    "a key that is a list": ("? [a, b]\n: 1\n", "1: a key must be a word"),
    "a tag of Python": ("a: !!python/object:os.system {}", "is not supported; write the value without it"),
    "a tag that does not fit": ("a: !!timestamp foo", "is not supported; write the value without it"),
    "a glob of the whole disk": (NODE + "templates: ['/*/*/*/*/*/*']", "looks at more than 10000 files"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_by_one_line(tmp_path: Path, name: str) -> None:
    text, words = BOMBS[name]
    file = tmp_path / "tocsin.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadConfig) as caught:
        load_file(file, lambda _url: None)
    told = [str(problem) for problem in caught.value.problems]
    assert (len(told), words in told[0], len(told[0]) < 800) == (1, True, True), told[0][:500]


def test_a_folder_of_too_many_templates_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    for number in range(1_001):
        (tmp_path / "t" / f"{number}.j2").touch()
    (tmp_path / "tocsin.yaml").write_text(NODE + "templates: [t/*]\n")
    with pytest.raises(BadConfig, match="matches more than 1000 files"):
        load_file(tmp_path / "tocsin.yaml", lambda _url: None)


def test_as_much_as_a_company_writes_is_taken(tmp_path: Path) -> None:
    receivers = "".join(
        f"- {{name: r{n}, channels: [{{webhook: 'https://h.example.com/{n}'}}]}}\n" for n in range(2_000)
    )
    (tmp_path / "tocsin.yaml").write_text(NODE + "receivers:\n" + receivers)
    assert len(load_file(tmp_path / "tocsin.yaml", lambda _url: None).receivers) == 2_000
