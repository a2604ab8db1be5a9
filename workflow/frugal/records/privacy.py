"""Records are published: no absolute path, home folder, host name or user name may stand in them."""

from __future__ import annotations

import getpass
import os
import re
import socket
from contextlib import suppress

# A slash that starts a path: not inside a word, a relative path, a URL or a unit such as 1/s; then at least two
# characters or a further slash, so that a lone "/s" is no path.
_ABSOLUTE = re.compile(
    r"file:/[^\s\"'<>|,;)\]}]+"
    r"|(?<![\w./\-~<>*)\]}])/(?:[\w.~@+-]{2,}|[\w~]/)[^\s\"'<>|,;:)\]}]*"
    r"|(?<![A-Za-z])[A-Za-z]:\\+[\w.~-][^\s\"'<>|,;)\]}]*"
)
# Accounts and hosts that name nobody, and the words of this project's own records: a machine called "gpu" or a user
# called "sparse" must not make every row unwritable.
_NAMES_OF_NOBODY = """
    root user users admin administrator guest nobody runner build builder builds jenkins gitlab circleci docker
    container podman jovyan vscode codespace ubuntu debian fedora centos rocky almalinux arch linux mac macbook pi
    nvidia cuda gpu gpus cpu node host localhost local localdomain server worker login head compute cluster
    desktop laptop workstation box main master default test tests testing dev work me app data model models
    project python torch numba conda numpy frugal kernels sparse sparsity dense tiled cusnn sft folded dtr syno
    layer layers network time wall cold hot graph smoke quick sweep headline figures results image images
    photographs real random
"""
_NOBODY = frozenset(_NAMES_OF_NOBODY.split())
_SHORTEST = 3  # a name of one or two letters is found in ordinary text


def private_names() -> tuple[str, ...]:
    """This machine's host names and this user's name, less those that name nobody."""
    names = {socket.gethostname(), socket.gethostname().split(".")[0]}
    with suppress(KeyError, OSError):  # a container's user id without an entry in the password file
        names.add(getpass.getuser())
    return tuple(sorted(n for n in names if len(n) >= _SHORTEST and n.lower() not in _NOBODY))


def find_private(text: str, names: tuple[str, ...]) -> str | None:
    """What must not be published in `text`, in words, or None. `names` are those of `private_names()`."""
    home = _home()
    if home and home.search(text):
        return "the home folder"
    if _ABSOLUTE.search(text):
        return "an absolute path"
    if any(_word(name).search(text) for name in names):
        return "a host or user name"
    return None


def scrub(text: str) -> str:
    """The text with paths, host and user names taken out: for the texts of drivers and of other people's exceptions.

    An absolute path keeps its last part (`<path>/libcuda.so`), a name becomes `<name>`. `write_job` accepts the result.
    """
    home = _home()
    text = _ABSOLUTE.sub(_last_part, text)
    if home:
        text = home.sub("<home>", text)
    for name in private_names():
        text = _word(name).sub("<name>", text)
    return text


def _home() -> re.Pattern[str] | None:
    home = os.path.expanduser("~").rstrip("/")
    return re.compile(rf"(?<!\w){re.escape(home)}(?![\w-])") if home.startswith("/") else None


def _word(name: str) -> re.Pattern[str]:
    # A hyphen joins words: the host "h200" is not found in the device key "nvidia-h200-9.0-132sm".
    return re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")


def _last_part(match: re.Match[str]) -> str:
    return "<path>/" + re.split(r"[/\\]+", match.group().rstrip("/\\"))[-1]
