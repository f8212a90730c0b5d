"""Choose channels of a file by name: those of --channel-columns, without those of --drop-columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tstk.data.columns import OPTIONS, ColumnRoles
from tstk.errors import DataError, did_you_mean


def choose_channels(
    names: Sequence[str], roles: ColumnRoles, source: str, other_names: Collection[str] = ()
) -> list[int] | None:
    """Return the indices of the channels to read, in the order of --channel-columns; None if these are all.

    Args:
        names: C names
        roles: of which `channels` and `drop` choose
        source: the file, for messages
        other_names: what --drop-columns may name besides channels, such as arrays

    Raises:
        DataError: a name is unknown or occurs twice, or no channel is left
    """
    given_channels = tuple(n for n in roles.channels if n in names or "channels" not in roles.optional)
    for role, given, known in (
        ("channels", given_channels, set(names)),
        ("drop", () if "drop" in roles.optional else roles.drop, {*names, *other_names}),
    ):
        for name in given:
            if name not in known:
                kind = "channel or array" if role == "drop" and other_names else "channel"
                raise DataError(
                    f"{source}: {OPTIONS[role]} {name}: no {kind} of this name; the channels are {', '.join(names)}."
                    f"{did_you_mean(name, known)}",
                    OPTIONS[role],
                    name,
                )
            if names.count(name) > 1:
                raise DataError(f"{source}: {OPTIONS[role]} {name}: several channels have this name; rename them")
    dropped = set(roles.drop) & set(names)
    if not given_channels and not dropped:
        return None
    indices = [names.index(name) for name in given_channels] if given_channels else list(range(len(names)))
    indices = [i for i in indices if names[i] not in dropped]
    if not indices:
        raise DataError(f"{source}: no channel is left; choose at least one of {', '.join(names)}")
    return indices


def describe_choice(names: Sequence[str], indices: Sequence[int] | None) -> list[str]:
    """Return a note on the channels that were chosen, if some were left out."""
    if indices is None:
        return []
    return [f"{len(indices)} of {len(names)} channels: {', '.join(names[i] for i in indices)}"]
