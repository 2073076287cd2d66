"""What is written to a file as JSON and read back: nothing unknown, nothing that JSON has no number for."""

from pydantic import BaseModel, ConfigDict


class Facts(BaseModel):
    """The base of all such models."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
