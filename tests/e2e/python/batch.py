"""Reads a batch by the formulas in batch.proto's head, written down anew: no code of the relay's or the client's."""

import struct

_MASK = (1 << 64) - 1


def _signed(value):
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _times(times):
    unit = times.unit_us or 1
    if times.runs:
        deltas = [delta for delta, run in zip(times.deltas, times.runs, strict=True) for _ in range(run)]
    else:
        deltas = list(times.deltas)
    if times.count == 0:
        return []
    at = [times.first]
    for delta in deltas:
        at.append(at[-1] + delta)
    if len(at) != times.count:
        raise ValueError(f"{times.count} readings, but {len(deltas)} deltas")
    return [value * unit for value in at]


def _integers(deltas, factor):
    values, total = [], 0
    for delta in deltas:
        total = (total + delta) & _MASK
        values.append(_signed(total * (factor or 1)))
    return values


def _double(value):
    return struct.pack(">d", value).hex()


def _values(column):
    """Type and values as text that compares exactly: doubles as the hexadecimal digits of their bits."""
    kind = column.WhichOneof("values")
    if kind == "scaled":
        scaled = column.scaled
        divisor = float(10**scaled.scale)
        values = [float(mantissa) / divisor for mantissa in _integers(scaled.deltas, scaled.factor)]
        for at, value in zip(scaled.exception_at, scaled.exceptions, strict=True):
            values[at] = value
        return "f64", [_double(value) for value in values]
    if kind == "doubles":
        return "f64", [_double(value) for value in column.doubles.values]
    if kind == "ints":
        return "i64", [str(value) for value in _integers(column.ints.deltas, column.ints.factor)]
    if kind == "bools":
        return "bool", ["true" if value else "false" for value in column.bools.values]
    if kind == "strings":
        return "string", [column.strings.dictionary[index] for index in column.strings.indices]
    raise ValueError(f"column {column.metric!r} has no values")


def readings(batch):
    """{metric: {"type", "unit", "readings": [[microseconds, value as text], …]}}"""
    columns = {}
    times = [_times(entry) for entry in batch.times]
    for column in batch.columns:
        if column.metric in columns:
            raise ValueError(f"two columns of {column.metric!r}")
        kind, values = _values(column)
        columns[column.metric] = {
            "type": kind,
            "unit": column.unit,
            "readings": [[str(at), value] for at, value in zip(times[column.times], values, strict=True)],
        }
    return columns
