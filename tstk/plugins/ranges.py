"""Types of options with a range: `dim: PositiveInt = 128`, `depth: Depth = 3`, `dropout: Fraction = 0.1`.

They are plain `Annotated` types; a component may use any range: `Annotated[float, Gt(0), Le(1)]`. The type of an option
that names an entry of the registry is `Annotated[str, NameOf("masking")]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt


@dataclass(frozen=True)
class NameOf:
    """Annotation of an option whose value is the name of an entry of `kind`."""

    kind: str


PositiveInt = Annotated[int, Ge(1)]
Depth = Annotated[int, Ge(0), Le(1000)]
MaskCount = Annotated[int, Ge(1), Le(64)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Lt(1)]
Ratio = Annotated[float, Gt(0), Lt(1)]
MaskingName = Annotated[str, NameOf("masking")]
