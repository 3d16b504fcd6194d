"""The default of the axis `intervene`."""

from dataclasses import dataclass

from decoding import SteeringMethod
from icl import component


@component("intervention", "none")
@dataclass(frozen=True)
class NoIntervention(SteeringMethod):
    """No intervention: nothing is attached to the model."""

    @property
    def config(self) -> None:
        """None, so that cells without an intervention have the digests that they had before there were any."""
