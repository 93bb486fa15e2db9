"""`jfusion embed`: paragraphs to features."""

from __future__ import annotations

from jfusion.text.features import Options, embed

__all__ = ["Options", "run"]


def run(options: Options) -> int:
    """Writes the features, and prints how many are new."""
    result = embed(options)
    record, total = result.record, len(result.record.texts)
    length = record.length or "their own number of"
    print(f"{result.folder}: {total} features of {record.encoder}, {length} tokens x {record.dim}")
    print(f"  {result.written} new, {total - result.written} up to date")
    if result.cut:
        print(f"  {result.cut} paragraphs are longer than {record.max_length} tokens and were cut")
    return 0
