"""The base of models that are stored as JSON."""

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """Immutable; rejects unknown fields, and NaN and infinity, which JSON lacks."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
