"""Reads lists of devices: CSV with a heading, one device a line. What is allowed in names is judged elsewhere."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, TextIO

from mqttprov.core.limits import MAX_PEM_CHARS
from mqttprov.core.names import InvalidName
from mqttprov.core.requests import SuppliedCertificate
from mqttprov.responder.device_import import ImportLine, LineFault

COLUMNS: Final = ("name", "profile", "owner", "labels", "certificate", "public_key", "claim_secret")


def read_devices(file: TextIO, folder: Path, *, profile: str | None, now_ms: int) -> Iterator[ImportLine | LineFault]:
    """Read a list line by line; `profile` is for lines that name none.

    A `file` opened with `surrogateescape` lets lines that are not UTF-8 be faults of their own. `certificate` and
    `public_key` name a PEM file, relative to `folder`; labels are written `k=v;k=v`. Raises `InvalidName` at once when
    the heading is not one of ours.
    """
    rows = csv.reader(file)
    heading = next(rows, [])
    unknown = [column for column in heading if column not in COLUMNS]
    if unknown or "name" not in heading or len(set(heading)) < len(heading):
        what = f"column {unknown[0][:40]!r}" if unknown else "heading"
        raise InvalidName(f"this {what} cannot be used; the columns are: name, and any of {', '.join(COLUMNS[1:])}")
    return _lines(rows, heading, folder, profile, now_ms)


def _lines(
    rows: Iterator[list[str]], heading: list[str], folder: Path, profile: str | None, now_ms: int
) -> Iterator[ImportLine | LineFault]:
    number = 1
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield LineFault(number + 1, f"this is not CSV: {error}")
            return
        number = rows.line_num  # type: ignore[attr-defined] # every csv.reader has it; there is no name for its type
        if not row:
            continue
        if len(row) != len(heading):
            yield LineFault(number, f"it has {len(row)} fields instead of {len(heading)}")
            continue
        try:
            "".join(row).encode()
        except UnicodeEncodeError:
            yield LineFault(number, "it holds bytes that are not UTF-8")
            continue
        try:
            yield _line(number, {k: v for k, v in zip(heading, row, strict=True) if v}, folder, profile, now_ms)
        except InvalidName as error:
            yield LineFault(number, str(error))


def _line(number: int, fields: Mapping[str, str], folder: Path, profile: str | None, now_ms: int) -> ImportLine:
    wanted = fields.get("profile") or profile
    if wanted is None:
        raise InvalidName("it names no profile; fill the column 'profile' or give --profile for all such lines")
    if "certificate" in fields and "public_key" in fields:
        raise InvalidName("it names both a certificate and a public key; the certificate is enough")
    path, key_path = fields.get("certificate"), fields.get("public_key")
    certificate = None if path is None else _certificate(folder / path, now_ms)
    public_key = None if key_path is None else _public_key(folder / key_path)
    return ImportLine(
        number,
        fields.get("name", ""),
        wanted,
        fields.get("owner"),
        _labels(fields.get("labels", "")),
        fields.get("claim_secret"),
        certificate.public_key if certificate else public_key,
    )


def _labels(text: str) -> dict[str, str]:
    labels: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in text.split(";"))):
        key, equals, value = pair.partition("=")
        if not equals or key in labels:
            raise InvalidName(f"label {pair[:40]!r} cannot be used; write k=v;k=v with each key once")
        labels[key] = value
    return labels


def _certificate(path: Path, now_ms: int) -> SuppliedCertificate:
    from mqttprov.pki.inspect import BadCertificate, inspect_certificate  # noqa: PLC0415 - X.509 takes long to load

    try:
        return inspect_certificate(_text(path, "certificate"), now_ms)
    except BadCertificate as error:
        raise InvalidName(f"the certificate {path.name!r} cannot be used: {error}") from error


def _public_key(path: Path) -> str:
    from mqttprov.pki.inspect import BadCertificate, inspect_public_key  # noqa: PLC0415 - the same

    try:
        return inspect_public_key(_text(path, "public key"))
    except BadCertificate as error:
        raise InvalidName(f"the public key {path.name!r} cannot be used: {error}") from error


def _text(path: Path, what: str) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(MAX_PEM_CHARS + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidName(f"the {what} {path.name!r} cannot be read: {error}") from error
