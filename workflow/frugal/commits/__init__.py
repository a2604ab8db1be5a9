"""Two commits side by side on one machine: `frugal compare BASE HEAD`, to see what a change costs before it is merged.

    comparison = commits.compare("main", "HEAD", preset="quick", say=print)

Each commit is checked out into a worktree of its own and measures with its own rules, code and kernels; sessions of the
two alternate (ABBA), so that a machine that drifts favours neither. Session k of one commit is then paired with session
k of the other, and the verdicts are those of frugal.stats. Finished sessions are kept: the same command goes on.
"""

from frugal.commits.judge import Comparison, Pair
from frugal.commits.sessions import TIMED
from frugal.commits.side_by_side import compare
from frugal.commits.words import exit_status, text, write

__all__ = ["TIMED", "Comparison", "Pair", "compare", "exit_status", "text", "write"]
