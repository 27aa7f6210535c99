"""Every loss of the library with its specification: a few lines on Python lists, written from its paper."""

from __future__ import annotations

from metriczoo.testing.subject import Subject
from metriczoo.testing.zoo import _classes, _instances, _others, _pairs, _ranking, _sets

__all__ = ["ZOO"]

_PARTS = (_pairs, _sets, _ranking, _classes, _instances, _others)

#: Each loss under the settings that matter.
ZOO: list[Subject] = [subject for part in _PARTS for subject in part.SUBJECTS]
