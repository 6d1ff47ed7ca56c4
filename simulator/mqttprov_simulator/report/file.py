"""Results as files: JSON of one form, written whole or not at all; HdrHistogram's text for other plotters."""

from pathlib import Path
from typing import Final

import msgspec

from mqttprov.responder.state_files import write_whole
from mqttprov_simulator.histogram import Buckets, Histogram, highest_of
from mqttprov_simulator.report.result import FORMAT, RunResult

_MAX_BYTES: Final = 512 * 2**20
_READABLE: Final = 0o644  # no secret is in it (P6)


class ResultError(ValueError):
    """A file is no result that can be read; the text says which, why and what to do."""


class _Form(msgspec.Struct):
    format: int


def write_result(path: Path, result: RunResult) -> None:
    """Write a result; the same result gives the same bytes. Raises OSError."""
    content = msgspec.json.encode(msgspec.to_builtins(result, str_keys=True), order="deterministic")
    write_whole(path, content + b"\n", mode=_READABLE)


def read_result(path: Path) -> RunResult:
    """Read a result. Raises ResultError for anything else, and OSError if there is no such file."""
    if path.stat().st_size > _MAX_BYTES:
        raise ResultError(f"{path} holds more than {_MAX_BYTES // 2**20} MiB; that is no result of a run")
    content = path.read_bytes()
    try:
        form = msgspec.json.decode(content, type=_Form)
        if form.format != FORMAT:
            raise ResultError(
                f"{path} is a result of format {form.format}, this program reads format {FORMAT}; "
                "use the mqttprov that wrote it, or run the scenario again"
            )
        result = msgspec.json.decode(content, type=RunResult)
        for buckets in (*result.histograms.values(), *(b for s in result.seconds for b in (s.latency, s.login))):
            Histogram.of(buckets)
    except msgspec.ValidationError as error:
        raise ResultError(f"{path} is no result of 'mqttprov swarm run --out': {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        cut_off = content[:1] == b"{" and not content.rstrip().endswith(b"}")
        why = "ends in the middle: it was cut off; copy it again" if cut_off else "is no result: it is no JSON"
        raise ResultError(f"{path} {why} ({error})") from error
    except ValueError as error:
        raise error if isinstance(error, ResultError) else ResultError(f"{path}: {error}") from error
    return result


def hgrm(buckets: Buckets) -> str:
    """Give a histogram as HdrHistogram's percentile text (.hgrm), in milliseconds, for its plotters."""
    total, so_far = sum(buckets.values()), 0
    lines = [f"{'Value':>12} {'Percentile':>14} {'TotalCount':>10} {'1/(1-Percentile)':>14}", ""]
    for bucket in sorted(buckets):
        so_far += buckets[bucket]
        left = 1 - so_far / total
        odds = f"{1 / left:14.2f}" if so_far < total else f"{'inf':>14}"
        lines.append(f"{highest_of(bucket) / 1000:12.3f} {so_far / total:2.12f} {so_far:10d} {odds}")
    return "\n".join([*lines, f"#[Total count    = {total:12d}]", ""])
