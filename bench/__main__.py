"""``python -m bench [NAME …]``: run the named measurements, or all; each is a module beside this file with a ``main``.

What stands after ``--`` goes to the one measurement that is named.
"""

import importlib
import sys
from pathlib import Path


def main() -> None:
    words = sys.argv[1:]
    arguments = words[words.index("--") + 1 :] if "--" in words else []
    names = words[: words.index("--")] if "--" in words else words
    known = sorted(p.stem for p in Path(__file__).parent.glob("*.py") if not p.stem.startswith("_"))
    unknown = set(names) - set(known)
    if unknown:
        raise SystemExit(f"no such measurement: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    for name in names or known:
        print(f"== {name}", flush=True)
        importlib.import_module(f"bench.{name}").main(arguments)


if __name__ == "__main__":
    main()
