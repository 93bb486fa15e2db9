"""The system that fuses a task."""

from __future__ import annotations

from types import SimpleNamespace

from jfusion import inference
from jfusion.fusing.method import Method


def test_a_network_that_serves_several_tasks_is_told_the_task(monkeypatch):
    told = []

    def load(path, content, name, settings, partial, attributes):
        told.append(attributes)
        return SimpleNamespace(neutral_text=None)

    monkeypatch.setattr(inference, "from_checkpoint", load)
    Method("lfdt", None, {"model": {}}).build(task="MFF")
    assert told == [{"task": "MFF"}]
