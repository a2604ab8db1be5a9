"""`python -m frugal.config`: print `config.yaml`; with `--write`, write it and the JSON schema."""

import argparse
from pathlib import Path

from . import write, yaml_text


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m frugal.config", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the files below the working directory")
    if parser.parse_args().write:
        print(*write(Path.cwd()), sep="\n")
    else:
        print(yaml_text(), end="")


if __name__ == "__main__":
    main()
