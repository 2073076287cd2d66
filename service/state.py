"""The states of the service and of each product version."""

from typing import Literal

State = Literal["STARTING", "READY", "DRAINING", "FAILED"]
