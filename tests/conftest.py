"""How long an example of Hypothesis takes says something of the machine, nothing of us."""

from hypothesis import settings

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
