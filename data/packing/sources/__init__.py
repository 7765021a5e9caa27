"""What `data.pack` reads: one class per kind of source, all with the same small protocol.

A source knows how many samples it has, which split and class each belongs to, and reads one by its number, in any
order and from several processes.
"""

from __future__ import annotations

from data.packing.sources.base import KINDS, Raw, SkipSampleError, Source, open_source, source_class

__all__ = ["KINDS", "Raw", "SkipSampleError", "Source", "open_source", "source_class"]
