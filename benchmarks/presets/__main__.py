"""How each loss is trained, and where the values are from: `python -m benchmarks.presets --help`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.command.arguments import Parser, any_of, exit_status, one_of, several_of
from benchmarks.presets import LEFT_OUT, LETTERS, Preset, presets_of
from benchmarks.presets.files import fields_of
from benchmarks.presets.photographs import PHOTOGRAPHS
from benchmarks.presets.preset import values_in_words
from metriczoo.data import DATASETS

__all__ = ["Line", "lines", "main"]

_PROTOCOLS = ("finetune", "frozen")
_REST = "all others"
_WIDTH = 150  # where nobody looks at a terminal


@dataclass(frozen=True)
class Line:
    """A preset, and where it holds."""

    loss: str
    protocol: str
    datasets: str
    preset: Preset


def main(arguments: Sequence[str] | None = None) -> int:
    """List presets. Returns the exit status: 0, or 2 where options are at fault."""
    options = _parse(arguments)
    return exit_status(lambda: _show(options))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m benchmarks.presets", description="How the benchmarks train each loss, and where the values are from.")
    add = parser.add_argument
    add("--loss", dest="losses", type=several_of(LETTERS, "loss"), metavar="NAME[,NAME...]", help="these losses only (default: all)")
    add("--dataset", type=one_of(DATASETS), metavar="NAME", help=f"what holds for {any_of(DATASETS)} (default: for each)")
    add("--protocol", type=one_of(_PROTOCOLS), metavar="NAME", help=f"{any_of(_PROTOCOLS)} (default: both)")
    add("--json", action="store_true", help="all that is known, as JSON: with the records of searches, and what papers trained with")
    return parser.parse(arguments)


def _show(options: argparse.Namespace) -> None:
    found = [line for line in lines(options.protocol, options.dataset) if options.losses is None or line.loss in options.losses]
    if options.json:
        print(json.dumps([_as_json(line) for line in found], indent=2))
        return
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    console.print(_table(found))
    if options.losses is None:
        console.print(f"{len({line.loss for line in found})} losses. Public in metriczoo.losses, and not here:", highlight=False)
        for name, reason in sorted(LEFT_OUT.items()):
            console.print(f"  {name}: {reason}", highlight=False, soft_wrap=True)


def lines(protocol: str | None = None, dataset: str | None = None) -> Iterator[Line]:
    """Presets by loss: those of a protocol, or of all; those that hold for a data set, or for any."""
    protocols = _PROTOCOLS if protocol is None else (protocol,)
    for loss in LETTERS:
        for of_protocol in protocols:
            yield from _of_loss(loss, of_protocol, dataset)


def _of_loss(loss: str, protocol: str, dataset: str | None) -> Iterator[Line]:
    if dataset is not None:
        yield Line(loss, protocol, dataset, presets_of(protocol, dataset)[loss])
        return
    general = presets_of(protocol)[loss]
    special: Mapping[str, Preset] = {name: presets_of(protocol, name)[loss] for name in PHOTOGRAPHS}
    special = {name: preset for name, preset in special.items() if preset != general}
    yield Line(loss, protocol, _REST if special else "all", general)
    for name, preset in special.items():
        yield Line(loss, protocol, name, preset)


def _as_json(line: Line) -> dict[str, Any]:
    where = {"loss": line.loss, "protocol": line.protocol, "datasets": line.datasets}
    return {**where, "references": line.preset.references, **fields_of(line.preset)}


def _table(found: Sequence[Line]) -> Table:
    caption = (
        "Hyper-parameters that are not shown are the defaults of the library. rate: learning rates, as a multiple of those of the recipe; "
        "proxy_rate: of proxies, as a multiple of that of the head; length: of the raw output of the head that the loss sees."
    )
    table = Table(caption=caption, caption_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading, fixed in (("Loss", True), ("Protocol", True), ("Data", True), ("Values", False), ("Source", False)):
        table.add_column(heading, no_wrap=fixed)
    before = ""
    for line in found:
        source = line.preset.source
        name = "" if line.loss == before else line.loss
        table.add_row(name, line.protocol, line.datasets, values_in_words(line.preset), f"{source.kind}: {source.text}")
        before = line.loss
    return table


if __name__ == "__main__":
    sys.exit(main())
