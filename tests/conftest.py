"""What a test takes says something of the machine, nothing of us: as little as possible of it, then."""

import os

from hypothesis import settings

# Before torch is imported, and for child processes, too. Tests' networks are too small to share out, and
# threads that wait for each other spin: beside other work, a training of a second takes half a minute.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
