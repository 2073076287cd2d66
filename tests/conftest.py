"""For all tests: one thread to compute with, and no time limit for an example of Hypothesis, which would say
something of the machine, nothing of us."""

import os

from hypothesis import settings

# Before torch is imported; child processes inherit it. Tests' networks are too small to be divided, and
# threads that wait for each other spin: beside other work, a training of a second takes half a minute.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
