"""Records: what is learned from and measured on. Nine kinds, checked readers, and converters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from truing._lazy import lazy

if TYPE_CHECKING:
    from truing.records.checking import Report as Report
    from truing.records.checking import check_file as check_file
    from truing.records.checking import convert_file as convert_file
    from truing.records.converters import FORMATS as FORMATS
    from truing.records.converters import from_trl as from_trl
    from truing.records.converters import to_trl as to_trl
    from truing.records.kinds import KINDS as KINDS
    from truing.records.kinds import RowError as RowError
    from truing.records.kinds import recognise as recognise
    from truing.records.reading import as_records as as_records
    from truing.records.reading import read as read
    from truing.records.reading import stream as stream
    from truing.records.records import Records as Records
    from truing.records.writing import write as write

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "Records": "truing.records.records",
        "KINDS": "truing.records.kinds",
        "RowError": "truing.records.kinds",
        "recognise": "truing.records.kinds",
        "read": "truing.records.reading",
        "stream": "truing.records.reading",
        "as_records": "truing.records.reading",
        "write": "truing.records.writing",
        "to_trl": "truing.records.converters",
        "from_trl": "truing.records.converters",
        "FORMATS": "truing.records.converters",
        "check_file": "truing.records.checking",
        "convert_file": "truing.records.checking",
        "Report": "truing.records.checking",
    },
)
