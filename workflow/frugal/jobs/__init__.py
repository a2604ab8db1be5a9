"""Timing sessions in child processes that are watched: what hangs, crashes or eats all memory costs a row, no campaign.

    jobs.measure(jobs.Job(experiment="layers", cases="frugal.cusnn.bench_layer:cases", …), say)

`measure` starts a child, which imports the cases, adds the controls, times them and writes the job file. The child says
before each step of an arm how long it may take. When it takes longer, or the child dies in it, the arm is blamed in the
session's journal, and the next child goes on without it. The parent has neither torch nor a context on the GPU.
"""

from frugal.jobs.job import Job
from frugal.jobs.parent import measure

__all__ = ["Job", "measure"]
